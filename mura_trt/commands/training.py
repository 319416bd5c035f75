"""Synthetic archives, and training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mura_trt.commands.shared import Overwrite
from mura_trt.commands.streams import answer, say


def demo(
    archive: Annotated[Path, typer.Argument(help="Folder to make.")],
    studies: Annotated[int, typer.Option(help="How many studies in valid/.")] = 200,
    train_studies: Annotated[int, typer.Option(help="How many studies of other patients in train/.")] = 0,
    seed: Annotated[int, typer.Option(help="The same seed draws the same archive.")] = 7,
    close_up: Annotated[
        float,
        typer.Option(help="Cut views to 1/N of height and width, about where a lesion is or could be."),
    ] = 1.0,
    lesion_shares: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Of abnormal studies: fractures, displaced ones, hardware.", show_default="0.31 0.21 0.48"),
    ] = None,
) -> None:
    """Draws a synthetic archive in MURA's layout. Not patients, and not for judging a real model."""
    from mura_trt.demo.archive import LESION_SHARES, DemoPlan, write_archive

    plan = DemoPlan(studies, seed, train_studies, close_up, lesion_shares or LESION_SHARES)
    views = write_archive(archive, plan)
    say(f"{views} views of {studies + train_studies} studies in {archive}")


def train(
    archive: Annotated[Path, typer.Argument(help="Folder or list in MURA's layout, its labels in the folders' names.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Safetensors file for the best weights.")],
    init: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint to start from, such as torchvision's for ImageNet.", show_default="random weights"
        ),
    ] = None,
    size: Annotated[int, typer.Option(help="Pixels, height and width; a multiple of 32.")] = 320,
    epochs: Annotated[int, typer.Option(help="Most epochs.")] = 30,
    epoch_views: Annotated[
        int | None, typer.Option(help="Views in an epoch, drawn anew for each.", show_default="all")
    ] = None,
    batch: Annotated[int, typer.Option(help="Views in a step.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Initial learning rate, of Adam.")] = 1e-4,
    rotation: Annotated[float, typer.Option(help="Largest random rotation, degrees.")] = 30.0,
    patience: Annotated[
        int,
        typer.Option(
            help="Epochs without a lower validation loss that are tolerated; the next one divides the learning rate by"
            " 10 (patience, as in PyTorch's ReduceLROnPlateau)."
        ),
    ] = 1,
    stop_after: Annotated[
        int, typer.Option(help="Epochs in a row without a lower validation loss that end the training.")
    ] = 5,
    keep: Annotated[int, typer.Option(help="How many epochs' weights are kept: those of lowest validation loss.")] = 5,
    validation_share: Annotated[
        float, typer.Option(help="Share of patients to validate on, where the archive has not both train/ and valid/.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the first weights, the split, the order and the augmentation.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32; mixed: fp16 (GPU) or bf16 (GPU, CPU with AVX512-BF16); auto: fp16 on a GPU.")
    ] = "auto",
    save_minutes: Annotated[float, typer.Option(help="Minutes between savings within an epoch.")] = 5.0,
    half: Annotated[bool, typer.Option("--half", help="Write half precision: 26 MB, not 51.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that has not ended; else begin.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Trains the network on labelled studies, as the MURA paper does."""
    from mura_trt.progress import Reporter
    from mura_trt.training.loop import train as run_training
    from mura_trt.training.options import TrainOptions

    options = TrainOptions(
        archive=archive,
        out=out,
        init=init,
        size=size,
        epochs=epochs,
        epoch_views=epoch_views,
        batch=batch,
        learning_rate=learning_rate,
        rotation=rotation,
        patience=patience,
        stop_after=stop_after,
        keep=keep,
        validation_share=validation_share,
        seed=seed,
        device=device,
        precision=precision,
        save_minutes=save_minutes,
        half=half,
        resume=resume,
        overwrite=overwrite,
    )
    with Reporter(sys.stderr) as reporter:
        found = run_training(options, reporter.show)
    say(
        f"epoch {found['best_epoch']} of {found['epochs']} is best; on the validation studies (95 % intervals):\n"
        f"AUROC {found['auroc']}, kappa {found['kappa']}\n"
        f"mean of those kept: AUROC {found['ensemble_auroc']}, kappa {found['ensemble_kappa']}\n"
        f"weights in {options.out}; epochs, curves and kept weights in {options.folder}"
    )


def demo_summary(
    archive: Annotated[Path, typer.Argument(help="Archive drawn by mura-trt demo.")],
    out: Annotated[Path, typer.Argument(help="Output folder of its scoring.")],
) -> None:
    """Compares a demo run's scores with what was drawn."""
    from mura_trt.demo.summary import summarise

    answer(summarise(archive, out))

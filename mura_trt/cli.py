"""The command line: parse, call, print. Every module that is slow to load is imported inside its command."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

import mura_trt
from mura_trt.errors import EXIT_DISAGREES, EXIT_ENVIRONMENT, EXIT_OK, MuraTrtError, UsageError

app = typer.Typer(
    name="mura-trt",
    help="Scores archives of bone X-rays: the probability that each study is abnormal. Not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Checkpoints = Annotated[
    list[Path],
    typer.Option(
        "--checkpoint",
        help="PyTorch (.pth, .pt) or safetensors file of a DenseNet-169 with one output; several make an ensemble.",
    ),
]
Checkpoint = Annotated[Path, typer.Argument(help="PyTorch (.pth, .pt) or safetensors file of a DenseNet-169.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run left there.")]


@contextmanager
def _errors_told() -> Iterator[None]:
    """Ends the program with one line and the error's exit code, where the error is one of ours."""
    try:
        yield
    except MuraTrtError as error:
        print(f"mura-trt: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error
    except ImportError as error:
        print(f"mura-trt: {error}; install the extra `build`, or `train` for training", file=sys.stderr)
        raise typer.Exit(EXIT_ENVIRONMENT) from error
    except OSError as error:  # a full disk, a folder that vanished; the error names the file
        print(f"mura-trt: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_ENVIRONMENT) from error


def _archive(named: str) -> Path | str:
    return named if "://" in named else Path(named)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(mura_trt.__version__)
        raise typer.Exit


@app.callback()
def main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what the libraries say, too.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of every command."""
    logging.basicConfig(
        stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING
    )
    logging.getLogger("mura_trt").setLevel(logging.DEBUG if verbose else logging.INFO)
    # A job that is told to stop ends as one that is interrupted does: with its worker, and with the signal's exit code.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


@app.command()
def export(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option("--out", "-o", help="ONNX file to write.")],
    precision: Annotated[str, typer.Option(help="fp32 or fp16; INT8 and FP8 need build-engine.")] = "fp32",
) -> None:
    """Exports a checkpoint to ONNX: raw gray pixels in; probability, logit and activation map out."""
    with _errors_told():
        import onnx

        from mura_trt.checkpoint import load_checkpoint
        from mura_trt.export import exported
        from mura_trt.precision import lower

        if precision not in ("fp32", "fp16"):
            raise UsageError(f"--precision {precision}: fp32 or fp16; INT8 and FP8 need build-engine")
        graph = exported(load_checkpoint(checkpoint))
        onnx.save(graph if precision == "fp32" else lower(graph), out)
        print(out)


@app.command("build-engine")
def build_engine(
    checkpoint: Checkpoints,
    recipe: Annotated[Path | None, typer.Argument(help="Recipe file, as in engines/*.toml.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The bundle's folder.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, fp16, int8 or fp8; without it, the recipe's.")] = None,
    builder: Annotated[str | None, typer.Option(help="auto, tensorrt, tensorrt-rtx or none.")] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            help="Archive whose views INT8 and FP8 are calibrated on, and any bundle is checked on; it names them."
        ),
    ] = None,
    calibration_method: Annotated[str | None, typer.Option(help="percentile or max.")] = None,
    calibration_views: Annotated[int | None, typer.Option(help="How many views to calibrate on [64].")] = None,
    uid_salt_file: Annotated[Path | None, typer.Option(help="As for score.")] = None,
    check: Annotated[bool, typer.Option(help="Compare the bundle with PyTorch, on 64 views.")] = True,
    overwrite: Overwrite = False,
) -> None:
    """Builds an engine bundle: ONNX graphs, TensorRT plan, and a manifest with the hash of each.

    Exit code 4: it was built, and misses a bound.
    """
    with _errors_told():
        from mura_trt.build import Recipe, build_bundle
        from mura_trt.progress import Reporter

        chosen = Recipe.read(recipe) if recipe else Recipe()
        if precision and precision != chosen.precision:
            chosen = chosen.in_precision(precision)
        given: dict[str, Any] = {
            "builder": builder,
            "calibration_method": calibration_method,
            "calibration_views": calibration_views,
        }
        chosen = replace(chosen, **{name: value for name, value in given.items() if value is not None})
        folder = out or Path("engines") / (recipe.stem if recipe and not precision else chosen.name)
        archive = _archive(calibrate) if calibrate else None
        with Reporter(sys.stderr) as reporter:
            bundle = build_bundle(
                checkpoint,
                chosen,
                folder,
                archive=archive,
                uid_salt_file=uid_salt_file,
                check=check,
                overwrite=overwrite,
                report=reporter.show,
            )
        print(bundle.folder)
    proof = bundle.manifest.parity
    raise typer.Exit(EXIT_DISAGREES if proof and not proof["kept"] else EXIT_OK)


@app.command()
def parity(
    bundle: Annotated[Path, typer.Argument(help="Engine bundle, made by build-engine.")],
    archive: Annotated[str, typer.Argument(help="Folder, zip, tar or list of X-rays, or the URL of one.")],
    checkpoint: Checkpoints,
    runtime: Annotated[
        str,
        typer.Option(help="auto, tensorrt, tensorrt_rtx, emulated (the plan's graph on a CPU), onnxruntime or torch."),
    ] = "auto",
    studies: Annotated[int | None, typer.Option(help="How many studies, evenly spaced [all].")] = None,
    bound: Annotated[list[str] | None, typer.Option(help="Another bound, such as model.dp_max=0.01.")] = None,
    batch: Annotated[int | None, typer.Option(help="Views in a batch [what suits the runtime].")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for parity.json and parity.png.")] = None,
    uid_salt_file: Annotated[Path | None, typer.Option(help="As for score.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Compares a bundle's scores with PyTorch's in FP32 on the CPU. Exit code 4: a bound is missed."""
    with _errors_told():
        from mura_trt.parity.bounds import parsed
        from mura_trt.parity.run import ParityOptions
        from mura_trt.parity.run import parity as run_parity
        from mura_trt.parity.tell import table
        from mura_trt.progress import Reporter

        options = ParityOptions(
            bundle=bundle,
            archive=_archive(archive),
            checkpoints=checkpoint,
            runtime=runtime,
            studies=studies,
            changes=parsed(bound or ()),
            batch=batch,
            out=out,
            uid_salt_file=uid_salt_file,
        )
        with Reporter(sys.stderr) as reporter:
            judgement, found = run_parity(options, reporter.show)
    head = (
        f"{found['name']} ({found['precision']}) with {found['runtime']} on {found['device']}: {found['views']} views"
    )
    print(json.dumps(found, indent=2) if as_json else f"{head}\n{table(judgement)}")
    raise typer.Exit(EXIT_DISAGREES if judgement.missed else EXIT_OK)


@app.command()
def score(
    archive: Annotated[str, typer.Argument(help="Folder, zip, tar or list of X-rays, or the URL of one.")],
    engine: Annotated[Path, typer.Option(help="Engine bundle, made by build-engine.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    runtime: Annotated[
        str, typer.Option(help="auto, tensorrt, tensorrt_rtx, onnxruntime, emulated, torch or null.")
    ] = "auto",
    threshold: Annotated[float, typer.Option(help="Abnormal is a mean strictly above this.")] = 0.5,
    study_depth: Annotated[
        int | None, typer.Option(help="A study is the first so many parts of a view's path [its folder].")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="For a list: the folder its relative paths start from.")] = None,
    batch: Annotated[int | None, typer.Option(help="Views in a batch [what suits the runtime].")] = None,
    shard_views: Annotated[int | None, typer.Option(help="Views in a commit [256 on a CPU, 2048 on a GPU].")] = None,
    table_format: Annotated[str, typer.Option("--format", help="csv or parquet.")] = "csv",
    keep_paths: Annotated[
        bool, typer.Option("--keep-paths", help="Of DICOM files: paths in tables, not hashes.")
    ] = False,
    keep_uids: Annotated[bool, typer.Option("--keep-uids", help="Likewise UIDs.")] = False,
    uid_salt_file: Annotated[
        Path | None, typer.Option(help="Keys the hashes; made where it is not [~/.config/mura-trt/uid-salt].")
    ] = None,
    null_ms: Annotated[float, typer.Option(help="Milliseconds a batch takes the null runtime.")] = 0.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out; else begin.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="As --resume, and try the views again that have failed.")
    ] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Score what is new, changed or failed since the run in --out; else begin.")
    ] = False,
    overwrite: Overwrite = False,
    allow_unproven: Annotated[
        bool,
        typer.Option("--allow-unproven", help="Score with a bundle that disagrees with PyTorch or was not compared."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what there is, and by a sample how long it would take.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run's summary as JSON.")] = False,
) -> None:
    """Scores every study of an archive. Exit code 0: all views scored; 3: some failed, see failures.csv."""
    with _errors_told():
        from mura_trt.progress import Reporter
        from mura_trt.score import ScoreOptions
        from mura_trt.score import dry_run as run_dry
        from mura_trt.score import score as run_score

        options = ScoreOptions(
            archive=_archive(archive),
            engine=engine,
            out=out,
            runtime=runtime,
            batch=batch,
            shard_views=shard_views,
            threshold=threshold,
            study_depth=study_depth,
            root=root,
            table_format=table_format,
            keep_paths=keep_paths,
            keep_uids=keep_uids,
            uid_salt_file=uid_salt_file,
            overwrite=overwrite,
            resume=resume,
            retry_failed=retry_failed,
            update=update,
            null_ms=null_ms,
            allow_unproven=allow_unproven,
        )
        if dry_run:
            found = run_dry(options)
            print(json.dumps(found, indent=2) if as_json else _forecast(found))
            raise typer.Exit
        with Reporter(sys.stderr) as reporter:
            run = run_score(options, reporter.update)
    print(json.dumps(run, indent=2) if as_json else _summary(run))
    raise typer.Exit(run["exit_code"])


def _forecast(found: dict[str, Any]) -> str:
    from mura_trt.progress import clock

    formats = ", ".join(f"{count} {suffix}" for suffix, count in found["formats"].items())
    others = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in found["ignored_files"].items())
    predicted = "no telling" if found["predicted_s"] is None else clock(found["predicted_s"])
    return (
        f"{found['studies']} studies, {found['listed']} views ({formats}); other files: {others or 'none'}\n"
        f"{found['views_per_s']:.2f} views/s with {found['runtime']} on a sample of {found['sampled']} views, of which"
        f" {found['sample_failed']} failed: {predicted} for all; nothing was written"
    )


def _summary(run: dict[str, Any]) -> str:
    failed = f", {run['failed']} failed (see {run['out']}/failures)" if run["failed"] else ""
    from mura_trt.runtimes import OWN_RUNTIMES

    bundle = run["bundle"]
    return (
        f"{run['studies']} studies, {run['listed']} views: {run['scored']} scored{failed}\n"
        f"{run['views_per_s']:.2f} views/s with {run['runtime']}, {run['wall_s']} s in all;"
        f" engine {bundle['name']}; results in {run['out']}\n"
        f"{'its plan' if run['runtime'] in OWN_RUNTIMES else 'its plan, not used here,'} ({bundle['precision']})"
        f" against PyTorch in FP32: {bundle['parity']}"
    )


@app.command()
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
        typer.Option(help="Of abnormal studies: fractures, displaced ones, hardware [0.31 0.21 0.48]."),
    ] = None,
) -> None:
    """Draws a synthetic archive in MURA's layout. Not patients, and not for judging a real model."""
    with _errors_told():
        from mura_trt.demo.archive import LESION_SHARES, DemoPlan, write_archive

        plan = DemoPlan(studies, seed, train_studies, close_up, lesion_shares or LESION_SHARES)
        views = write_archive(archive, plan)
        print(f"{views} views of {studies + train_studies} studies in {archive}")


@app.command()
def train(
    archive: Annotated[Path, typer.Argument(help="Folder or list in MURA's layout, its labels in the folders' names.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Safetensors file for the best weights.")],
    init: Annotated[
        Path | None, typer.Option(help="Checkpoint to start from, as torchvision's ImageNet one [random weights].")
    ] = None,
    size: Annotated[int, typer.Option(help="Pixels, height and width; a multiple of 32.")] = 320,
    epochs: Annotated[int, typer.Option(help="At the most.")] = 30,
    epoch_views: Annotated[int | None, typer.Option(help="Views in an epoch, drawn anew for each [all].")] = None,
    batch: Annotated[int, typer.Option(help="Views in a step.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Adam's, at first.")] = 1e-4,
    rotation: Annotated[float, typer.Option(help="Degrees that a view is turned at the most.")] = 30.0,
    patience: Annotated[
        int, typer.Option(help="Epochs without a lower validation loss before the learning rate is divided by 10.")
    ] = 1,
    stop_after: Annotated[int, typer.Option(help="Epochs without a lower validation loss before the end.")] = 5,
    keep: Annotated[int, typer.Option(help="Epochs whose weights are kept.")] = 5,
    validation_share: Annotated[
        float, typer.Option(help="Of patients, where the archive has not both train/ and valid/.")
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
    with _errors_told():
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
    print(
        f"epoch {found['best_epoch']} of {found['epochs']} is best; on the validation studies (95 % intervals):\n"
        f"AUROC {found['auroc']}, kappa {found['kappa']}\n"
        f"mean of those kept: AUROC {found['ensemble_auroc']}, kappa {found['ensemble_kappa']}\n"
        f"weights in {options.out}; epochs, curves and kept weights in {options.folder}"
    )


@app.command("demo-summary")
def demo_summary(
    archive: Annotated[Path, typer.Argument(help="Archive drawn by mura-trt demo.")],
    out: Annotated[Path, typer.Argument(help="Output folder of its scoring.")],
) -> None:
    """Compares a demo run's scores with what was drawn."""
    with _errors_told():
        from mura_trt.demo.summary import summarise

        print(summarise(archive, out))

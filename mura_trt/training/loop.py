"""Training from end to end: catalogue, pixels, epochs, and what is left when the run has ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from mura_trt.checkpoint import load_checkpoint, save_checkpoint
from mura_trt.cores import usable_cores
from mura_trt.errors import EnvironmentProblem
from mura_trt.metrics import auroc, cohen_kappa
from mura_trt.model import MuraNet
from mura_trt.training.catalogue import read_catalogue
from mura_trt.training.folder import TrainingFolder
from mura_trt.training.options import TrainOptions
from mura_trt.training.run import Run
from mura_trt.training.views import load_views

logger = logging.getLogger(__name__)


def train(options: TrainOptions, report: Callable[[str], None]) -> dict[str, Any]:
    """Trains, and writes the best weights to ``options.out``; the folder beside it holds the rest.

    There lie ``log.csv``, ``curves.png``, ``skipped.csv`` (views that could not be read), ``validation.csv`` (the
    validation studies' probabilities by the best weights and by the mean of those kept) and the kept weights,
    ``epoch-NNN.safetensors``. While the run goes on, also its state and the decoded pixels.

    Sets, for the process, PyTorch's threads to the usable cores, and denormal numbers to flush to zero.

    Parameters
    ----------
    options
        The run.
    report
        Called with a line on the progress, at every step.

    Returns
    -------
    dict
        ``epochs`` done, ``best_epoch``, and of the validation studies ``auroc``, ``kappa``, ``ensemble_auroc``,
        ``ensemble_kappa`` as :class:`mura_trt.metrics.Estimate`.

    Raises
    ------
    ImportError
        The extra ``train`` is not installed.
    UsageError
        The archive, the checkpoint or the output cannot be used.
    MuraTrtError
        The device is missing, or training diverged.
    """
    import matplotlib.figure  # noqa: F401  where it is missing, that is told before an epoch is spent
    import torch

    device = _device(options)
    # Before anything runs in parallel: threads that are there already would keep their mode. Adam's moments of weights
    # that no longer move decay into denormal numbers, which CPUs compute slowly.
    torch.set_num_threads(usable_cores())
    torch.set_flush_denormal(True)
    catalogue = read_catalogue(options.archive, options.validation_share, options.seed)
    model = first_model(options)
    recipe = options.recipe(catalogue.fingerprint(options.size))
    folder = TrainingFolder(options)
    folder.open(recipe)
    views = load_views(
        catalogue, options.size, folder.path, lambda done, total: report(f"decoded {done} of {total} views")
    )
    run = Run(options, folder, views, model, device)
    if folder.state.exists():
        run.restore()
        logger.info("going on from epoch %d, step %d", run.at.epoch + 1, run.at.step + 1)
    logger.info("training on %d views, validating on %d, on %s", len(views.train), len(views.valid), run.device.type)
    while not run.finished:
        row = run.end_epoch(run.train_epoch(report))
        logger.info("%s", row)
    return _finish(run, recipe)


def _device(options: TrainOptions) -> str:
    import torch

    if options.device != "cpu" and torch.cuda.is_available():
        return "cuda"
    if options.device == "cuda":
        raise EnvironmentProblem("--device cuda: PyTorch finds no GPU here; see nvidia-smi, or leave the option out")
    if options.precision == "fp16":
        raise EnvironmentProblem("--precision fp16: training in it takes a GPU; choose bf16, or leave the option out")
    return "cpu"


def first_model(options: TrainOptions) -> MuraNet:
    """The network that training starts from; its head is random where the checkpoint has none of one output."""
    import torch
    from torch import nn

    torch.manual_seed(options.seed)
    if options.init is not None:
        return load_checkpoint(options.init, new_head=True)
    logger.warning(
        "no --init: starting from random weights, which takes far more data and epochs than starting from ImageNet's"
    )
    model = MuraNet()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return model


def _finish(run: Run, recipe: dict[str, str]) -> dict[str, Any]:
    """Writes the best weights and the validation studies' probabilities; removes what only a going run needs."""
    import pandas as pd

    options, folder, views, at = run.options, run.folder, run.views, run.at
    run.write_records()  # a run that was killed behind its last epoch has not
    best = at.best(1)[0]
    labels, alone = run.study_labels(), np.array(at.probabilities[best])
    together = np.mean(list(at.probabilities.values()), axis=0)
    studies, first = np.unique(views.listing.study_of[views.valid], return_index=True)
    pd.DataFrame(
        {
            "study": views.listing.study_names(studies),
            "body_part": views.parts[views.valid[first]],
            "label": labels,
            "probability": alone,
            "ensemble": together,
        }
    ).to_csv(folder.validation, index=False, float_format="%.6f")
    told = ", ".join(f"{name} {value}" for name, value in recipe.items())
    note = f"epoch {best}, the best of {at.epoch}; {told}"
    save_checkpoint(load_checkpoint(folder.weights(best)), options.out, note, half=options.half)
    folder.remove_scratch()
    return {
        "epochs": at.epoch,
        "best_epoch": best,
        "auroc": auroc(labels, alone),
        "kappa": cohen_kappa(labels, alone > 0.5),
        "ensemble_auroc": auroc(labels, together),
        "ensemble_kappa": cohen_kappa(labels, together > 0.5),
    }

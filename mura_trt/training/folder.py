"""A training run's folder: begun, taken up again or refused; records for people, and scratch that goes at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mura_trt.errors import UsageError
from mura_trt.recipe import RECIPE, check_recipe, note_recipe
from mura_trt.training.options import TrainOptions
from mura_trt.training.record import Epoch, draw_curves, write_log
from mura_trt.training.views import PIXELS, PIXELS_OF, SKIPPED

LOG, CURVES, VALIDATION, STATE = "log.csv", "curves.png", "validation.csv", "state.pt"
SCRATCH = (PIXELS, PIXELS_OF, STATE)  # gone when the run has ended, the state last


class TrainingFolder:
    """What a run needs on its way and what it leaves, in ``NAME-training/`` beside ``NAME.safetensors``."""

    def __init__(self, options: TrainOptions) -> None:
        self._options = options
        self.path = options.folder
        self.state = self.path / STATE
        self.validation = self.path / VALIDATION

    def open(self, recipe: dict[str, str]) -> None:
        """Makes the folder and notes the recipe there, or takes up a run of the same recipe.

        Raises
        ------
        UsageError
            The folder holds what must not be touched, or lies within the archive.
        """
        options, unfinished = self._options, self.state.exists()
        if options.archive.is_dir() and self.path.resolve().is_relative_to(options.archive.resolve()):
            raise UsageError(
                f"{self.path} lies inside the archive, where its pictures would count as views: choose another --out"
            )
        if options.overwrite:
            self._clear()
        elif unfinished and not options.resume:
            raise UsageError(
                f"{self.path} holds a run that has not ended: --resume goes on with it, --overwrite begins anew"
            )
        elif unfinished:
            check_recipe(self.path, recipe)
        elif (self.path / LOG).exists() or (options.out.exists() and not self._overwriting()):
            raise UsageError(
                f"{options.out} or the records in {self.path} are there already: --overwrite replaces them"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        if not options.resume:  # files that could not be read then may have been mended since
            (self.path / PIXELS).unlink(missing_ok=True)
        note_recipe(self.path, recipe)

    def _overwriting(self) -> bool:
        """A run that was to replace the weights was stopped before it kept its state, and is to go on."""
        return self._options.resume and (self.path / RECIPE).exists()

    def _clear(self) -> None:
        init = self._options.init
        if init and init.resolve() in self.path.resolve().glob("*"):
            raise UsageError(f"--init {init}: --overwrite would remove it; choose another --out")
        for pattern in ("epoch-*.safetensors", RECIPE, LOG, CURVES, VALIDATION, SKIPPED, *SCRATCH):
            for path in self.path.glob(pattern):
                path.unlink()

    def weights(self, epoch: int) -> Path:
        """The file of an epoch's weights; epochs count from 1."""
        return self.path / f"epoch-{epoch:03d}.safetensors"

    def write_records(self, epochs: Sequence[Epoch], best: Sequence[int]) -> None:
        """Writes the table and the picture of the epochs, and removes weights of others than the best."""
        kept = [self.weights(epoch) for epoch in best]
        for path in self.path.glob("epoch-*.safetensors"):
            if path not in kept:
                path.unlink()
        write_log(epochs, self.path / LOG)
        draw_curves(epochs, self.path / CURVES)

    def remove_scratch(self) -> None:
        """Removes what only a run under way needs."""
        for name in SCRATCH:
            (self.path / name).unlink(missing_ok=True)

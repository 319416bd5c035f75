"""The training run: epochs of steps, validation, the best weights kept, and a state from which it goes on."""

from __future__ import annotations

import io
import json
import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mura_trt.checkpoint import load_checkpoint, save_checkpoint
from mura_trt.cores import usable_cores
from mura_trt.errors import EnvironmentProblem, MuraTrtError, UsageError
from mura_trt.files import sha256_of, write_atomically
from mura_trt.metrics import auroc, cohen_kappa
from mura_trt.model import MuraNet
from mura_trt.training.augment import augment
from mura_trt.training.dataset import Views, load_views, read_catalogue
from mura_trt.training.losses import box_masks, location_loss
from mura_trt.training.record import Epoch, draw_curves, write_log

if TYPE_CHECKING:
    from torch import Tensor

VALID_BATCH = 32
# Of the location loss beside the paper's. It is what a network that starts from random weights learns from first: it
# compares positions of one view, and so is free of all that differs between views.
LOCATION_WEIGHT = 2.0
RECORDS = ("recipe.json", "log.csv", "curves.png", "validation.csv", "skipped.csv")
SCRATCH = ("pixels.npy", "state.pt")  # gone when the run has ended, the state last
LOSS_DECIMALS = 4
# Streams of random numbers of a run's seed. A step's numbers depend on seed, epoch and step only, so nothing random
# has to be saved for a run to go on as if it had never stopped.
ORDER, AUGMENT = range(2)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainOptions:
    """A training run; the defaults are the paper's where it says (Rajpurkar et al. 2018, section 3)."""

    archive: Path
    """Folder or list in MURA's layout."""
    out: Path
    """Safetensors file for the best weights; what a run needs on its way lies beside it, in ``NAME-training/``."""
    init: Path | None = None
    """Checkpoint to start from, with or without a head of one output; None starts from random weights."""
    boxes: Path | None = None
    """CSV of lesions' places; where a view has one, the activation map is trained to point there."""
    size: int = 320
    """Pixels, height and width; a multiple of 32."""
    epochs: int = 30
    """At the most."""
    epoch_views: int | None = None
    """Views in an epoch, drawn anew for each; None takes all."""
    batch: int = 8
    """Views in a step, at the most."""
    learning_rate: float = 1e-4
    """Adam's, at first."""
    rotation: float = 30.0
    """Degrees that a view is turned at the most."""
    patience: int = 1
    """Epochs without a lower validation loss that are borne; after one more the learning rate is divided by 10."""
    stop_after: int = 5
    """Epochs without a lower validation loss after which training ends."""
    keep: int = 5
    """How many epochs' weights are kept, those of the lowest validation losses."""
    validation_share: float = 0.1
    """Of patients, where the archive has not both ``train/`` and ``valid/``."""
    seed: int = 0
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``."""
    save_minutes: float = 5.0
    """Minutes between savings of the state within an epoch."""
    half: bool = False
    """Write ``out`` in half precision."""
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        checks = {
            f"--size {self.size}: a multiple of 32, 32 or more": self.size >= 32 and self.size % 32 == 0,
            f"--epochs {self.epochs}: 1 or more": self.epochs >= 1,
            f"--epoch-views {self.epoch_views}: 2 or more": self.epoch_views is None or self.epoch_views >= 2,
            f"--batch {self.batch}: 4 or more, for the batch norms": self.batch >= 4,
            f"--learning-rate {self.learning_rate}: a number above 0": 0 < self.learning_rate < math.inf,
            f"--rotation {self.rotation}: 0 to 180": 0 <= self.rotation <= 180,
            f"--patience {self.patience}: 0 or more": self.patience >= 0,
            f"--stop-after {self.stop_after}: 1 or more": self.stop_after >= 1,
            f"--keep {self.keep}: 1 or more": self.keep >= 1,
            f"--save-minutes {self.save_minutes}: 0 or more": self.save_minutes >= 0,
            f"--validation-share {self.validation_share}: above 0, below 1": 0 < self.validation_share < 1,
            f"--seed {self.seed}: 0 or more": self.seed >= 0,
            f"--device {self.device}: auto, cpu or cuda": self.device in ("auto", "cpu", "cuda"),
            f"{self.out}: name the output *.safetensors": self.out.suffix == ".safetensors",
            "--resume and --overwrite: choose one": not (self.resume and self.overwrite),
        }
        for message, holds in checks.items():
            if not holds:
                raise UsageError(message)

    @property
    def folder(self) -> Path:
        """What a run needs on its way, and its records."""
        return self.out.with_name(f"{self.out.stem}-training")

    def recipe(self, images: str) -> dict[str, str]:
        """What decides the weights, with the fingerprint of the images: a run goes on only with the same."""
        decisive = ("size", "epoch_views", "batch", "learning_rate", "rotation", "patience", "validation_share", "seed")
        init = sha256_of(self.init) if self.init else "random weights"
        boxes = sha256_of(self.boxes) if self.boxes else "none"
        return {"images": images, "boxes": boxes, "init": init} | {name: str(getattr(self, name)) for name in decisive}


@dataclass
class Position:
    """How far a run has come, in plain values and tensors."""

    epoch: int = 0
    step: int = 0
    """Steps done of this epoch."""
    loss: float = 0.0
    """Sum over the views of this epoch so far."""
    location_loss: float = 0.0
    """Likewise."""
    stale: int = 0
    """Epochs since the lowest validation loss."""
    epochs: list[dict[str, float]] = field(default_factory=list)
    """Rows of ``log.csv``."""
    kept: list[dict[str, Any]] = field(default_factory=list)
    """Of each epoch whose weights are kept, best first: ``loss``, ``epoch`` and ``probability`` of each study."""


class Run:
    """A training run in memory: network, optimizer, position; saves itself and goes on from what it saved."""

    def __init__(self, options: TrainOptions, views: Views, model: MuraNet, device: str) -> None:
        import torch
        from torch.optim.lr_scheduler import ReduceLROnPlateau

        self.options, self.views = options, views
        self.device = torch.device(device)
        self.weights = views.loss_weights()
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=options.learning_rate, fused=True)
        self.plateau = ReduceLROnPlateau(self.optimizer, factor=0.1, patience=options.patience, threshold=0)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.device.type == "cuda")
        self.at = Position()

    # --- its state ---

    def save(self) -> None:
        """Writes all that the run needs to go on; whole or not at all."""
        import torch

        buffer = io.BytesIO()
        torch.save({"at": asdict(self.at), **self._parts()}, buffer)
        write_atomically(self.options.folder / "state.pt", buffer.getvalue())

    def restore(self) -> None:
        """Takes up what :meth:`save` wrote."""
        import torch

        state = torch.load(self.options.folder / "state.pt", map_location=self.device, weights_only=True)
        for name, part in self._modules().items():
            if state[name]:  # a scaler that was not needed, on a CPU, has none
                part.load_state_dict(state[name])
        self.at = Position(**state["at"])

    def _modules(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "plateau": self.plateau, "scaler": self.scaler}

    def _parts(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._modules().items()}

    # --- its work ---

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def finished(self) -> bool:
        """All epochs done, or too many without a lower validation loss."""
        return self.at.epoch >= self.options.epochs or self.at.stale >= self.options.stop_after

    def train_epoch(self, report: Callable[[str], None]) -> float:
        """Does the rest of the epoch's steps and returns the views/s of that.

        Raises
        ------
        MuraTrtError
            The loss is no longer a number.
        """
        at, options = self.at, self.options
        order = np.random.default_rng([options.seed, at.epoch, ORDER]).permutation(self.views.train)
        order = order[: options.epoch_views]
        # Equal parts, so that no batch norm sees a single view at the end.
        batches = np.array_split(order, -(-len(order) // options.batch))
        self.model.train()
        started = saved = time.monotonic()
        before = at.step
        while at.step < len(batches):
            rows = batches[at.step]
            loss, location = self._step(rows)
            at.loss += loss * len(rows)
            at.location_loss += location * len(rows)
            at.step += 1
            self._check(at.loss + at.location_loss, "loss")
            now = time.monotonic()
            if now - saved > 60 * options.save_minutes:
                self.save()
                saved = now
            pace = (now - started) / (at.step - before)
            done = sum(map(len, batches[: at.step]))
            where = f" and location loss {at.location_loss / done:.{LOSS_DECIMALS}f}" if options.boxes else ""
            report(
                f"epoch {at.epoch + 1} of {options.epochs}, step {at.step} of {len(batches)}, loss"
                f" {at.loss / done:.{LOSS_DECIMALS}f}{where}, {len(order) / len(batches) / pace:.1f} views/s,"
                f" epoch ends in {_clock(pace * (len(batches) - at.step))},"
                f" all in {_clock(pace * (len(batches) * (options.epochs - at.epoch) - at.step))} at most"
            )
        trained = sum(map(len, batches[before:]))
        return trained / max(time.monotonic() - started, 1e-9)

    def _check(self, loss: float, what: str) -> None:
        if not math.isfinite(loss):
            raise MuraTrtError(
                f"the {what} is {loss} in epoch {self.at.epoch + 1}, after step {self.at.step}: training diverged; try"
                " a lower --learning-rate"
            )

    def _step(self, rows: NDArray[np.int64]) -> tuple[float, float]:
        import torch
        from torch.nn import functional as F

        at, options = self.at, self.options
        rng = np.random.default_rng([options.seed, at.epoch, AUGMENT, at.step])
        images = self._images(rows)
        if options.boxes:
            masks = torch.from_numpy(box_masks(self.views.boxes[rows], options.size)).to(self.device)
            images = torch.cat([images, masks], 3)
        images = augment(images, rng, options.rotation)
        with self._mixed_precision():
            activation = self.model.activation(images[..., :1])
        _, logit, cam = self.model.score(activation)
        loss = F.binary_cross_entropy_with_logits(
            logit, self._column(self.views.labels[rows]), self._column(self.weights[rows])
        )
        location = torch.zeros((), device=self.device)
        if options.boxes:
            # An abnormal view whose lesion's place is not told says nothing of where.
            known = (self.views.labels[rows] == 0) | ~np.isnan(self.views.boxes[rows]).any(1)
            at_known = torch.from_numpy(np.flatnonzero(known)).to(self.device)
            location = location_loss(cam[at_known], images[at_known, ..., 1]) * float(known.mean())
        self.optimizer.zero_grad()
        self.scaler.scale(loss + LOCATION_WEIGHT * location).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return float(loss.detach()), float(location.detach())

    def end_epoch(self, views_per_s: float) -> Epoch:
        """Validates, keeps the weights if they are among the best, writes the records and the state."""
        at, options = self.at, self.options
        loss, probability = self.validate()
        self._check(loss, "validation loss")
        labels = self._study_labels()
        area, kappa = auroc(labels, probability), cohen_kappa(labels, probability > 0.5)
        row = Epoch(
            epoch=at.epoch + 1,
            learning_rate=self.learning_rate,
            train_loss=at.loss / len(self.views.train[: options.epoch_views]),
            location_loss=at.location_loss / len(self.views.train[: options.epoch_views]),
            valid_loss=loss,
            auroc=area.value,
            auroc_low=area.low,
            auroc_high=area.high,
            kappa=kappa.value,
            kappa_low=kappa.low,
            kappa_high=kappa.high,
            views_per_s=views_per_s,
        )
        at.stale = 0 if not at.kept or loss < at.kept[0]["loss"] else at.stale + 1
        at.epochs.append(asdict(row))
        at.kept.append({"loss": loss, "epoch": at.epoch + 1, "probability": probability.tolist()})
        at.kept = sorted(at.kept, key=lambda kept: float(kept["loss"]))[: options.keep]
        if any(kept["epoch"] == at.epoch + 1 for kept in at.kept):
            save_checkpoint(self.model, options.folder / _weights_name(at.epoch + 1))
        self.plateau.step(loss)
        at.epoch, at.step, at.loss, at.location_loss = at.epoch + 1, 0, 0.0, 0.0
        self.save()
        self.write_records()
        return row

    def write_records(self) -> None:
        """Writes the table and the picture of the epochs; removes weights that are no longer among the best."""
        kept_names = {_weights_name(kept["epoch"]) for kept in self.at.kept}
        for path in self.options.folder.glob("epoch-*.safetensors"):
            if path.name not in kept_names:
                path.unlink()
        epochs = [Epoch(**row) for row in self.at.epochs]  # type: ignore[arg-type]
        write_log(epochs, self.options.folder / "log.csv")
        draw_curves(epochs, self.options.folder / "curves.png")

    def validate(self) -> tuple[float, NDArray[np.float64]]:
        """The mean weighted loss of the validation views, and the mean probability of each validation study."""
        import torch
        from torch.nn import functional as F

        rows = self.views.valid
        self.model.eval()
        logits = []
        with torch.inference_mode(), self._mixed_precision():
            for start in range(0, len(rows), VALID_BATCH):
                activation = self.model.activation(self._images(rows[start : start + VALID_BATCH]))
                logits.append(self.model.score(activation)[1].float().cpu())
        logit = torch.cat(logits)
        labels, weights = (torch.from_numpy(column[rows]) for column in (self.views.labels, self.weights))
        loss = float(F.binary_cross_entropy_with_logits(logit, labels, weights))
        return loss, self._study_mean(torch.sigmoid(logit.double()).numpy())

    def _mixed_precision(self) -> AbstractContextManager[object]:
        """Half precision where it helps: on a GPU."""
        import torch

        return torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda")

    def _study_mean(self, of_view: NDArray[Any]) -> NDArray[np.float64]:
        _, number = np.unique(self.views.listing.study_of[self.views.valid], return_inverse=True)
        return np.asarray(np.bincount(number, of_view) / np.bincount(number), np.float64)

    def _study_labels(self) -> NDArray[np.int64]:
        return self._study_mean(self.views.labels[self.views.valid]).astype(np.int64)

    def _images(self, rows: NDArray[np.int64]) -> Tensor:
        import torch

        return torch.from_numpy(self.views.pixels[rows]).to(self.device)

    def _column(self, values: NDArray[np.float32]) -> Tensor:
        import torch

        return torch.from_numpy(values).to(self.device)


def train(options: TrainOptions, report: Callable[[str], None]) -> dict[str, Any]:
    """Trains, and writes the best weights to ``options.out``; the folder beside it holds the rest.

    Sets, for the process, PyTorch's threads to the usable cores, and denormal numbers to flush to zero.

    There lie ``log.csv``, ``curves.png``, ``skipped.csv`` (views that could not be read), ``validation.csv`` (the
    validation studies' probabilities by the best weights and by the mean of those kept) and the kept weights,
    ``epoch-NNN.safetensors``. While the run goes on, also its state and the decoded pixels.

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

    device = _device(options.device)
    # Before anything runs in parallel: threads that are there already would keep their mode. Adam's moments of dead
    # weights become denormal numbers, at which a CPU crawls.
    torch.set_num_threads(usable_cores())
    torch.set_flush_denormal(True)
    catalogue = read_catalogue(options.archive, options.validation_share, options.seed, options.boxes)
    model = first_model(options)
    recipe = options.recipe(catalogue.fingerprint(options.size))
    _prepare(options, recipe)
    views = load_views(
        catalogue, options.size, options.folder, lambda done, total: report(f"decoded {done} of {total} views")
    )
    run = Run(options, views, model, device)
    if (options.folder / "state.pt").exists():
        run.restore()
        logger.info("going on from epoch %d, step %d", run.at.epoch + 1, run.at.step + 1)
    logger.info("training on %d views, validating on %d, on %s", len(views.train), len(views.valid), run.device.type)
    while not run.finished:
        row = run.end_epoch(run.train_epoch(report))
        logger.info("%s", row)
    return _finish(run, recipe)


def _device(wanted: str) -> str:
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblem("--device cuda: PyTorch finds no GPU here; see nvidia-smi, or leave the option out")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def _prepare(options: TrainOptions, recipe: dict[str, str]) -> None:
    """Makes the run's folder and notes its recipe there, or refuses a folder that holds another run."""
    out, folder = options.out, options.folder
    if options.archive.is_dir() and folder.resolve().is_relative_to(options.archive.resolve()):
        raise UsageError(
            f"{folder} lies inside the archive, where its pictures would count as views: choose another --out"
        )
    unfinished, noted = (folder / SCRATCH[-1]).exists(), folder / "recipe.json"
    if options.overwrite:
        if options.init and options.init.resolve() in folder.resolve().glob("*"):
            raise UsageError(f"--init {options.init}: --overwrite would remove it; choose another --out")
        for pattern in ("epoch-*.safetensors", *RECORDS, *SCRATCH):
            for path in folder.glob(pattern):
                path.unlink()
    elif unfinished and not options.resume:
        raise UsageError(f"{folder} holds a run that has not ended: --resume goes on with it, --overwrite begins anew")
    elif unfinished:
        then = json.loads(noted.read_text())
        other = [f"{name} {then[name]}, now {recipe[name]}" for name in recipe if then[name] != recipe[name]]
        if other:
            raise UsageError(f"{folder}: the run began with {'; '.join(other)}: give that again, or --overwrite")
    elif out.exists() or (folder / "log.csv").exists():
        raise UsageError(f"{out} or the records in {folder} are there already: --overwrite replaces them")
    folder.mkdir(parents=True, exist_ok=True)
    if not options.resume:
        (folder / "pixels.npy").unlink(missing_ok=True)  # files that could not be read then may have been mended since
    write_atomically(noted, json.dumps(recipe, indent=2).encode())


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


def _weights_name(epoch: int) -> str:
    return f"epoch-{epoch:03d}.safetensors"


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _finish(run: Run, recipe: dict[str, str]) -> dict[str, Any]:
    """Writes the best weights and the validation studies' probabilities; removes what only a going run needs."""
    import pandas as pd

    options, views, best = run.options, run.views, run.at.kept[0]
    run.write_records()  # a run that was killed behind its last epoch has not
    labels = run._study_labels()
    together = np.mean([kept["probability"] for kept in run.at.kept], axis=0)
    studies, first = np.unique(views.listing.study_of[views.valid], return_index=True)
    pd.DataFrame(
        {
            "study": views.listing.study_names(studies),
            "body_part": views.parts[views.valid[first]],
            "label": labels,
            "probability": best["probability"],
            "ensemble": together,
        }
    ).to_csv(options.folder / "validation.csv", index=False, float_format="%.6f")
    model = load_checkpoint(options.folder / _weights_name(best["epoch"]))
    told = ", ".join(f"{name} {value}" for name, value in recipe.items())
    note = f"epoch {best['epoch']}, the best of {run.at.epoch}; {told}"
    save_checkpoint(model, options.out, note, half=options.half)
    for name in SCRATCH:
        (options.folder / name).unlink(missing_ok=True)
    return {
        "epochs": run.at.epoch,
        "best_epoch": best["epoch"],
        "auroc": auroc(labels, best["probability"]),
        "kappa": cohen_kappa(labels, np.array(best["probability"]) > 0.5),
        "ensemble_auroc": auroc(labels, together),
        "ensemble_kappa": cohen_kappa(labels, together > 0.5),
    }

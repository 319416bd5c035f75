"""A training run in memory: steps, epochs and validation, and how far it has come."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mura_trt.checkpoint import save_checkpoint
from mura_trt.errors import MuraTrtError
from mura_trt.files import write_atomically
from mura_trt.metrics import auroc, cohen_kappa
from mura_trt.model import MuraNet
from mura_trt.progress import clock
from mura_trt.training.augment import augment
from mura_trt.training.folder import TrainingFolder
from mura_trt.training.options import TrainOptions
from mura_trt.training.record import Epoch
from mura_trt.training.views import Views

if TYPE_CHECKING:
    from torch import Tensor

VALID_BATCH = 32
# Streams of random numbers of a run's seed. A step's numbers depend on seed, epoch and step only, so nothing random
# has to be saved for a run to go on as if it had never stopped.
ORDER, AUGMENT = range(2)


@dataclass
class Position:
    """How far a run has come, in plain values."""

    step: int = 0
    """Steps done of the epoch under way."""
    loss: float = 0.0
    """Sum over that epoch's views so far."""
    epochs: list[dict[str, float]] = field(default_factory=list)
    """Rows of ``log.csv``, one for each epoch that has ended."""
    probabilities: dict[int, list[float]] = field(default_factory=dict)
    """The validation studies' probabilities, by the number of each epoch whose weights are kept."""

    @property
    def epoch(self) -> int:
        """Epochs that have ended."""
        return len(self.epochs)

    def best(self, count: int) -> list[int]:
        """The epochs with the lowest validation losses, best first and of equals the earlier; they count from 1."""
        numbers = range(1, self.epoch + 1)
        return sorted(numbers, key=lambda number: self.epochs[number - 1]["valid_loss"])[:count]

    @property
    def stale(self) -> int:
        """Epochs since the lowest validation loss."""
        return self.epoch - self.best(1)[0] if self.epochs else 0


class Run:
    """Network, optimizer and position; saves itself and goes on from what it saved."""

    def __init__(
        self, options: TrainOptions, folder: TrainingFolder, views: Views, model: MuraNet, device: str
    ) -> None:
        import torch
        from torch.optim.lr_scheduler import ReduceLROnPlateau

        self.options, self.folder, self.views = options, folder, views
        self.device = torch.device(device)
        self.weights = views.loss_weights()
        self.model: MuraNet = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=options.learning_rate, fused=True)
        self.plateau = ReduceLROnPlateau(self.optimizer, factor=0.1, patience=options.patience, threshold=0)
        self.precision = options.precision
        if self.precision == "auto":
            self.precision = "fp16" if self.device.type == "cuda" else "fp32"
        # Half precision's range ends where small gradients begin; bfloat16 has that of FP32.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.at = Position()

    # --- its state ---

    def save(self) -> None:
        """Writes all that the run needs to go on; whole or not at all."""
        import torch

        buffer = io.BytesIO()
        parts = {name: part.state_dict() for name, part in self._modules().items()}
        torch.save({"at": asdict(self.at), **parts}, buffer)
        write_atomically(self.folder.state, buffer.getvalue())

    def restore(self) -> None:
        """Takes up what :meth:`save` wrote."""
        import torch

        state = torch.load(self.folder.state, map_location=self.device, weights_only=True)
        for name, part in self._modules().items():
            if state[name]:  # a scaler that was not needed, on a CPU, has none
                part.load_state_dict(state[name])
        self.at = Position(**state["at"])

    def _modules(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "plateau": self.plateau, "scaler": self.scaler}

    # --- its work ---

    @property
    def finished(self) -> bool:
        """All epochs done, or too many without a lower validation loss."""
        return self.at.epoch >= self.options.epochs or self.at.stale >= self.options.stop_after

    def _batches(self) -> list[NDArray[np.int64]]:
        """The rows of each step of the epoch under way, in equal parts: no batch norm sees a single view at the end."""
        options, epoch = self.options, self.at.epoch
        order = np.random.default_rng([options.seed, epoch, ORDER]).permutation(self.views.train)[: options.epoch_views]
        return np.array_split(order, -(-len(order) // options.batch))

    def train_epoch(self, report: Callable[[str], None]) -> float:
        """Does the rest of the epoch's steps and returns the views/s of that.

        Raises
        ------
        MuraTrtError
            The loss is no longer a number.
        """
        at, batches = self.at, self._batches()
        self.model.train()
        started = saved = time.monotonic()
        before = trained = sum(map(len, batches[: at.step]))
        for rows in batches[at.step :]:
            at.loss += self._step(rows) * len(rows)
            at.step += 1
            trained += len(rows)
            self._check(at.loss, "loss")
            now = time.monotonic()
            if now - saved > 60 * self.options.save_minutes:
                self.save()
                saved = now
            report(self._told(at.loss / trained, (trained - before) / (now - started), trained, len(batches)))
        return (trained - before) / max(time.monotonic() - started, 1e-9)

    def _told(self, loss: float, rate: float, trained: int, steps: int) -> str:
        """A line on the epoch under way; ``rate`` in views/s, ``trained`` views so far."""
        number, last = self.at.epoch + 1, self.options.epochs
        left = self._epoch_views - trained
        return (
            f"epoch {number} of {last}, step {self.at.step} of {steps}, loss {loss:.4f}, {rate:.1f} views/s, epoch ends"
            f" in {clock(left / rate)}, all in {clock((left + (last - number) * self._epoch_views) / rate)} at most"
        )

    @property
    def _epoch_views(self) -> int:
        return len(self.views.train[: self.options.epoch_views])

    def _check(self, loss: float, what: str) -> None:
        if not math.isfinite(loss):
            raise MuraTrtError(
                f"the {what} is {loss} in epoch {self.at.epoch + 1}, after step {self.at.step}: training diverged; try"
                " a lower --learning-rate"
            )

    def _step(self, rows: NDArray[np.int64]) -> float:
        from torch.nn import functional as F

        rng = np.random.default_rng([self.options.seed, self.at.epoch, AUGMENT, self.at.step])
        images = augment(self._tensor(self.views.pixels[rows]), rng, self.options.rotation)
        labels, weights = self._tensor(self.views.labels[rows]), self._tensor(self.weights[rows])
        loss = F.binary_cross_entropy_with_logits(self._logit(images), labels, weights)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return float(loss.detach())

    def end_epoch(self, views_per_s: float) -> Epoch:
        """Validates, keeps the weights if they are among the best, writes the records and the state."""
        at = self.at
        loss, probability = self.validate()
        self._check(loss, "validation loss")
        labels = self.study_labels()
        area, kappa = auroc(labels, probability), cohen_kappa(labels, probability > 0.5)
        row = Epoch(
            epoch=at.epoch + 1,
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            train_loss=at.loss / self._epoch_views,
            valid_loss=loss,
            auroc=area.value,
            auroc_low=area.low,
            auroc_high=area.high,
            kappa=kappa.value,
            kappa_low=kappa.low,
            kappa_high=kappa.high,
            views_per_s=views_per_s,
        )
        at.epochs.append(asdict(row))
        at.probabilities[row.epoch] = probability.tolist()
        # Only among epochs that are still there: --keep may have been smaller before the run was stopped.
        kept = [epoch for epoch in at.best(at.epoch) if epoch in at.probabilities][: self.options.keep]
        at.probabilities = {epoch: at.probabilities[epoch] for epoch in kept}
        if row.epoch in at.probabilities:
            save_checkpoint(self.model, self.folder.weights(row.epoch))
        self.plateau.step(loss)
        at.step, at.loss = 0, 0.0
        self.save()
        self.write_records()
        return row

    def write_records(self) -> None:
        """Has the folder show the epochs so far."""
        epochs = [Epoch(**row) for row in self.at.epochs]  # type: ignore[arg-type]
        self.folder.write_records(epochs, list(self.at.probabilities))

    def validate(self) -> tuple[float, NDArray[np.float64]]:
        """The mean weighted loss of the validation views, and the mean probability of each validation study."""
        import torch
        from torch.nn import functional as F

        rows = self.views.valid
        self.model.eval()
        with torch.inference_mode():
            batches = (rows[start : start + VALID_BATCH] for start in range(0, len(rows), VALID_BATCH))
            logit = torch.cat([self._logit(self._tensor(self.views.pixels[batch])) for batch in batches])
            labels, weights = self._tensor(self.views.labels[rows]), self._tensor(self.weights[rows])
            loss = float(F.binary_cross_entropy_with_logits(logit, labels, weights))
        return loss, self._study_mean(torch.sigmoid(logit.double()).cpu().numpy())

    def study_labels(self) -> NDArray[np.int64]:
        """Of each validation study, in the order of its number."""
        return self._study_mean(self.views.labels[self.views.valid]).astype(np.int64)

    def _study_mean(self, of_view: NDArray[Any]) -> NDArray[np.float64]:
        _, number = np.unique(self.views.listing.study_of[self.views.valid], return_inverse=True)
        return np.asarray(np.bincount(number, of_view) / np.bincount(number), np.float64)

    def _logit(self, images: Tensor) -> Tensor:
        """float32 (N,)."""
        import torch

        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        with torch.autocast(self.device.type, dtype, enabled=self.precision != "fp32"):
            activation = self.model.activation(images)
        return self.model.score(activation)[1]

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        import torch

        return torch.from_numpy(values).to(self.device)

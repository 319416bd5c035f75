"""What a training run leaves for people: a table of its epochs, and a picture of the curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path

from mura_trt.files import write_atomically


@dataclass(frozen=True)
class Epoch:
    """A row of ``log.csv``; validation figures are per study, with the limits of their 95 % intervals."""

    epoch: int
    learning_rate: float
    train_loss: float
    """Mean weighted binary cross-entropy over the epoch's views, augmented, as the weights moved."""
    valid_loss: float
    """The same of the validation views, not augmented, with the weights at the epoch's end."""
    auroc: float
    auroc_low: float
    auroc_high: float
    kappa: float
    kappa_low: float
    kappa_high: float
    views_per_s: float
    """Of training, without validation; of what ran since the last start."""

    def __str__(self) -> str:
        return (
            f"epoch {self.epoch}: loss {self.train_loss:.4f}, validation loss {self.valid_loss:.4f},"
            f" AUROC {self.auroc:.3f} ({self.auroc_low:.3f} to {self.auroc_high:.3f}),"
            f" kappa {self.kappa:.3f} ({self.kappa_low:.3f} to {self.kappa_high:.3f}), {self.views_per_s:.1f} views/s"
        )


def write_log(epochs: Sequence[Epoch], path: Path) -> None:
    """Writes the table, one line an epoch."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow([column.name for column in fields(Epoch)])
    table.writerows([f"{value:.6g}" for value in asdict(epoch).values()] for epoch in epochs)
    write_atomically(path, text.getvalue().encode())


def draw_curves(epochs: Sequence[Epoch], path: Path) -> None:
    """Draws loss, and AUROC and kappa with their intervals, over the epochs; a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, figures = figure.subplots(1, 2)
    at = [epoch.epoch for epoch in epochs]
    losses.plot(at, [epoch.train_loss for epoch in epochs], "o-", label="training")
    losses.plot(at, [epoch.valid_loss for epoch in epochs], "o-", label="validation")
    for before, after in pairwise(epochs):
        if after.learning_rate < before.learning_rate:
            losses.axvline(after.epoch, color="gray", linestyle=":", linewidth=1)
    losses.set(xlabel="epoch (dotted: the learning rate falls)", ylabel="weighted cross-entropy", ylim=(0, None))
    losses.legend()
    for name in ("auroc", "kappa"):
        (line,) = figures.plot(at, [getattr(epoch, name) for epoch in epochs], "o-", label=name)
        low, high = ([getattr(epoch, f"{name}_{end}") for epoch in epochs] for end in ("low", "high"))
        figures.fill_between(at, low, high, color=line.get_color(), alpha=0.15)
    figures.set(xlabel="epoch", ylabel="validation studies, 95 % interval", ylim=(None, 1))
    figures.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    write_atomically(path, image.getvalue())

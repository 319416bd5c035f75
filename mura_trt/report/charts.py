"""The report's charts as inline SVG, each with its values in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mura_trt.report.svg import Plot, Points, bar, diamond, dot, drawing, label, line

FIFTHS = (0, 0.2, 0.4, 0.6, 0.8, 1)
HISTOGRAM_BINS = 20
_KAPPA_ROW = 26


def histogram(probability: NDArray[np.float64], threshold: float) -> str:
    """How the studies' probabilities are spread, and where the threshold lies."""
    counts, edges = np.histogram(probability, HISTOGRAM_BINS, (0, 1))
    highest = max(int(counts.max()), 1)
    plot = Plot(height=170, left=14, top=24, bottom=40, y_range=(0, highest))
    parts = []
    for count, low, high in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        looks = "calm" if (low + high) / 2 <= threshold else "alarm"
        height = plot.y(0) - plot.y(count)
        parts.append(bar(looks, plot.x(low) + 1, plot.y(count), plot.x(high) - plot.x(low) - 2, height))
    parts.append(line("axis", plot.left, plot.y(0), plot.width - plot.right, plot.y(0)))
    parts += [label(f"{tick:g}", plot.x(tick), plot.y(0) + 15, "middle") for tick in FIFTHS]
    at = plot.x(threshold)
    parts.append(line("threshold", at, plot.top - 4, at, plot.y(0)))
    anchor = "start" if threshold < 0.25 else "end" if threshold > 0.75 else "middle"
    parts.append(label(f"threshold {threshold:.4g}", at, plot.top - 10, anchor))
    parts.append(label("probability of being abnormal", plot.width / 2, plot.height - 6, "middle", "name"))
    above = int((probability > threshold).sum())
    said = (
        f"{len(probability):,} scored studies, {above:,} of them above the threshold of {threshold:.4g};"
        f" the fullest of {HISTOGRAM_BINS} bins holds {highest:,}."
    )
    return drawing("histogram", "Probabilities of the studies", said, plot, parts)


def roc(points: Points, area: str, operating: tuple[float, float] | None) -> str:
    """The receiver operating characteristic, with where the threshold puts the decisions."""
    plot = Plot()
    parts = plot.axes("1 - specificity", "sensitivity", FIFTHS, FIFTHS)
    parts.append(plot.curve("chance", [(0, 0), (1, 1)]))
    parts.append(plot.curve("ours", points))
    said = f"Area under the curve {area}."
    if operating:
        parts.append(dot("point", plot.x(operating[0]), plot.y(operating[1])))
        said += f" As decided: sensitivity {operating[1]:.3f}, specificity {1 - operating[0]:.3f} (the dot)."
    return drawing("roc", "Receiver operating characteristic", said, plot, parts)


def precision_recall(points: Points, average: str, share: float, operating: tuple[float, float] | None) -> str:
    """Precision over recall, with the share of abnormal studies that chance would reach."""
    plot = Plot()
    parts = plot.axes("recall (sensitivity)", "precision", FIFTHS, FIFTHS)
    parts.append(plot.curve("chance", [(0, share), (1, share)]))
    parts.append(plot.curve("ours", points, steps=True))
    said = f"Average precision {average}; chance has {share:.3f} (the broken line)."
    if operating:
        parts.append(dot("point", plot.x(operating[0]), plot.y(operating[1])))
        said += f" As decided: recall {operating[0]:.3f}, precision {operating[1]:.3f} (the dot)."
    return drawing("precision-recall", "Precision and recall", said, plot, parts)


def calibration(bins: Sequence[dict[str, Any]], error: str) -> str:
    """Of each bin of probabilities, the share of abnormal studies; larger dots hold more of them."""
    plot = Plot()
    most = max(part["studies"] for part in bins)
    parts = plot.axes("mean probability", "share abnormal", FIFTHS, FIFTHS)
    parts.append(plot.curve("chance", [(0, 0), (1, 1)]))
    parts.append(plot.curve("ours thin", [(part["probability"], part["abnormal"]) for part in bins]))
    for part in bins:
        radius = 2.5 + 5.5 * (part["studies"] / most) ** 0.5
        parts.append(dot("point soft", plot.x(part["probability"]), plot.y(part["abnormal"]), radius))
    said = (
        f"Calibration error {error}, over {len(bins)} bins that hold a study; on the broken line, probabilities are"
        " what they say. The larger a dot, the more studies."
    )
    return drawing("calibration", "Calibration", said, plot, parts)


def kappas(rows: Sequence[tuple[str, float | None, Sequence[float | None], dict[str, float] | None]]) -> str:
    """Kappa by body part with its interval, beside the paper's model and best radiologist.

    Parameters
    ----------
    rows
        Name, kappa, low and high limit, and the paper's ``model`` and ``best_radiologist``; None where there is none.
    """
    lows = [low for _, _, (low, _), _ in rows if low is not None]
    lowest = min(0.0, np.floor(5 * min(lows, default=0.0)) / 5)
    plot = Plot(height=64 + _KAPPA_ROW * len(rows), left=86, right=18, top=14, bottom=50, x_range=(lowest, 1))
    ticks = np.arange(round(lowest * 5), 6) / 5
    parts = plot.axes("Cohen's kappa", "", ticks.tolist(), ())
    for number, (name, value, (low, high), paper) in enumerate(rows):
        y = plot.top + _KAPPA_ROW * (number + 0.5)
        parts.append(label(name, plot.left - 12, y + 4, "end", "row"))
        if low is not None and high is not None:
            parts.append(line("interval", plot.x(low), y, plot.x(high), y))
            parts += [line("interval", plot.x(end), y - 4, plot.x(end), y + 4) for end in (low, high)]
        if paper:
            best = plot.x(paper["best_radiologist"])
            parts.append(line("radiologist", best, y - 9, best, y + 9))
            parts.append(diamond("paper", plot.x(paper["model"]), y))
        if value is not None:
            parts.append(dot("point", plot.x(value), y))
    said = "; ".join(f"{name} {'not defined' if value is None else f'{value:.3f}'}" for name, value, *_ in rows)
    return drawing(
        "kappas", "Cohen's kappa by body part", f"{said}. The table of body parts has all of them.", plot, parts
    )

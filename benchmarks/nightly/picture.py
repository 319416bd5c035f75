"""The history as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.nightly.series import figures, series

COLUMNS = 3


def draw(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Each figure over the nights, with the band of noise; alarms stand out.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    from matplotlib.figure import Figure as Canvas

    names = figures(records)
    rows = -(-len(names) // COLUMNS)
    canvas = Canvas(figsize=(4.5 * COLUMNS, 2.8 * rows), layout="constrained")
    for at, name in enumerate(names, 1):
        panel = canvas.add_subplot(rows, COLUMNS, at)
        points = series(records, name)
        judged = [(point.night, *point.band) for point in points if point.band]
        if judged:
            nights, low, high = zip(*judged, strict=True)
            panel.fill_between(
                nights, [100 * one for one in low], [100 * one for one in high], color="0.9", linewidth=0
            )
        panel.axhline(0, color="0.7", linewidth=1)
        panel.plot([point.night for point in points], [100 * point.value for point in points], ".-", linewidth=1)
        alarms = [point for point in points if point.alarm]
        marks = [point.night for point in alarms], [100 * point.value for point in alarms]
        panel.plot(*marks, "D", color="#a33b07", markersize=7)
        panel.set(title=name, ylabel="% against today's level", xlabel="night")
        panel.set_xlim(0.5, max(point.night for point in points) + 0.5)
    canvas.savefig(path, dpi=110)

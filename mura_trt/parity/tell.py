"""A judgement for people and for programs: a table, JSON, a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mura_trt.parity.judge import Figure, Judgement


def as_json(judgement: Judgement) -> dict[str, Any]:
    """Everything but the single studies, with numbers in full."""
    return {
        "kept": not judgement.missed,
        "views": judgement.views,
        "failed_views": judgement.failed,
        "studies": len(judgement.studies.names),
        "figures": [
            {"level": figure.level, "name": figure.name, "value": _number(figure.value)}
            | ({} if figure.bound is None else {"bound": figure.bound, "kept": figure.kept})
            | ({} if figure.interval is None else {"interval": list(figure.interval)})
            for figure in judgement.figures
        ],
        "worst_views": [{"view": name, "dp": _number(difference)} for name, difference in judgement.worst],
    }


def _number(value: float) -> float | None:
    """JSON has no infinity and no NaN: what is not finite is null."""
    return value if math.isfinite(value) else None


def table(judgement: Judgement) -> str:
    """A line a figure, then what is out of bounds, with the views that differ most."""
    rows = [("level", "figure", "value", "bound", "")]
    rows += [
        (figure.level, figure.name, _value(figure), _bound(figure), _verdict(figure)) for figure in judgement.figures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{level:<{widths[0]}}  {name:<{widths[1]}}  {value:>{widths[2]}}  {bound:>{widths[3]}}  {verdict}".rstrip()
        for level, name, value, bound, verdict in rows
    ]
    if judgement.missed:
        lines.append("views that differ most: " + ", ".join(f"{name} ({dp:.4f})" for name, dp in judgement.worst))
    return "\n".join(lines)


def picture(judgement: Judgement, path: Path, title: str, reference: str) -> None:
    """Both scores of each study against one another, and their difference against their mean (Bland and Altman 1986).

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    from matplotlib.figure import Figure as Canvas

    ours, theirs = judgement.studies.probability, judgement.studies.reference
    canvas = Canvas(figsize=(10, 4.5), layout="constrained")
    scatter, altman = canvas.subplots(1, 2)
    scatter.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    scatter.plot(theirs, ours, ".", markersize=4)
    scatter.set(xlabel=f"{reference}, FP32", ylabel="bundle", title="probability of each study")
    difference = ours - theirs
    mean, spread = float(difference.mean()), 1.96 * float(difference.std())
    altman.plot((ours + theirs) / 2, difference, ".", markersize=4)
    for level, style in ((mean, "-"), (mean - spread, "--"), (mean + spread, "--")):
        altman.axhline(level, color="0.4", linestyle=style, linewidth=1)
    altman.set(xlabel="mean of both", ylabel=f"bundle less {reference}", title="difference; its mean and 95 % limits")
    canvas.suptitle(title)
    canvas.savefig(path, dpi=120)


def _value(figure: Figure) -> str:
    value = _short(figure.value)
    return (
        value if figure.interval is None else f"{value} ({_short(figure.interval[0])} to {_short(figure.interval[1])})"
    )


def _short(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.3g}"


def _bound(figure: Figure) -> str:
    return "" if figure.bound is None else _short(figure.bound)


def _verdict(figure: Figure) -> str:
    return "" if figure.bound is None else "kept" if figure.kept else "MISSED"

"""What repeated measurements are told as."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

DIGITS = 5  # significant ones: a machine's speed is known to three at the best


def spread(rounds: Sequence[float]) -> dict[str, Any]:
    """``median``, ``min`` and ``max`` of a figure, and its value in each round."""
    return {
        "median": short(statistics.median(rounds)),
        "min": short(min(rounds)),
        "max": short(max(rounds)),
        "rounds": [short(value) for value in rounds],
    }


def pairwise(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    """The quotient of each round: a machine whose speed drifts changes both of its parts."""
    return [one / other for one, other in zip(ours, others, strict=True)]


def short(value: float) -> float:
    """As many digits as a measurement has."""
    return float(f"{value:.{DIGITS}g}")

"""The history of a figure as it is drawn: by night, how far it was from today's level, and what noise allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

SHOWN = 90  # nights


class Point(NamedTuple):
    """A night of one figure; shares are of its level today: 0.02 is two percent faster."""

    night: int
    """Its number among those shown, from 1."""
    value: float
    band: tuple[float, float] | None
    """What would have been steady; None where it was still learning."""
    state: str
    alarm: bool


def figures(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of all figures, those of the last night first."""
    return list(dict.fromkeys(name for record in reversed(records) for name in record["figures"]))


def series(records: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    """What is drawn of a figure; empty where no night has it."""
    shown = records[-SHOWN:]
    nights = [(number, record) for number, record in enumerate(shown, 1) if name in record["figures"]]
    if not nights:
        return []
    levels = [record["figures"][name]["level"] for _, record in nights if record["figures"][name]["level"] is not None]
    base = levels[-1] if levels else nights[-1][1]["figures"][name]["value"]
    points = []
    for number, record in nights:
        said = record["figures"][name]
        band = None
        if said["level"] is not None:
            low, high = said["level"] - said["bound"] - base, said["level"] + said["bound"] - base
            band = math.expm1(low), math.expm1(high)
        alarm = any(failure.startswith(f"{name}:") for failure in record["failures"])
        points.append(Point(number, math.expm1(said["value"] - base), band, said["state"], alarm))
    return points

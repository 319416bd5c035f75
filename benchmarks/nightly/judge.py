"""Whether tonight is slower than the nights before it, by more than they differ from one another.

A figure's value is the logarithm of its ratio to fixed work: differences are shares, and a machine that is slow is slow
in both. The nights before give a level, their median, and a spread, pooled over the levels that the figure has had;
tonight is an alarm where it lies below the level by more than a prediction interval for one more value allows. The
spread is that of the nights, or what the rounds within a night make one expect, whichever is more. Some nights are
needed before any of this can be said: until then it learns.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LEARNING, STEADY, SLOWER, FASTER, ACCEPTED = "learning", "steady", "slower", "faster", "accepted"
MAD_TO_SIGMA = 1.4826  # of a normal distribution
MEDIAN_VARIANCE = math.pi / 2  # of a median against a mean's, of normal values


@dataclass(frozen=True)
class Rule:
    """When a night is an alarm."""

    nights: int = 8
    """From so many on, it judges."""
    window: int = 40
    """So many nights are looked back on."""
    false_alarms: float = 0.002
    """The probability of an alarm in a night in which nothing changed, over all its figures."""
    floor: float = 0.04
    """A smaller slow-down is none."""
    outlying: float = 4.0
    """A night that is off by more robust standard deviations counts as if it were off by so many."""
    settled: int = 3
    """So many nights in a row that are faster than they should be are a new level."""


@dataclass(frozen=True)
class Verdict:
    """On one figure of a night."""

    state: str
    """``learning``, ``steady``, ``slower`` or ``faster``."""
    nights: int
    """How many it was compared with."""
    level: float | None = None
    """Their median: a logarithm."""
    noise: float | None = None
    """Standard deviation of a night's value: a logarithm, and so a share."""
    bound: float | None = None
    """By how much it may lie below or above the level: a logarithm."""
    off: float | None = None
    """By how much it does; a slower night is below zero."""

    @property
    def slowdown(self) -> float:
        """How much more time than before it takes, as a share; negative where it is faster."""
        return math.expm1(-(self.off or 0.0))


@dataclass
class Figure:
    """What the nights before know of one figure."""

    levels: list[list[float]] = field(default_factory=lambda: [[]])
    """Values that were learnt; a new list begins where the figure has changed for good."""
    errors: list[float] = field(default_factory=list)
    """What the rounds within those nights say of the error of each."""
    faster: list[tuple[float, float]] = field(default_factory=list)
    """Values and errors of the last nights in a row that were faster than they should be."""

    def learn(self, value: float, error: float, state: str, rule: Rule) -> None:
        """Takes what a night has found.

        Parameters
        ----------
        value, error
            As :func:`summary` gives them.
        state
            Of its verdict; ``accepted`` makes it a new level.
        rule
            Says how many faster nights are a new level.
        """
        if state == FASTER:
            self.faster.append((value, error))
            if len(self.faster) == rule.settled:
                self.levels.append([value for value, _ in self.faster])
                self.errors += [error for _, error in self.faster]
                self.faster = []
            return
        self.faster = []
        if state == SLOWER:
            return
        if state == ACCEPTED:
            self.levels.append([])
        self.levels[-1].append(value)
        self.errors.append(error)

    def recent(self, window: int) -> list[list[float]]:
        """The last so many values by level."""
        kept: list[list[float]] = []
        for level in reversed(self.levels):
            part = level[-window:]
            window -= len(part)
            kept.insert(0, part)
            if window <= 0:
                break
        return kept


def summary(rounds: Sequence[float]) -> tuple[float, float]:
    """A night's value and its standard error, from the ratios of its rounds: their median, as logarithms."""
    values = [math.log(ratio) for ratio in rounds]
    value = statistics.median(values)
    spread = MAD_TO_SIGMA * statistics.median(abs(one - value) for one in values)
    return value, spread * math.sqrt(MEDIAN_VARIANCE / len(values))


def judge(value: float, error: float, figure: Figure, figures: int, rule: Rule) -> Verdict:
    """On a night's value.

    Parameters
    ----------
    value, error
        As :func:`summary` gives them.
    figure
        What was learnt of it.
    figures
        How many are judged tonight: they share the probability of a false alarm (Bonferroni).
    rule
        When it is an alarm.
    """
    from scipy.special import stdtrit

    levels = figure.recent(rule.window)
    nights = sum(map(len, levels))
    if nights < rule.nights or all(len(level) < 2 for level in levels):
        return Verdict(LEARNING, nights)
    noise, freedom = _noise(levels, rule)
    errors = figure.errors[-rule.window :]
    noise = max(noise, statistics.median(errors), error)
    centre = statistics.median(levels[-1])
    quantile = float(stdtrit(freedom, 1 - rule.false_alarms / figures))
    bound = quantile * noise * math.sqrt(1 + MEDIAN_VARIANCE / len(levels[-1]))
    bound = max(bound, math.log1p(rule.floor))
    off = value - centre
    state = SLOWER if off < -bound else FASTER if off > bound else STEADY
    return Verdict(state, nights, centre, noise, bound, off)


def _noise(levels: Sequence[Sequence[float]], rule: Rule) -> tuple[float, int]:
    """The standard deviation within levels, and its degrees of freedom."""
    levels = [level for level in levels if len(level) > 1]
    off = [value - statistics.median(level) for level in levels for value in level]
    freedom = len(off) - len(levels)
    limit = rule.outlying * MAD_TO_SIGMA * statistics.median(map(abs, off))
    held = [min(max(one, -limit), limit) for one in off]
    return math.sqrt(sum(one * one for one in held) / freedom), freedom


def learn(known: dict[str, Figure], record: Mapping[str, Any], rule: Rule) -> None:
    """Adds a night's record to what is known; one that failed says nothing, unless it was accepted."""
    accepted = bool(record.get("accepted"))
    if record["failures"] and not accepted:
        return
    for name, said in record["figures"].items():
        state = ACCEPTED if accepted and said["state"] in (SLOWER, FASTER) else said["state"]
        known.setdefault(name, Figure()).learn(said["value"], said["error"], state, rule)


def learnt(records: Iterable[Mapping[str, Any]], rule: Rule) -> dict[str, Figure]:
    """What a history's records say of each figure, oldest first."""
    known: dict[str, Figure] = {}
    for record in records:
        learn(known, record, rule)
    return known


def judged(found: Mapping[str, tuple[float, float]], known: Mapping[str, Figure], rule: Rule) -> dict[str, Verdict]:
    """On all figures of a night.

    Parameters
    ----------
    found
        Value and error of each, as :func:`summary` gives them.
    known
        What was learnt from nights like it.
    rule
        When it is an alarm.
    """
    return {name: judge(*values, known.get(name, Figure()), len(found), rule) for name, values in found.items()}

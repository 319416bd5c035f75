"""Tunes a peer as its user would: along one option after another, keeping what was fastest so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers.catalogue import Choice, Peer
from benchmarks.peers.runs import Run, RunFailed


@dataclass
class Sweep:
    """All that was tried, and what was fastest."""

    tried: list[Run] = field(default_factory=list)
    failed: dict[Choice, str] = field(default_factory=dict)
    """What went wrong with these options; they cannot be chosen."""

    @property
    def best(self) -> Run | None:
        """The fastest whose scores are right."""
        return max(self.tried, key=lambda run: run.views_per_s, default=None)

    def record(self) -> list[dict[str, Any]]:
        """For the result, in the order of trying."""
        failures = [{"options": " ".join(options), "failed": why} for options, why in self.failed.items()]
        return [run.record() for run in self.tried] + failures


def tune(peer: Peer, run: Callable[[Choice], Run], limit: int | None = None) -> Sweep:
    """Goes along the peer's axes in turn, the others standing at their best so far.

    Parameters
    ----------
    peer
        Whose axes.
    run
        Measures options; raises RunFailed.
    limit
        So many choices of an axis at the most; None for all.
    """
    sweep = Sweep()
    standing = [axis[0] for axis in peer.axes]
    rates: dict[Choice, float] = {}  # of options; 0 where they failed

    def rate(choices: list[Choice]) -> float:
        options = tuple(word for choice in choices for word in choice)
        if options not in rates:
            try:
                sweep.tried.append(run(options))
                rates[options] = sweep.tried[-1].views_per_s
            except RunFailed as error:
                sweep.failed[options] = str(error)
                rates[options] = 0.0
        return rates[options]

    rate(standing)
    for number, axis in enumerate(peer.axes):
        others = standing[:number], standing[number + 1 :]
        standing[number] = max(axis[:limit], key=lambda choice: rate([*others[0], choice, *others[1]]))
    return sweep

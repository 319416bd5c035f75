"""How far a run has come, and one line on that: rewritten in place on a terminal, now and then in a log."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TextIO

TERMINAL_SECONDS = 0.5  # between lines
LOG_SECONDS = 30.0


@dataclass
class Progress:
    """How far a run has come."""

    views: int
    studies: int
    scored: int = 0
    failed: int = 0
    under_way: int = 0
    """Views that workers are through with and that are not committed yet."""
    before: int = 0
    """Views that earlier runs have scored or given up, and that are not done again."""
    fresh: int = 0
    """Views that workers of this run gave rows of."""
    nodes: dict[str, int] = field(default_factory=dict)
    """By machine, views that its workers gave rows of; empty where there is this one only."""
    started: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        """Views that workers are through with."""
        return self.scored + self.failed + self.under_way

    @property
    def rate(self) -> float:
        """Views per second since the start."""
        return max(0, self.done - self.before) / self._elapsed

    @property
    def node_rates(self) -> list[float]:
        """Views per second of each machine, the slowest first."""
        return sorted(views / self._elapsed for views in self.nodes.values())

    @property
    def _elapsed(self) -> float:
        return max(time.monotonic() - self.started, 1e-9)


class Reporter:
    """Writes progress to a stream; a context manager that leaves the cursor on a line of its own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._in_place = stream.isatty()
        self._pause = TERMINAL_SECONDS if self._in_place else LOG_SECONDS
        self._next = time.monotonic() + self._pause

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._in_place:
            self._stream.write("\n")

    def update(self, progress: Progress) -> None:
        """Writes a line on a scoring run where enough time has passed since the last."""
        self.show(describe(progress), final=progress.done == progress.views)

    def show(self, line: str, final: bool = False) -> None:
        """Writes a line where enough time has passed since the last; a terminal shows the final one in any case."""
        now = time.monotonic()
        if now < self._next and not (final and self._in_place):
            return
        self._next = now + self._pause
        self._stream.write(("\r\x1b[2K" if self._in_place else "") + line + ("" if self._in_place else "\n"))
        self._stream.flush()


def describe(progress: Progress) -> str:
    """``1,024 of 40,561 views, 512.0 views/s, 187.1 studies/s, 3 failed, 0:01:17 to go``; and of several machines
    ``; 2 nodes, 250.1 to 261.9 views/s each``.
    """
    rate, left = progress.rate, progress.views - progress.done
    time_left = clock(left / rate) if rate else "unknown time" if left else clock(0)
    return (
        f"{progress.done:,} of {progress.views:,} views, {rate:.1f} views/s,"
        f" {rate * progress.studies / progress.views:.1f} studies/s, {progress.failed} failed,"
        f" {time_left} to go{_nodes(progress.node_rates)}"
    )


def _nodes(rates: list[float]) -> str:
    if not rates:
        return ""
    count = f"; {len(rates)} node{'s' if len(rates) > 1 else ''}"
    return f"{count}, {rates[0]:.1f} to {rates[-1]:.1f} views/s each" if len(rates) > 1 else count


def clock(seconds: float) -> str:
    """``0:01:17``."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"

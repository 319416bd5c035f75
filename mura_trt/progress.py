"""One line on a run's progress: rewritten in place on a terminal, now and then in a log."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from mura_trt.supervisor import Progress

TERMINAL_SECONDS = 0.5  # between lines
LOG_SECONDS = 30.0


class Reporter:
    """Writes progress to a stream; a context manager that leaves the cursor on a line of its own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._in_place = stream.isatty()
        self._pause = TERMINAL_SECONDS if self._in_place else LOG_SECONDS
        self._next = time.monotonic() + self._pause

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
    rate = progress.rate
    left = (progress.views - progress.done) / rate if rate else 0
    return (
        f"{progress.done:,} of {progress.views:,} views, {rate:.1f} views/s,"
        f" {rate * progress.studies / progress.views:.1f} studies/s, {progress.failed} failed,"
        f" {clock(left)} to go{_nodes(progress.node_rates)}"
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

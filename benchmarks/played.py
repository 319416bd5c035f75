"""Workers that answer at once, in place of those that read, decode and score."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from mura_trt.crew import Inbox
from mura_trt.rows import Rows
from mura_trt.worker import Assignment, Done, Flush, Ready, Stop


class Line(Protocol):
    """Both ends of a pipe, or of what stands for one."""

    def send(self, message: Any, /) -> None:
        """To the supervisor."""

    def recv(self) -> Any:
        """From the supervisor."""


def answer(line: Line, rows: Callable[[Assignment], Rows], batch: int) -> None:
    """What a worker says on its line, until it is told to stop."""
    line.send(Ready("null", "cpu", batch, []))
    while isinstance(message := line.recv(), Assignment):
        began = time.monotonic()
        line.send(Done(rows(message), time.monotonic() - began, {}))


class PlayedWorker:
    """In place of a worker process, in the supervisor's own."""

    def __init__(self, inbox: Inbox, rows: Callable[[Assignment], Rows], batch: int) -> None:
        self._inbox, self._rows = inbox, rows
        inbox.put((self, Ready("null", "cpu", batch, [])))

    def send(self, message: Assignment | Flush | Stop) -> None:
        """As the real one."""
        if isinstance(message, Assignment):
            began = time.monotonic()
            self._inbox.put((self, Done(self._rows(message), time.monotonic() - began, {})))

    def last_words(self) -> str:
        """It never dies."""
        raise AssertionError

    def stop(self, graceful: bool) -> None:
        """There is nothing to stop."""

"""Standard output and error, where a disk is full or nobody reads any more: no reason to lose a night's work."""

from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path
from typing import Any, TextIO

logger = logging.getLogger(__name__)


class _Steadfast(io.FileIO):
    """A file whose writes do not fail: what it cannot take is lost."""

    def write(self, data: Any) -> int:
        """Writes what can be written, and says that all was."""
        try:
            taken = super().write(data)
        except OSError:
            taken = None
        return memoryview(data).nbytes if taken is None else taken  # it gives None where it would have to wait


def steadfast_stderr() -> TextIO:
    """Standard error for log and progress: where it was closed, is full or has no reader, their lines are lost."""
    if sys.stderr is None:  # closed by who started this
        return Path(os.devnull).open("w", errors="backslashreplace")
    own = sys.__stderr__
    if own is None or sys.stderr is not own:  # a program's, in place of the process's
        return sys.stderr
    raw = io.BufferedWriter(_Steadfast(own.fileno(), "w", closefd=False))
    return io.TextIOWrapper(raw, encoding=own.encoding, errors=own.errors, line_buffering=True)


def answer(words: str) -> None:
    """Prints what was asked for; raises OSError where it cannot be, at once and not when the interpreter ends."""
    try:
        print(words, flush=True)
    except OSError:
        with Path(os.devnull).open("w") as nowhere:  # for the interpreter's end, which tries again
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise


def say(words: str) -> None:
    """Prints what became of a command whose results are files, and are there: nobody has to take it."""
    try:
        answer(words)
    except OSError as error:
        logger.warning("standard output takes nothing (%s); the results are written", error.strerror)

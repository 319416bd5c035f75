"""Reads and screens views in order, some threads ahead of whoever asks for batches."""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

from mura_trt.ledger import Failure
from mura_trt.screen import Rejected, screen

READ_THREADS = 4  # more than cores, for they mostly wait for the disk
MAX_CHUNK = 16  # views read by one call in a thread: enough that handing it over costs little per view


class Source(Protocol):
    """Where views' bytes come from; it travels to the worker process, so it must pickle."""

    def read(self, key: bytes) -> bytes:
        """The bytes of one view; raises OSError."""


class Chunk(NamedTuple):
    """Neighbouring views: their source, the number of the first, their keys."""

    source: Source
    start: int
    keys: list[bytes]


class Batch(NamedTuple):
    """Screened files with their views' numbers."""

    views: list[int]
    files: list[bytes]


class ReadAhead:
    """Turns runs of views into full batches of screened files, across the runs' borders.

    Parameters
    ----------
    batch
        Files in a batch.
    """

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._chunk = min(MAX_CHUNK, batch)
        self._depth = READ_THREADS + 2 * batch // self._chunk
        self._threads = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="read")
        self._unread: deque[Chunk] = deque()
        self._reading: deque[tuple[int, Future[list[bytes | Failure]]]] = deque()
        self._ready = Batch([], [])
        self._flush = False
        self._read_began: dict[int, float] = {}  # by thread

    @property
    def reading(self) -> bool:
        """Whether views are being read."""
        return bool(self._reading)

    @property
    def waiting(self) -> bool:
        """Whether files wait for more of them to fill a batch."""
        return bool(self._ready.views)

    def slowest_read(self) -> float:
        """Seconds that the longest of the reads under way has taken so far; 0 where there is none."""
        return time.monotonic() - min(self._read_began.copy().values(), default=time.monotonic())

    def flush(self) -> None:
        """Says that no more views come for now: what waits is given as a short batch."""
        self._flush = True

    def add(self, source: Source, start: int, keys: list[bytes]) -> None:
        """Takes a run of views."""
        for at in range(0, len(keys), self._chunk):
            self._unread.append(Chunk(source, start + at, keys[at : at + self._chunk]))
        self._flush = False
        self._top_up()

    def next_batch(self) -> tuple[Batch | None, list[Failure]]:
        """The next batch, or None where more views must be added first; and the views that failed on the way."""
        failures: list[Failure] = []
        while len(self._ready.views) < self._batch and self._reading:
            start, outcomes = self._reading.popleft()
            self._top_up()
            for view, outcome in enumerate(outcomes.result(), start):
                if isinstance(outcome, Failure):
                    failures.append(outcome)
                else:
                    self._ready.views.append(view)
                    self._ready.files.append(outcome)
        views, files = self._ready
        if len(views) < self._batch and not (views and self._flush):
            return None, failures
        self._ready = Batch(views[self._batch :], files[self._batch :])
        return Batch(views[: self._batch], files[: self._batch]), failures

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown(cancel_futures=True)

    def _top_up(self) -> None:
        while self._unread and len(self._reading) < self._depth:
            chunk = self._unread.popleft()
            self._reading.append((chunk.start, self._threads.submit(self._read, chunk)))

    def _read(self, chunk: Chunk) -> list[bytes | Failure]:
        thread, outcomes = threading.get_ident(), []
        for view, key in enumerate(chunk.keys, chunk.start):
            self._read_began[thread] = time.monotonic()
            outcomes.append(_read_one(chunk.source, view, key))
        del self._read_began[thread]
        return outcomes


def _read_one(source: Source, view: int, key: bytes) -> bytes | Failure:
    try:
        data = source.read(key)
        screen(data)
    except OSError as error:
        code = errno.errorcode.get(error.errno, "UNREADABLE") if error.errno else "UNREADABLE"
        return Failure(view, "read", code, error.strerror or str(error))
    except Rejected as reason:
        return Failure(view, "screen", reason.code, str(reason))
    return data

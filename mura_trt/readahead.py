"""Reads and screens views in order, some threads ahead of whoever asks for batches."""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from mura_trt.archives.listing import DICOM, IMAGE, UNREAD, Reader, Reference, Unreadable
from mura_trt.convert import Plain, plain_gray
from mura_trt.dicom import is_dicom, plain_dicom
from mura_trt.rows import Failure
from mura_trt.screen import Rejected, screen

MAX_HELD = 1 << 30  # bytes that are read ahead, beyond what is being read
MAX_BATCH_BYTES = 1 << 28  # at which a batch is full, whatever the number of its files
DECODED_BYTES_A_SECOND = 1e6  # a fifteenth of what one thread does: slower than that, decoding is taken to hang
MAX_CHUNK = 16  # views read by one call in a thread: enough that handing it over costs little per view


class Chunk(NamedTuple):
    """Neighbouring views: the number of the first, what they are read by, and what they are."""

    start: int
    references: Sequence[Reference]
    kinds: bytes


class Batch(NamedTuple):
    """Screened files with their views' numbers."""

    views: list[int]
    files: list[bytes]
    color: list[bool]
    """Whether the file stores color."""

    def take(self, positions: Sequence[int]) -> Batch:
        """Some of its files, by position."""
        views, files, color = self
        return Batch([views[at] for at in positions], [files[at] for at in positions], [color[at] for at in positions])

    @property
    def allowance(self) -> float:
        """Seconds that decoding it may take, however slow the machine."""
        return sum(map(len, self.files)) / DECODED_BYTES_A_SECOND


class ReadAhead:
    """Turns runs of views into full batches of screened files, across the runs' borders.

    Where half of what may be read ahead is there, one thread reads on, which is least in the way of those that decode;
    where it is not, at the start or because the disk makes them wait, all of the reader's do.

    Parameters
    ----------
    batch
        Files in a batch.
    reader
        What reads the views.
    """

    def __init__(self, batch: int, reader: Reader) -> None:
        self._batch, self._reader = batch, reader
        self._chunk = min(MAX_CHUNK, batch)
        self._most = reader.threads
        self._depth = self._most + 2 * batch // self._chunk
        self._threads = ThreadPoolExecutor(self._most, thread_name_prefix="read")
        self._unread: deque[Chunk] = deque()
        self._reading: deque[tuple[Chunk, Future[list[Plain | Failure]]]] = deque()
        self._busy = 0  # chunks handed to the threads and not read yet
        self._ready = Batch([], [], [])
        self._ready_bytes = 0
        self._flush = False
        self._read_began: dict[int, float] = {}  # by thread
        self._held = 0  # bytes read and not given yet
        self._room = threading.Condition()
        self._awaited: Chunk | None = None
        self._closed = False

    @property
    def reading(self) -> bool:
        """Whether views are being read."""
        return bool(self._reading)

    @property
    def waiting(self) -> bool:
        """Whether files wait for more of them to fill a batch."""
        return bool(self._ready.views)

    def slowest_read(self) -> float:
        """Seconds that the longest of the reads under way has stood still so far; 0 where there is none."""
        now = time.monotonic()
        return now - max(min(self._read_began.copy().values(), default=now), self._reader.moved_at)

    def flush(self) -> None:
        """Says that no more views come for now: what waits is given as a short batch."""
        self._flush = True

    def add(self, start: int, references: Sequence[Reference], kinds: bytes = b"") -> None:
        """Takes a run of views: the number of the first, what they are read by, and their kinds, if not all images."""
        kinds = kinds or bytes([IMAGE]) * len(references)
        for at in range(0, len(references), self._chunk):
            part = slice(at, at + self._chunk)
            self._unread.append(Chunk(start + at, references[part], kinds[part]))
        self._flush = False
        self._top_up()

    def next_batch(self) -> tuple[Batch | None, list[Failure]]:
        """The next batch, or None where more views must be added first; and the views that failed on the way."""
        failures: list[Failure] = []
        while len(self._ready.views) < self._batch and self._ready_bytes < MAX_BATCH_BYTES and self._reading:
            chunk, outcomes = self._reading.popleft()
            self._top_up()
            with self._room:
                self._awaited = chunk
                self._room.notify_all()
            for view, outcome in enumerate(outcomes.result(), chunk.start):
                if isinstance(outcome, Failure):
                    failures.append(outcome)
                else:
                    self._ready.views.append(view)
                    self._ready.files.append(outcome.data)
                    self._ready_bytes += len(outcome.data)
                    self._ready.color.append(outcome.color)
        full = len(self._ready.views) >= self._batch or self._ready_bytes >= MAX_BATCH_BYTES
        if not full and not (self._ready.views and self._flush):
            return None, failures
        count, ready = self._batch, len(self._ready.views)
        given, self._ready = self._ready.take(range(min(count, ready))), self._ready.take(range(count, ready))
        size = sum(map(len, given.files))
        self._ready_bytes -= size
        self._hold(-size)
        return given, failures

    def close(self) -> None:
        """Ends the threads."""
        with self._room:
            self._closed = True
            self._room.notify_all()
        self._threads.shutdown(cancel_futures=True)

    def _top_up(self) -> None:
        with self._room:
            while self._unread and len(self._reading) < self._depth and self._busy < self._wanted and not self._closed:
                chunk = self._unread.popleft()
                self._busy += 1
                self._reading.append((chunk, self._threads.submit(self._read_and_go_on, chunk)))

    @property
    def _wanted(self) -> int:
        """Threads that are to read."""
        there = len(self._reading) - self._busy
        return 1 if 2 * there >= self._depth else self._most

    def _read_and_go_on(self, chunk: Chunk) -> list[Plain | Failure]:
        try:
            return self._read(chunk)
        finally:  # before anyone can see that this chunk is read, so that the next is under way by then
            with self._room:
                self._busy -= 1
                self._top_up()

    def _read(self, chunk: Chunk) -> list[Plain | Failure]:
        thread, outcomes = threading.get_ident(), []
        for view, (reference, kind) in enumerate(zip(chunk.references, chunk.kinds, strict=True), chunk.start):
            # Where files are large, it is bytes that there must not be too many of. What is waited for is read anyway;
            # it is the oldest chunk, so a thread has it.
            if self._held >= MAX_HELD:
                with self._room:
                    self._room.wait_for(lambda: self._held < MAX_HELD or chunk is self._awaited or self._closed)
            self._read_began[thread] = time.monotonic()
            outcome = _read_one(self._reader, view, reference, kind)
            del self._read_began[thread]
            outcomes.append(outcome)
            if isinstance(outcome, Plain):
                self._hold(len(outcome.data))
        return outcomes

    def _hold(self, more: int) -> None:
        with self._room:
            self._held += more
            if more < 0:
                self._room.notify_all()


def plain_of(data: bytes, kind: int) -> Plain:
    """What the decoder takes of a view's bytes; ``kind`` is one of the listing's. Raises Unreadable or Rejected."""
    if kind == UNREAD:  # which may have been a moment's trouble
        raise Unreadable("HEADER_UNREAD", "its header could not be read when it was listed; run again with --update")
    if kind == DICOM and is_dicom(data):
        return plain_dicom(data)
    if is_dicom(data):  # of a study that nobody has looked for
        raise Rejected("DICOM_AS_IMAGE", "a DICOM file whose name ends as an image's; name it .dcm")
    screened = screen(data)
    return Plain(plain_gray(data, screened), screened.color)


def _read_one(reader: Reader, view: int, reference: Reference, kind: int) -> Plain | Failure:
    try:
        return plain_of(reader.read(reference), kind)
    except OSError as error:
        code = errno.errorcode.get(error.errno, "UNREADABLE") if error.errno else "UNREADABLE"
        return Failure(view, "read", code, error.strerror or str(error))
    except Unreadable as reason:
        return Failure(view, "read", reason.code, str(reason))
    except Rejected as reason:
        return Failure(view, "screen", reason.code, str(reason))

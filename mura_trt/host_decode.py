"""The decoder of a session: PNG files by C of our own, in threads; the others by DALI, where the session works."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mura_trt import gray
from mura_trt.decode import BatchDecoder, Decoded, Decoder, GpuDecoder, check_batch
from mura_trt.runtimes.base import GpuStream
from mura_trt.screen import Rejected

RUN = 4  # files that a thread takes at once, at the most: handing one over costs a twentieth of what decoding it does


def open_decoder(size: tuple[int, int], threads: int, batch: int, stream: GpuStream | None = None) -> AnyDecoder:
    """What decodes best here, to the host's memory or, with a stream, to where its GPU can take it from.

    Parameters
    ----------
    size
        Height and width of the pixels.
    threads
        So many decode at a time.
    batch
        Files in a batch at the most.
    stream
        Of a session on a GPU.
    """
    dali = GpuDecoder(size, threads, batch, stream) if stream else Decoder(size, threads, batch)
    return HostDecoder(dali, size, threads, batch) if gray.available() else dali


class _Batch(NamedTuple):
    """A batch under way: positions are those of its files."""

    files: Sequence[bytes]
    own: list[int]
    """Positions of the files that are not DALI's, in the order of ``pixels``."""
    pixels: NDArray[np.uint8]
    running: list[Future[list[int]]]
    """Of runs of the files: which rows of ``pixels`` could not be filled in."""
    dalis: list[int]
    """Positions of the files that DALI decodes."""


class HostDecoder:
    """PNG and PGM files by :mod:`mura_trt.gray`, and all others by DALI. Which way a file goes, it goes in any company.

    Parameters
    ----------
    dali
        Decodes the others.
    size, threads, batch
        As for :func:`open_decoder`.
    """

    def __init__(self, dali: BatchDecoder[Any], size: tuple[int, int], threads: int, batch: int) -> None:
        self._dali, self._size, self._batch = dali, size, batch
        self._wide = threads
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._waiting: deque[_Batch] = deque()
        self._begun_at = time.monotonic()
        self._doubtful: Decoder | None = None

    @property
    def attempted_at(self) -> float:
        """When a batch, or part of one that failed, was last begun: seconds of the monotonic clock."""
        return max(self._begun_at, self._dali.attempted_at)

    @property
    def pending(self) -> int:
        """How many batches were submitted and not collected."""
        return len(self._waiting)

    def submit(self, files: Sequence[bytes]) -> None:
        """Starts decoding a batch of 1 to ``batch`` files that passed :func:`mura_trt.screen.screen`."""
        check_batch(files, self._batch)
        self._begun_at = time.monotonic()
        layouts = [gray.layout(data) for data in files]
        own = [at for at, how in enumerate(layouts) if how]
        pixels = np.empty((len(own), *self._size, 1), np.uint8)

        def fill(rows: range) -> list[int]:
            unfilled = []
            for row in rows:
                how = layouts[own[row]]
                assert how is not None
                if not gray.draw(files[own[row]], how, pixels[row, ..., 0]):
                    unfilled.append(row)
            return unfilled

        rows, run = range(len(own)), max(1, min(RUN, len(own) // self._wide))
        running = [self._threads.submit(fill, rows[at : at + run]) for at in rows[::run]]
        dalis = [at for at, how in enumerate(layouts) if not how]
        if dalis:
            self._dali.submit([files[at] for at in dalis])
        self._waiting.append(_Batch(files, own, pixels, running, dalis))

    def collect(self) -> Decoded[Any]:
        """Waits for the oldest submitted batch."""
        files, own, pixels, running, dalis = self._waiting.popleft()
        unfilled: set[int] = set()
        for run in running:
            unfilled.update(run.result())
            self._begun_at = time.monotonic()
        filled = [row for row in range(len(own)) if row not in unfilled]
        parts: list[Any] = [pixels[filled] if unfilled else pixels]
        kept = [own[row] for row in filled]
        rejected: list[tuple[int, Rejected]] = []

        def take(decoded: Decoded[Any], positions: list[int]) -> None:
            parts.append(decoded.pixels)
            kept.extend(positions[at] for at in decoded.kept)
            rejected.extend((positions[at], why) for at, why in decoded.rejected)

        for row in sorted(unfilled):
            take(self._second_opinion(files[own[row]]), [own[row]])
        if dalis:
            self._begun_at = time.monotonic()
            take(self._dali.collect(), dalis)
        parts = [part for part in parts if len(part)]
        joined = parts[0] if len(parts) == 1 else self._dali.joined(parts)
        rejected.sort(key=lambda one: one[0])
        if isinstance(joined, np.ndarray) and kept != sorted(kept):
            order = sorted(range(len(kept)), key=kept.__getitem__)
            joined, kept = joined[order], sorted(kept)
        return Decoded(joined, kept, rejected)

    def close(self) -> None:
        """Ends its threads; what is under way is dropped."""
        self._threads.shutdown(cancel_futures=True)

    def _second_opinion(self, file: bytes) -> Decoded[NDArray[np.uint8]]:
        """Of DALI, by itself, on a file that is not quite as it should be: it may know better, and says why not."""
        self._begun_at = time.monotonic()
        self._doubtful = self._doubtful or Decoder(self._size, 1, 1)
        self._doubtful.submit([file])
        return self._doubtful.collect()


AnyDecoder = HostDecoder | BatchDecoder[Any]
"""What decodes batches in order: ``submit`` and ``collect`` take turns, some batches apart."""

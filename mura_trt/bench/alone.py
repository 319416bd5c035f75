"""One part of a run with nothing beside it: a runtime's session, or reading and decoding.

For processes of their own. Both take a number of seconds, so that slow ones and fast ones are measured equally well.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mura_trt.archives.listing import DICOM, IMAGE, read_threads
from mura_trt.bundle import Bundle
from mura_trt.host_decode import open_decoder
from mura_trt.places import Place
from mura_trt.readahead import plain_of
from mura_trt.runtimes import SessionOptions, open_session

if TYPE_CHECKING:
    from mura_trt.host_decode import AnyDecoder

BATCHES_READ = 2  # ahead of the decoder, where reading takes threads


class ModelRate(NamedTuple):
    """What a session is, and how fast."""

    runtime: str
    device: str
    batch: int
    passed_over: list[str]
    views_per_s: float


def model_rate(bundle: Bundle, runtime: str, batch: int | None, seconds: float, cores: int | None = None) -> ModelRate:
    """A session kept busy with random pixels in the host's memory; on a GPU, copies to and from it are counted in.

    Parameters
    ----------
    bundle
        Checked by whoever opened it.
    runtime, batch
        As for ``score``.
    seconds
        At the least; the first batch is not counted.
    cores
        Keeps the process to so many cores and takes GPUs from its sight; None leaves it all that there are.

    Raises
    ------
    UsageError, RuntimeUnavailable
        As :func:`mura_trt.runtimes.open_session`.
    """
    if cores is not None:
        Place(cores=frozenset(sorted(os.sched_getaffinity(0))[:cores])).take()
    import numpy as np

    session, passed_over = open_session(runtime, bundle, SessionOptions(batch))
    with closing(session):
        shape = session.batch, bundle.contract.height, bundle.contract.width, bundle.contract.channels
        pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        session.run(pixels)
        batches, started = 0, time.perf_counter()
        while not batches or time.perf_counter() - started < seconds:
            if not session.room:
                session.collect()
            session.submit(pixels)
            batches += 1
        while session.pending:
            session.collect()
        taken = time.perf_counter() - started
        return ModelRate(session.name, session.device, session.batch, passed_over, batches * session.batch / taken)


def decode_alone(
    paths: Sequence[Path], size: tuple[int, int], threads: int, batch: int, seconds: float, converted: bool = False
) -> float:
    """Views/s of reading files and decoding them in the host's memory.

    Parameters
    ----------
    paths
        Files that are known to decode, read again and again.
    size
        Height and width of the pixels.
    threads
        That decode.
    batch
        Files in a batch.
    seconds
        At the least; the first batch is not counted.
    converted
        Some files are turned into others first, as ``score`` does, in as many threads as it does.
    """
    batches = cycled(paths, batch, seconds)
    with closing(open_decoder(size, threads, batch)) as decoder:
        return decode_rate(decoder, _converted(batches) if converted else read_batches(batches))


def decode_rate(
    decoder: AnyDecoder, batches: Iterable[Sequence[bytes]], wait: Callable[[], object] = lambda: None
) -> float:
    """Views/s of a decoder, two batches ahead; ``wait`` follows each batch, for pixels that come later.

    The first batch is not counted.
    """

    def collect() -> int:
        decoded = decoder.collect()
        wait()
        return len(decoded.kept)

    coming = iter(batches)
    decoder.submit(next(coming))
    collect()
    views, started = 0, time.perf_counter()
    for files in coming:
        decoder.submit(files)
        if decoder.pending > 2:
            views += collect()
    while decoder.pending:
        views += collect()
    return views / (time.perf_counter() - started)


def cycled(paths: Sequence[Path], batch: int, seconds: float) -> Iterator[list[Path]]:
    """Batches of paths, over and over, for so many seconds behind the first two."""
    endless = itertools.cycle(paths)
    yield list(itertools.islice(endless, batch))
    started = time.perf_counter()
    yield list(itertools.islice(endless, batch))
    while time.perf_counter() - started < seconds:
        yield list(itertools.islice(endless, batch))


def in_batches(paths: Sequence[Path], batch: int) -> Iterator[Sequence[Path]]:
    """All of the paths once, and the first batch before them, once more."""
    yield paths[:batch]
    for at in range(0, len(paths), batch):
        yield paths[at : at + batch]


def read_batches(batches: Iterable[Sequence[Path]]) -> Iterator[list[bytes]]:
    """Their bytes, read when they are wanted."""
    for batch in batches:
        yield [path.read_bytes() for path in batch]


def _converted(batches: Iterable[Sequence[Path]]) -> Iterator[list[bytes]]:
    """What the decoder takes of them, made in threads, some batches ahead."""
    waiting: deque[Iterator[bytes]] = deque()
    with ThreadPoolExecutor(read_threads()) as pool:
        for batch in batches:
            waiting.append(pool.map(_plain, batch))
            if len(waiting) > BATCHES_READ:
                yield list(waiting.popleft())
        while waiting:
            yield list(waiting.popleft())


def _plain(path: Path) -> bytes:
    return plain_of(path.read_bytes(), DICOM if path.suffix == ".dcm" else IMAGE).data

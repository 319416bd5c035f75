"""Loads that take turns, and fixed work without our code to measure against: what slows the machine slows both.

A load works in processes of its own, which wait between its turns; a turn lasts a part of a second, so that it can
stand between any two measurements. Only zlib, numpy and Python itself are in the fixed work, and records are told apart
by the versions of all three.
"""

from __future__ import annotations

import multiprocessing
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

_IMAGES, _HEIGHT, _WIDTH = 32, 512, 400  # more than a core's cache, as the files that are decoded
_SMALL_FILES = 64

Load = Callable[[float], int]
"""Works for about so many seconds, and returns how many units it did."""


class Pace(NamedTuple):
    """How fast work was done."""

    wall: float
    """Units a second."""
    cpu: float
    """Units a second of the CPU time of all its processes."""


def images() -> Load:
    """Loads a core as decoding does: inflates an image, adds up along its columns, and resizes it."""
    rng = np.random.default_rng(0)
    rows = np.clip(rng.normal(0, 3, (_IMAGES, _HEIGHT, _WIDTH)), -100, 100).astype(np.int8).view(np.uint8)
    packed = [zlib.compress(image.tobytes(), 6) for image in rows]
    down, across = np.linspace(0, _HEIGHT - 2, 320).astype(int), np.linspace(0, _WIDTH - 2, 320).astype(int)

    def work(seconds: float) -> int:
        began, units = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            image = np.frombuffer(zlib.decompress(packed[units % _IMAGES]), np.uint8).reshape(_HEIGHT, _WIDTH)
            image = np.add.accumulate(image, axis=0, dtype=np.uint8)
            tall = (image[down].astype(np.uint16) + image[down + 1]) >> 1
            resized = (tall[:, across] + tall[:, across + 1]) >> 1
            units += len(resized) // len(down)
        return units

    return work


def small_files() -> Load:
    """Loads it as many tiny images do: opens, reads, looks through and closes files, in Python."""
    folder = tempfile.TemporaryDirectory()
    header = struct.Struct(">IIII")
    for number in range(_SMALL_FILES):
        (Path(folder.name) / str(number)).write_bytes(header.pack(number, 8, 8, 64) + bytes(range(128)))

    def work(seconds: float) -> int:
        began, units = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            seen = {}
            for file in range(_SMALL_FILES):
                descriptor = os.open(f"{folder.name}/{file}", os.O_RDONLY)
                try:
                    data = os.read(descriptor, os.fstat(descriptor).st_size)
                finally:
                    os.close(descriptor)
                number, height, width, _ = header.unpack_from(data)
                seen[number] = (zlib.crc32(data[header.size :]), [height * column for column in range(width)])
            units += len(seen)
        return units

    return work


def _serve(connection: Connection, make: Callable[..., Load], arguments: tuple[object, ...]) -> None:
    load = make(*arguments)
    connection.send(None)
    with suppress(EOFError):  # the other end was closed: that was all
        while True:
            seconds = connection.recv()
            began, cpu = time.perf_counter(), time.process_time()
            units = load(seconds)
            connection.send((units, time.perf_counter() - began, time.process_time() - cpu))


class Turns:
    """A load in fresh processes, a turn at a time.

    Parameters
    ----------
    processes
        So many do it at a time.
    make
        Makes the load in each of them; a function that they can import.
    *arguments
        Its own.
    """

    def __init__(self, processes: int, make: Callable[..., Load], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(processes)]
        self._ends = [mine for mine, _ in pipes]
        self._processes = [
            context.Process(target=_serve, args=(theirs, make, arguments), daemon=True) for _, theirs in pipes
        ]
        for process, (_, theirs) in zip(self._processes, pipes, strict=True):
            process.start()
            theirs.close()
        for end in self._ends:
            end.recv()

    def turn(self, seconds: float) -> Pace:
        """Works for so long; EOFError where one of its processes has died."""
        for end in self._ends:
            end.send(seconds)
        found = [end.recv() for end in self._ends]
        units = sum(done for done, _, _ in found)
        return Pace(sum(done / wall for done, wall, _ in found), units / sum(cpu for _, _, cpu in found))

    def __enter__(self) -> Turns:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.join()

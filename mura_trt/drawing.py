"""Draws heatmaps in a process of its own, so that a view on which that hangs or dies costs no other one its picture."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mura_trt.archives.listing import HeaderReader, Reference, Source
from mura_trt.contract import InputContract
from mura_trt.cores import usable_cores
from mura_trt.errors import EnvironmentProblem, MuraTrtError
from mura_trt.pixels import decoded_views
from mura_trt.processes import send_output_to, work_for

PATIENCE = 45.0  # seconds without a word
PULSE_SECONDS = 1.0
START_SECONDS = 600.0  # to load libraries
MAX_LOSSES_IN_A_ROW = 20  # with no view drawn in between: then it is the disk or the machine, and no view's fault

logger = logging.getLogger(__name__)


class Sketch(NamedTuple):
    """A view to be drawn: what it is read by, its kind as :meth:`Listing.kinds_of` has it, its map and its picture."""

    reference: Reference
    kind: bytes
    cam: NDArray[np.float32]
    file: Path


class Drawn(NamedTuple):
    """Of the sketches in hand those that were drawn just now, by number, and why others never will be.

    With none of both it only says that the process is alive.
    """

    at: list[int]
    failures: list[str]


@dataclass(frozen=True)
class _Opened:
    """A source whose reader is open: of a stream, another one would begin anew."""

    root: str
    reader: HeaderReader

    def open(self) -> HeaderReader:
        return self.reader


class Drawer:
    """A process that draws, and another one where that is lost; a context manager that leaves none behind.

    Parameters
    ----------
    source
        Where the views are read from.
    log
        Takes what the decoders' C libraries print.
    """

    def __init__(self, source: Source, log: Path) -> None:
        self._arguments = (source, log, os.getpid())
        self._context = multiprocessing.get_context("spawn")  # DALI does not survive a fork
        self._process: SpawnProcess | None = None
        self._connection: Connection
        self._losses_in_a_row = 0

    def __enter__(self) -> Drawer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def draw(self, sketches: list[Sketch]) -> Iterator[int]:
        """Draws; gives the numbers of those whose picture is there, in order, as they come.

        What is lost with a process is drawn again one by one; a view that a process is lost on then has no picture,
        which is logged.

        Raises
        ------
        OSError
            A picture cannot be written.
        EnvironmentProblem
            Whatever is drawn, the process is lost.
        """
        through = 0
        for part in self._asked(sketches):
            if isinstance(part, str):
                break
            yield from part.at
            through = max([through, *(at + 1 for at in part.at)])
        else:
            return
        for at in range(through, len(sketches)):
            for part in self._asked(sketches[at : at + 1]):
                if isinstance(part, str):
                    logger.warning("a view that was scored has no heatmap: the process that drew it %s", part)
                else:
                    yield from (at for _ in part.at)

    def _asked(self, sketches: list[Sketch]) -> Iterator[Drawn | str]:
        """What the process draws; in the end, where it is lost, how."""
        lost = "" if self._process else self._start()
        if not lost:
            with contextlib.suppress(OSError):  # it has died, which is seen below
                self._connection.send(sketches)
        while not lost:
            answer = self._receive(PATIENCE)
            if answer is None:
                return
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, str):
                lost = answer
            else:
                if answer.at:
                    self._losses_in_a_row = 0
                for why in answer.failures:
                    logger.warning("a view that was scored has no heatmap: %s", why)
                yield answer
        self._stop()
        self._losses_in_a_row += 1
        if self._losses_in_a_row > MAX_LOSSES_IN_A_ROW:
            raise EnvironmentProblem(
                f"the process that draws heatmaps {lost}, {self._losses_in_a_row} times with none drawn in between; all"
                " scores are written: look at the disk and at memory, then draw with --resume"
            )
        yield lost

    def _start(self) -> str:
        self._connection, theirs = self._context.Pipe()
        arguments = (theirs, *self._arguments)
        self._process = self._context.Process(target=_main, args=arguments, name="mura-trt-drawer", daemon=True)
        self._process.start()
        theirs.close()  # or the end of the process would not end the connection
        answer = self._receive(START_SECONDS)
        return answer if isinstance(answer, str) else ""

    def _receive(self, patience: float) -> Drawn | Exception | str | None:
        """Its next message; a string says how it was lost."""
        assert self._process is not None
        try:
            if not self._connection.poll(patience):
                return f"hung for {patience:.0f} s"
            answer: Drawn | Exception | None = self._connection.recv()
            return answer
        except (EOFError, OSError):
            self._process.join(timeout=10)
            return f"died (exit code {self._process.exitcode})"

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.join(timeout=10)  # longer where it waits in the kernel, where no signal reaches
        self._connection.close()
        self._process = None


def _main(connection: Connection, source: Source, log: Path, supervisor: int) -> None:
    """The process's entry: draws what it is sent, until the connection ends."""
    work_for(supervisor)
    send_output_to(log)
    opened = _Opened(source.root, source.open())
    connection.send(None)
    telling = threading.Lock()

    def tell(message: Drawn | Exception | None) -> None:
        with telling:
            connection.send(message)

    def tell_of_reading() -> None:
        """A stream may have to be passed over for minutes to come to a view."""
        moved = opened.reader.moved_at
        while True:
            time.sleep(PULSE_SECONDS)
            if opened.reader.moved_at != moved:
                moved = opened.reader.moved_at
                tell(Drawn([], []))

    threading.Thread(target=tell_of_reading, name="pulse", daemon=True).start()
    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="draw") as threads, contextlib.suppress(EOFError):
        while True:
            sketches: list[Sketch] = connection.recv()
            try:
                for drawn in _draw(sketches, opened, threads):
                    tell(drawn)
                tell(None)
            except (OSError, MuraTrtError) as error:
                tell(error)


def _draw(sketches: list[Sketch], source: _Opened, threads: ThreadPoolExecutor) -> Iterator[Drawn]:
    from mura_trt.heatmaps import encoded, overlay

    contract = InputContract()

    def draw(sketch: Sketch, pixels: NDArray[np.uint8]) -> None:
        sketch.file.parent.mkdir(parents=True, exist_ok=True)
        sketch.file.write_bytes(encoded(overlay(pixels[..., 0], sketch.cam.reshape(contract.map_shape))))

    references, kinds = [sketch.reference for sketch in sketches], b"".join(sketch.kind for sketch in sketches)
    for decoded in decoded_views(source, references, (contract.height, contract.width), kinds):
        list(threads.map(draw, [sketches[at] for at in decoded.views], decoded.pixels))
        yield Drawn(decoded.views, [failure.message for failure in decoded.failures])

"""Draws heatmaps in a process of its own, so that a view on which that hangs or dies costs no other one its picture."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mura_trt.archives.listing import Reference, Source
from mura_trt.contract import InputContract
from mura_trt.cores import usable_cores
from mura_trt.errors import EnvironmentProblem, MuraTrtError
from mura_trt.overlay import encoded, overlay
from mura_trt.pixels import ViewDecoder
from mura_trt.processes import send_output_to, work_for
from mura_trt.worker import PULSE_SECONDS, Fatal, Pulse, Stop
from mura_trt.workerprocess import WorkerProcess

PATIENCE = 45.0  # seconds without a word, or in which it gets no further with what it is at
START_SECONDS = 600.0  # to load libraries and to open the source
MAX_LOSSES_IN_A_ROW = 20  # with no view drawn in between: then it is the disk or the machine, and no view's fault

logger = logging.getLogger(__name__)


class Sketch(NamedTuple):
    """A view to be drawn: what it is read by, its kind as :meth:`Listing.kinds_of` has it, its map and its picture."""

    reference: Reference
    kind: bytes
    cam: NDArray[np.float32]
    file: Path


class Drawn(NamedTuple):
    """What has become of some of the sketches in hand, by number: each comes up once, drawn or with why it is not."""

    at: list[int]
    failures: list[tuple[int, str]]


@dataclass(frozen=True)
class DrawingConfig:
    """All that the process needs to know before its first sketches."""

    source: Source
    """Where the views are read from."""
    log: Path
    """File that takes what the decoders' C libraries print."""
    contract: InputContract
    """The size of pictures and maps."""


class Drawer:
    """A process that draws, and another one where that is lost; a context manager that leaves none behind.

    Parameters
    ----------
    source
        Where the views are read from.
    log
        Takes what the decoders' C libraries print.
    contract
        Of the bundle that gave the maps.
    """

    def __init__(self, source: Source, log: Path, contract: InputContract) -> None:
        self._config = DrawingConfig(source, log, contract)
        self._process: WorkerProcess | None = None
        self._inbox: SimpleQueue[tuple[WorkerProcess, Drawn | Pulse | Fatal | OSError | None]]
        self._losses_in_a_row = 0

    def __enter__(self) -> Drawer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop(graceful=exception[0] is None)

    def draw(self, sketches: list[Sketch]) -> Iterator[int]:
        """Draws; gives the numbers of those whose picture is there, in order, as they come.

        What is lost with a process is drawn again one by one; a view that a process is lost on then has no picture,
        which is logged, as is why another one has none.

        Raises
        ------
        OSError
            A picture cannot be written.
        MuraTrtError
            What keeps the process from drawing at all: the source cannot be opened, a library is missing.
        EnvironmentProblem
            Whatever is drawn, the process is lost.
        """
        left = dict(enumerate(sketches))
        if not (yield from self._drawn(left)):
            return
        for at, sketch in left.items():
            if lost := (yield from self._drawn({at: sketch})):
                logger.warning("a view that was scored has no heatmap: the process that drew it %s", lost)

    def _drawn(self, left: dict[int, Sketch]) -> Generator[int, None, str]:
        """Has sketches drawn and takes out those that are settled; in the end, how the process was lost, if it was."""
        numbers = list(left)
        lost = "" if self._process else self._start()
        if self._process and not lost:
            self._process.send(list(left.values()))
        while left and not lost:
            match self._receive(PATIENCE) or f"hung: no sign of life for {PATIENCE:.0f} s":
                case str() as lost:
                    pass
                case Drawn(drawn, failures):
                    for at, why in failures:
                        del left[numbers[at]]
                        logger.warning("a view that was scored has no heatmap: %s", why)
                    for at in drawn:
                        del left[numbers[at]]
                        self._losses_in_a_row = 0
                        yield numbers[at]
        if lost:
            self._lose(lost)
        return lost

    def _start(self) -> str:
        """Starts a process, and waits until it can draw; how it was lost, if it was."""
        self._inbox = SimpleQueue()  # of its own: another one's last words are none of its
        self._process = WorkerProcess(self._config, self._inbox, main)
        answer = self._receive(START_SECONDS)
        if answer is None:
            raise EnvironmentProblem(
                f"the process that draws heatmaps did not get ready within {START_SECONDS:.0f} s; all scores are"
                f" written: see {self._config.log}, look at the disk, then draw with --resume"
            )
        return answer if isinstance(answer, str) else ""

    def _receive(self, patience: float) -> Drawn | Pulse | str | None:
        """The process's next message, or how it was lost; None where nothing comes. Raises what keeps it from work."""
        assert self._process is not None
        try:
            _, message = self._inbox.get(timeout=patience)
        except Empty:
            return None
        match message:
            case None:
                return f"died ({self._process.last_words()})"
            case Pulse(_, stage, seconds) if seconds > PATIENCE:
                return f"hung: {stage} takes more than {PATIENCE:.0f} s"
            case Fatal(error):
                raise error
            case OSError() as error:
                raise error
        return message

    def _lose(self, how: str) -> None:
        self._stop(graceful=False)
        self._losses_in_a_row += 1
        if self._losses_in_a_row > MAX_LOSSES_IN_A_ROW:
            raise EnvironmentProblem(
                f"the process that draws heatmaps {how}, {self._losses_in_a_row} times with none drawn in between; all"
                " scores are written: look at the disk and at memory, then draw with --resume"
            )

    def _stop(self, graceful: bool) -> None:
        if self._process:
            self._process.stop(graceful)
        self._process = None


def main(connection: Connection, config: DrawingConfig, supervisor: int) -> None:
    """The process's entry: draws what it is sent, until ``Stop`` or until the connection is closed.

    Parameters
    ----------
    connection
        Takes lists of ``Sketch`` and ``Stop``; gives ``Pulse``, the first when it can draw, and ``Drawn``. Its last
        message may be ``Fatal``, or the OSError for which a picture cannot be written.
    config
        What to work with.
    supervisor
        The process id of whoever started it.
    """
    work_for(supervisor)
    send_output_to(config.log)
    contract = config.contract
    try:
        with ViewDecoder(config.source.open(), contract.size) as decoder:
            _Artist(connection, decoder, contract).run()
    except MuraTrtError as error:
        connection.send(Fatal(error))
    except (OSError, ImportError) as error:
        problem = f"heatmaps cannot be drawn: {error}; all scores are written: mend that, then draw with --resume"
        connection.send(Fatal(EnvironmentProblem(problem)))


class _Artist:
    """The loop from sketches to pictures."""

    def __init__(self, connection: Connection, decoder: ViewDecoder, contract: InputContract) -> None:
        assert contract.map_shape is not None
        self._connection, self._decoder, self._map_shape = connection, decoder, contract.map_shape
        self._sending = threading.Lock()
        self._drawn_at: float | None = None  # while some are drawn: when the last was, or the first began

    def run(self) -> None:
        """Works until ``Stop``, until the other end of the connection is closed, or until a picture cannot be written.

        A stream may have to be passed over for minutes to come to a view: a thread of its own tells that it moves.
        """
        self._send(Pulse(0, "idle", 0.0))
        threading.Thread(target=self._send_pulses, name="pulse", daemon=True).start()
        with ThreadPoolExecutor(usable_cores(), thread_name_prefix="draw") as threads:
            while sketches := self._next():
                references, kinds = [one.reference for one in sketches], b"".join(one.kind for one in sketches)
                for decoded in self._decoder.decoded(references, kinds):
                    try:
                        self._draw([sketches[at] for at in decoded.views], decoded.pixels, threads)
                    except OSError as error:
                        self._send(error)
                        return
                    failures = [(failure.view, failure.message) for failure in decoded.failures]
                    self._send(Drawn(decoded.views, failures))

    def _next(self) -> list[Sketch]:
        """What is to be drawn; nothing in the end."""
        with contextlib.suppress(EOFError):
            message: list[Sketch] | Stop = self._connection.recv()
            return [] if isinstance(message, Stop) else message
        return []

    def _draw(self, sketches: list[Sketch], pixels: NDArray[np.uint8], threads: ThreadPoolExecutor) -> None:
        self._drawn_at = time.monotonic()
        for _ in threads.map(self._draw_one, sketches, pixels):
            self._drawn_at = time.monotonic()
        self._drawn_at = None

    def _draw_one(self, sketch: Sketch, pixels: NDArray[np.uint8]) -> None:
        """Writes a picture; ``pixels`` is uint8 (H, W, 1)."""
        sketch.file.parent.mkdir(parents=True, exist_ok=True)
        sketch.file.write_bytes(encoded(overlay(pixels[..., 0], sketch.cam.reshape(self._map_shape))))

    def _send_pulses(self) -> None:
        while True:
            time.sleep(PULSE_SECONDS)
            began = self._drawn_at
            stage, seconds = self._decoder.standstill() if began is None else ("draw", time.monotonic() - began)
            try:
                self._send(Pulse(0, stage, seconds))
            except OSError:  # nobody listens any more
                return

    def _send(self, message: Drawn | Pulse | OSError) -> None:
        with self._sending:
            self._connection.send(message)

"""The way of batches through a simulated GPU: in whatever order things happen there, every view gets its own score.

The worker, reading, screening, DALI on the CPU and the flight of batches are the product's; streams, events and memory
are :mod:`tests.flight.simulated`.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from mura_trt import gray
from mura_trt.archives.folder import FolderSource
from mura_trt.contract import InputContract
from mura_trt.decode import Decoder
from mura_trt.errors import RuntimeUnavailable
from mura_trt.host_decode import AnyDecoder, open_decoder
from mura_trt.rows import Rows, Task
from mura_trt.runtimes.base import Pixels
from mura_trt.runtimes.cuda import Stream
from mura_trt.runtimes.device import Output, Slot
from mura_trt.runtimes.null import checksums
from mura_trt.worker import Assignment, Done, Flush, Hungry, Pulse, Stop, Worker
from tests.flight.simulated import (
    BothWays,
    OnHost,
    Refused,
    SimulatedDecoder,
    SimulatedDevice,
    SimulatedSession,
    SimulatedStream,
    SplitDecoder,
)

CONTRACT = InputContract(height=32, width=32)
SIZE = CONTRACT.size
VIEWS, BATCHES, DEPTHS = 40, (1, 2, 3, 5), (1, 2, 3, 4)
SCHEDULES = [range(400), pytest.param(range(400, 1000), marks=pytest.mark.slow)]
BROKEN_SCHEDULES, HOST_SCHEDULES = 25, 200
Decoders = Mapping[int, SimulatedDecoder | OnHost | BothWays]


class Archive(NamedTuple):
    """Files of which some are missing or no images, and maybe some with broken pixels; and what the good ones score."""

    source: FolderSource
    names: list[bytes]
    expected: dict[int, float]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return make_archive(tmp_path_factory.mktemp("views"), Decoder(SIZE, 1, 1))


@pytest.fixture(scope="module")
def broken_archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return make_archive(tmp_path_factory.mktemp("broken"), Decoder(SIZE, 1, 1), broken=True)


def make_archive(folder: Path, decoder: AnyDecoder, broken: bool = False, jpeg: bool = False) -> Archive:
    rng = np.random.default_rng(5)
    names, expected = [], {}
    for view in range(VIEWS):
        path = folder / f"{view}.{'jpg' if jpeg and view % 3 == 0 else 'png'}"
        names.append(path.name.encode())
        Image.fromarray(rng.integers(0, 256, (rng.integers(8, 60), rng.integers(8, 60)), np.uint8)).save(path)
        if broken and view % 9 == 4:
            path.write_bytes(_with_broken_pixels(path.read_bytes()))
        elif view % 13 == 7:
            path.unlink()
        elif view % 17 == 11:
            path.write_bytes(b"text")
        else:
            decoder.submit([path.read_bytes()])
            expected[view] = float(checksums(decoder.collect().pixels, CONTRACT.map_shape).logit[0])
    return Archive(FolderSource(str(folder)), names, expected)


def _with_broken_pixels(png: bytes) -> bytes:
    """The same chunks with right checksums, and pixels that nobody can inflate: it passes the screen."""
    at = png.index(b"IDAT")
    length = int.from_bytes(png[at - 4 : at], "big")
    body = b"IDAT" + b"\xff" * length
    return png[:at] + body + zlib.crc32(body).to_bytes(4, "big") + png[at + 8 + length :]


@pytest.fixture(scope="module")
def decoders() -> dict[int, SimulatedDecoder]:
    return {batch: SimulatedDecoder(SIZE, 1, batch) for batch in BATCHES}


@pytest.fixture(scope="module")
def host_decoders() -> dict[int, OnHost]:
    return {batch: OnHost(SIZE, 1, batch) for batch in BATCHES}


class Script:
    """The supervisor's end of a worker's connection: a schedule's tasks, when it pleases."""

    def __init__(self, archive: Archive, schedule: random.Random) -> None:
        self._archive, self._schedule = archive, schedule
        edges = sorted({0, VIEWS, *(schedule.randrange(VIEWS) for _ in range(schedule.randrange(6)))})
        self._left = [Task(start, stop) for start, stop in pairwise(edges)]
        self._messages: SimpleQueue[Assignment | Flush | Stop] = SimpleQueue()
        self._out = 0
        self._over = False
        self.rows: list[Rows] = []
        for _ in range(schedule.randint(1, 3)):
            self._give()

    def _give(self) -> bool:
        if self._left:
            task = self._left.pop(0)
            self._messages.put(Assignment(task, [*self._archive.names[task.start : task.stop]]))
            self._out += 1
            return True
        return False

    def end(self) -> None:
        """Ends the worker's threads, however far it has come."""
        self._over = True
        self._messages.put(Stop())

    def recv(self) -> Assignment | Flush | Stop:
        if self._over:
            raise EOFError
        message = self._messages.get()
        self._over = isinstance(message, Stop)
        return message

    def send(self, message: object) -> None:
        if isinstance(message, Hungry) and not self._give():
            self._messages.put(Flush())
        if isinstance(message, Done):
            self.rows.append(message.rows)
            self._out -= 1
            if self._out == 0 or self._schedule.random() < 0.7:
                self._give()
            if self._out == 0:
                self._messages.put(Stop())
        if self._over and isinstance(message, Pulse):
            raise OSError  # ends the thread that sends them


def fly(
    archive: Archive,
    decoders: Decoders,
    seed: int,
    session_class: Callable[..., SimulatedSession] = SimulatedSession,
    device_class: type[SimulatedDevice] = SimulatedDevice,
) -> None:
    """One schedule; raises AssertionError where a view has not its own score, or memory was not one's own."""
    schedule = random.Random(seed)
    batch, depth = schedule.choice(BATCHES), schedule.choice(DEPTHS)
    gpu = device_class(schedule, eager=schedule.choice((0.0, 0.1, 0.5, 0.9)))
    session = session_class(CONTRACT, batch, gpu, depth)
    decoder = decoders[batch].onto(gpu, session)
    script = Script(archive, schedule)
    connection: Any = script
    worker = Worker(connection, archive.source.open(), decoder, session, map_size=0)
    try:
        worker.run()
    finally:
        script.end()
        worker._ahead.close()
        while decoder.pending:  # for whoever uses the decoder next
            decoder.collect()
    del worker
    session.close()
    assert not decoder.faults, decoder.faults[0]
    assert [block.name for block in gpu.blocks.values() if block.name != "memory"] == [], "pixels that nobody freed"
    found: dict[int, float] = {}
    failed: set[int] = set()
    for rows in script.rows:
        found.update(zip(rows.views.tolist(), rows.scores["logit"].tolist(), strict=True))
        failed.update(failure.view for failure in rows.failures)
    assert sum(rows.stop - rows.start for rows in script.rows) == VIEWS
    assert found == archive.expected
    assert failed == set(range(VIEWS)) - archive.expected.keys()


@pytest.mark.parametrize("seeds", SCHEDULES, ids=["some", "more"])
def test_every_view_gets_its_own_score_in_any_order_of_things(
    seeds: range, archive: Archive, decoders: dict[int, SimulatedDecoder]
) -> None:
    for seed in seeds:
        fly(archive, decoders, seed)


def test_batches_that_were_decoded_in_parts_come_together_again(
    broken_archive: Archive, decoders: dict[int, SimulatedDecoder]
) -> None:
    for seed in range(BROKEN_SCHEDULES):  # few, for the decoder is made anew for each broken file
        fly(broken_archive, decoders, seed)


def test_pixels_in_the_hosts_memory_are_left_alone_until_they_are_copied(
    archive: Archive, host_decoders: dict[int, OnHost]
) -> None:
    for seed in range(HOST_SCHEDULES):
        fly(archive, host_decoders, seed)


def test_batches_in_both_memories_come_together(archive: Archive) -> None:
    decoders = {batch: SplitDecoder(SIZE, 1, batch) for batch in BATCHES}
    for seed in range(HOST_SCHEDULES):
        fly(archive, decoders, seed)


@pytest.mark.skipif(not gray.available(), reason="the C code was not built here")
def test_files_that_go_two_ways_come_together(tmp_path: Path) -> None:
    archive = make_archive(tmp_path, open_decoder(SIZE, 1, 1), jpeg=True)
    decoders = {batch: BothWays(SIZE, 1, batch) for batch in BATCHES}
    for seed in range(HOST_SCHEDULES):
        fly(archive, decoders, seed)


class DeafStream(SimulatedStream):
    """Waits for nobody."""

    def wait_for_event(self, event: object) -> None: ...


class DeafDevice(SimulatedDevice):
    """Its second stream, on which scores are copied back, does not wait for them to be computed."""

    def stream(self) -> SimulatedStream:
        stream = super().stream()
        if len(self.streams) == 2:
            stream = self.streams[-1] = DeafStream(self, stream.name, stream.handle)
        return stream


class DeafToDecoder(SimulatedDevice):
    """The stream that computes does not wait for the decoder."""

    def stream(self) -> SimulatedStream:
        stream = super().stream()
        if len(self.streams) == 1:
            stream = self.streams[-1] = DeafStream(self, stream.name, stream.handle)
        return stream


class Impatient(SimulatedSession):
    """Takes scores without waiting until they are there."""

    def _collect(self) -> Any:
        for slot in self._flying:
            slot.copied = _Nothing()
        return super()._collect()


class _Nothing:
    def record(self, stream: object) -> None: ...

    def synchronize(self) -> None: ...


class Forgetful(SimulatedSession):
    """Lets go of a batch's pixels once it has started."""

    def _submit(self, images: Pixels) -> None:
        super()._submit(images)
        self._flying[-1].pieces.clear()


class Greedy(SimulatedSession):
    """Uses a batch's memory for the next one at once."""

    def _submit(self, images: Pixels) -> None:
        super()._submit(images)
        self._free.appendleft(self._flying[-1])


class Careless(SimulatedSession):
    """Forgets that a batch which is not whole must be gathered."""

    def _gather(self, slot: Slot) -> None: ...


class Frugal(SimulatedSession):
    """Has one place for all batches that come from the host's memory."""

    def _submit(self, images: Pixels) -> None:
        if self._flying:
            self._free[0].staged = self._flying[-1].staged
        super()._submit(images)


FAULTS: dict[str, dict[str, Any]] = {
    "copies back what is not computed": {"device_class": DeafDevice},
    "computes on what is not decoded": {"device_class": DeafToDecoder},
    "takes scores that are not there": {"session_class": Impatient},
    "gives pixels back too early": {"session_class": Forgetful},
    "reuses memory too early": {"session_class": Greedy},
    "computes on memory without pixels": {"session_class": Careless},
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_missing_wait_is_caught(fault: str, archive: Archive, decoders: dict[int, SimulatedDecoder]) -> None:
    # One batch in flight waits for itself, and batches of one are always whole.
    assert schedules_caught(archive, decoders, **FAULTS[fault]) >= 8


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("session_class", [Frugal, Greedy, Impatient])
def test_a_missing_wait_is_caught_of_pixels_in_the_hosts_memory(
    session_class: type[SimulatedSession], archive: Archive, host_decoders: dict[int, OnHost]
) -> None:
    assert schedules_caught(archive, host_decoders, session_class=session_class) >= 8


def schedules_caught(archive: Archive, decoders: Decoders, **fault: Any) -> int:
    """In how many of 20 schedules a fault shows."""
    caught = 0
    for seed in range(20):
        try:
            fly(archive, decoders, seed, **fault)
        except (AssertionError, KeyError, ValueError):
            caught += 1
    print(f"{fault}: caught in {caught} of 20 schedules")
    return caught


class Refusing(SimulatedSession):
    """Cannot compute."""

    error: type[Exception] = Refused

    def _launch(self, image: int, outputs: dict[str, Output], stream: Stream) -> None:
        raise self.error("no kernel for this")


@pytest.mark.parametrize("error", [Refused, RuntimeError])
def test_a_session_whose_first_batch_fails_is_unavailable_and_leaves_nothing(error: type[Exception]) -> None:
    gpu = SimulatedDevice(random.Random(0))
    failing = type("Failing", (Refusing,), {"error": error})
    with pytest.raises(RuntimeUnavailable, match=r"no batch of 3 views can be computed on simulated: no kernel"):
        failing(CONTRACT, 3, gpu, 2)
    assert gpu.closed


def test_a_session_that_does_not_come_to_be_leaves_nothing_whatever_the_reason() -> None:
    gpu = SimulatedDevice(random.Random(0))
    failing = type("Failing", (Refusing,), {"error": KeyError})
    with pytest.raises(KeyError, match="no kernel"):
        failing(CONTRACT, 3, gpu, 2)
    assert gpu.closed


def test_a_session_of_a_gpu_that_failed_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise Refused("unspecified launch failure")

    gpu = SimulatedDevice(random.Random(0), eager=1.0)
    session = SimulatedSession(CONTRACT, 1, gpu, 2)
    session.submit(np.zeros((1, *SIZE, 1), np.uint8))
    monkeypatch.setattr("tests.flight.simulated.SimulatedEvent.synchronize", refuse)
    with pytest.raises(Refused):
        session.collect()
    session.submit(np.zeros((1, *SIZE, 1), np.uint8))
    while gpu.step():
        pass
    session.close()
    assert gpu.closed

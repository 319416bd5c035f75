"""What a worker decides for itself."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mura_trt.archives.folder import FolderSource
from mura_trt.archives.listing import Reference
from mura_trt.contract import InputContract
from mura_trt.decode import Decoder
from mura_trt.rows import Failure, Rows, Task, scores_of
from mura_trt.runtimes.base import HostSession, Scores
from mura_trt.runtimes.null import checksums
from mura_trt.worker import (
    BATCHES_DECODING,
    Assignment,
    Done,
    Flush,
    Hungry,
    Pulse,
    Stop,
    Worker,
    _OpenTask,
    decoding_threads,
)


@pytest.mark.parametrize(
    ("cores", "engine_on_cpu", "threads"), [(1, True, 1), (2, True, 1), (64, True, 4), (1, False, 1), (16, False, 16)]
)
def test_decoding_gets_the_cores_that_the_engine_leaves(cores: int, engine_on_cpu: bool, threads: int) -> None:
    assert decoding_threads(cores, engine_on_cpu) == threads


def test_open_task_takes_its_own_views_of_mixed_batches() -> None:
    task = _OpenTask.of(Task(10, 14), 2)
    half = np.array([0.5, 0.25, 0.125], np.float32)
    scores = scores_of(half, half, [False, True, True], np.arange(6, dtype=np.float32).reshape(3, 2, 1))
    task.score(np.array([8, 9, 10]), scores)
    task.fail(Failure(9, "read", "ENOENT", "of another task"))
    task.fail(Failure(13, "read", "ENOENT", "gone"))
    assert not task.complete
    task.score(np.array([11, 12, 20]), scores)
    assert task.complete
    rows: Rows = task.rows()
    assert rows.views.tolist() == [10, 11, 12]
    assert rows.scores["probability"].tolist() == [0.125, 0.5, 0.25]
    assert rows.scores["color"].tolist() == [True, False, True]
    assert rows.scores["map"].tolist() == [[4, 5], [0, 1], [2, 3]]
    assert [failure.view for failure in rows.failures] == [13]


class Quick(HostSession):
    """Checksums, as the ``null`` runtime's."""

    name = "quick"

    def _run(self, images: NDArray[np.uint8]) -> Scores:
        return checksums(images, self._contract.map_shape)


class Listening:
    """The supervisor's end of a connection, which takes its time to hear that a task is done."""

    def __init__(self, tasks: list[Task], reference: bytes) -> None:
        self.heard: list[Done | Hungry | Pulse] = []
        self._out: SimpleQueue[Assignment | Flush | Stop] = SimpleQueue()
        self._left = len(tasks)
        for task in tasks:
            self._out.put(Assignment(task, [reference] * (task.stop - task.start)))

    def recv(self) -> Assignment | Flush | Stop:
        return self._out.get()

    def send(self, message: Done | Hungry | Pulse) -> None:
        self.heard.append(message)
        if isinstance(message, Done):
            time.sleep(0.02)  # in which a pulse falls due
            self._left -= 1
            if self._left == 0:
                self._out.put(Stop())
        elif isinstance(message, Hungry):
            self._out.put(Flush())
        elif self._left == 0:
            raise OSError  # ends the thread that sends pulses


def test_no_pulse_counts_views_of_a_task_that_was_told_to_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mura_trt.worker.PULSE_SECONDS", 0.001)
    Image.new("L", (16, 16)).save(tmp_path / "view.png")
    connection: Any = Listening([Task(start, start + 10) for start in range(0, 100, 10)], b"view.png")

    class Paced(Quick):
        def _run(self, images: NDArray[np.uint8]) -> Scores:
            heard = len(connection.heard)
            while len(connection.heard) == heard:  # until a pulse has come
                time.sleep(0.001)
            return super()._run(images)

    session, decoder = Paced(InputContract(height=32, width=32), 4), Decoder((32, 32), 1, 4)
    Worker(connection, FolderSource(str(tmp_path)).open(), decoder, session, 0).run()
    for thread in threading.enumerate():
        if thread.name == "pulse":
            thread.join(10)
    done, told = 0, [0]
    for message in connection.heard:
        if isinstance(message, Done):
            done += message.rows.stop - message.rows.start
        elif isinstance(message, Pulse):
            told.append(done + message.settled)
    assert done == 100 and len(told) > 25  # one a batch
    assert told == sorted(told) and told[-1] <= 100


class Overflowing(Quick):
    """A network whose half precision overflows on the first two views of each batch."""

    def _run(self, images: NDArray[np.uint8]) -> Scores:
        scores = super()._run(images)
        scores.probability[0] = np.nan
        scores.logit[1] = -np.inf
        return scores


def test_a_score_that_is_no_finite_number_is_a_failure_and_costs_no_other_view(tmp_path: Path) -> None:
    Image.new("L", (16, 16)).save(tmp_path / "view.png")
    connection: Any = Listening([Task(0, 8)], b"view.png")
    session, decoder = Overflowing(InputContract(height=32, width=32), 4), Decoder((32, 32), 1, 4)
    Worker(connection, FolderSource(str(tmp_path)).open(), decoder, session, 0).run()
    (done,) = [message for message in connection.heard if isinstance(message, Done)]
    assert done.rows.views.tolist() == [2, 3, 6, 7]
    found = [(failure.view, failure.stage, failure.code) for failure in done.rows.failures]
    assert found == [(view, "engine", "NOT_FINITE") for view in (0, 1, 4, 5)]


class Failing(Quick):
    """A library that gives up."""

    def _run(self, images: NDArray[np.uint8]) -> Scores:
        raise RuntimeError("CUDA error")


def test_a_worker_that_fails_ends_also_while_its_readers_wait_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mura_trt.readahead.MAX_HELD", 1)
    Image.new("L", (16, 16)).save(tmp_path / "view.png")
    connection: Any = Listening([Task(0, 400)], b"view.png")
    session, decoder = Failing(InputContract(height=32, width=32), 4), Decoder((32, 32), 1, 4)
    worker = Worker(connection, FolderSource(str(tmp_path)).open(), decoder, session, 0)
    try:
        with pytest.raises(RuntimeError, match="CUDA error"):
            worker.run()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]
    finally:
        worker._ahead.close()  # or this process would not end


class Hanging(FolderSource):
    """Takes long for one of its views, as a file server that went away."""

    def read(self, reference: Reference) -> bytes:
        if reference == b"view.png":
            return super().read(reference)
        time.sleep(5)
        raise OSError


def test_a_worker_that_fails_while_a_read_hangs_is_seen_to_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or nobody would replace it as long as that read lasts."""
    monkeypatch.setattr("mura_trt.worker.PULSE_SECONDS", 0.05)
    Image.new("L", (16, 16)).save(tmp_path / "view.png")
    views = 4 * BATCHES_DECODING  # the first is collected when so many are read
    connection: Any = Listening([Task(0, views + 1)], b"")
    connection._out = SimpleQueue()
    references: list[Reference] = [b"view.png"] * views
    connection._out.put(Assignment(Task(0, views + 1), [*references, b"hangs.png"]))
    session, decoder = Quick(InputContract(height=32, width=32), 4), Decoder((32, 32), 1, 4)

    def collect() -> None:
        raise RuntimeError("decoder")

    monkeypatch.setattr(decoder, "collect", collect)
    worker = Worker(connection, Hanging(str(tmp_path)).open(), decoder, session, 0)
    with pytest.raises(RuntimeError, match="decoder"):
        worker.run()
    told = [message for message in connection.heard if isinstance(message, Pulse)]
    assert max(message.seconds for message in told if message.stage == "read") > 2

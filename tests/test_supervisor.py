"""A worker that neither takes nor gives holds nobody up, and healthy ones are given their time."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from mura_trt.archives.folder import FolderSource
from mura_trt.bundle import Bundle
from mura_trt.crew import Crew, Lost
from mura_trt.ledger import Task
from mura_trt.places import Place
from mura_trt.worker import Assignment, Worker, WorkerConfig
from mura_trt.workerprocess import WorkerProcess


@pytest.fixture
def crew(bundle: Bundle, tmp_path: Path) -> Crew:
    config = WorkerConfig(bundle, FolderSource(str(tmp_path)), "null", 4, 0.0, tmp_path / "log")
    return Crew(WorkerProcess, config, [Place()])


def child() -> int:
    (found,) = (one for one in psutil.Process().children() if any("spawn_main" in part for part in one.cmdline()))
    return int(found.pid)


def test_a_frozen_worker_is_noticed_whatever_is_to_be_sent_to_it(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mura_trt.crew.SILENCE_SECONDS", 2.0)
    with crew:
        crew.start()
        os.kill(child(), signal.SIGSTOP)
        started = time.monotonic()
        for number in range(20):  # far more than a pipe holds
            task = Task(1000 * number, 1000 * number + 1000)
            crew.send(0, Assignment(task, [b"x" * 100] * 1000))
        assert time.monotonic() - started < 1
        while not isinstance(lost := crew.receive()[1], Lost):
            assert time.monotonic() - started < 10
        assert lost.hangs and lost.blame[0] == "STALLED"
        crew.stop(0, graceful=False)
        assert not crew.running


def test_a_worker_ends_by_a_word_and_another_takes_its_place(crew: Crew) -> None:
    with crew:
        for _ in range(2):
            crew.start()
            first = child()
            started = time.monotonic()
            crew.stop(0, graceful=True)
            assert time.monotonic() - started < 5 and not psutil.pid_exists(first)


def test_what_may_take_its_time_is_not_taken_to_hang() -> None:
    worker = Worker.__new__(Worker)
    worker._seconds, worker._stage = {"decode": 0.0}, ("idle", 0.0)
    with worker._doing("decode", allowance=30.0):
        stage, since = worker._stage
    assert stage == "decode" and since - time.monotonic() == pytest.approx(30, abs=0.5)
    assert worker._stage[0] == "idle" and 0 <= worker._seconds["decode"] < 1

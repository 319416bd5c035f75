"""A worker that neither takes nor gives holds nobody up, and healthy ones are given their time."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from queue import SimpleQueue

import psutil
import pytest

from mura_trt.archives.folder import FolderSource
from mura_trt.bundle import Bundle
from mura_trt.ledger import Task
from mura_trt.supervisor import PATIENCE, Lost, WorkerProcess
from mura_trt.worker import Assignment, Pulse, Worker, WorkerConfig


@pytest.fixture
def process(bundle: Bundle, tmp_path: Path) -> WorkerProcess:
    return WorkerProcess(WorkerConfig(bundle, FolderSource(str(tmp_path)), "null", 4, 0.0, tmp_path / "log"))


def child() -> int:
    (found,) = (one for one in psutil.Process().children() if any("spawn_main" in part for part in one.cmdline()))
    return int(found.pid)


def test_a_frozen_worker_is_noticed_whatever_is_to_be_sent_to_it(process: WorkerProcess) -> None:
    with process:
        process.start()
        os.kill(child(), signal.SIGSTOP)
        started = time.monotonic()
        for number in range(20):  # far more than a pipe holds
            task = Task(1000 * number, 1000 * number + 1000)
            process.send(Assignment(task, [b"x" * 100] * 1000))
        assert time.monotonic() - started < 1
        while not isinstance(lost := process.receive(2.0), Lost):
            assert time.monotonic() - started < 10
        assert lost.hangs and lost.blame[0] == "STALLED"
        process.stop(graceful=False)
        assert not process.running


def test_a_worker_ends_by_a_word_and_another_takes_its_place(process: WorkerProcess) -> None:
    with process:
        for _ in range(2):
            process.start()
            first = child()
            started = time.monotonic()
            process.stop(graceful=True)
            assert time.monotonic() - started < 5 and not psutil.pid_exists(first)


@pytest.mark.parametrize(
    ("pulse", "lost"),
    [
        (Pulse(0, "read", PATIENCE["read"] - 1), False),
        (Pulse(0, "read", PATIENCE["read"] + 1), True),
        (Pulse(0, "decode", PATIENCE["decode"] + 1), True),
        (Pulse(0, "engine", PATIENCE["decode"] + 1), False),
        (Pulse(0, "engine", PATIENCE["engine"] + 1), True),
        (Pulse(0, "idle", 1e9), False),
    ],
)
def test_patience_ends_by_what_the_worker_is_at(process: WorkerProcess, pulse: Pulse, lost: bool) -> None:
    process._inbox = SimpleQueue()
    process._inbox.put(pulse)
    received = process.receive()
    assert received == pulse if not lost else isinstance(received, Lost) and pulse.stage in received.hangs


def test_what_may_take_its_time_is_not_taken_to_hang() -> None:
    worker = Worker.__new__(Worker)
    worker._seconds, worker._stage = {"decode": 0.0}, ("idle", 0.0)
    with worker._doing("decode", allowance=30.0):
        stage, since = worker._stage
    assert stage == "decode" and since - time.monotonic() == pytest.approx(30, abs=0.5)
    assert worker._stage[0] == "idle" and 0 <= worker._seconds["decode"] < 1

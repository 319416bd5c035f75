"""A worker that neither takes nor gives holds nobody up, and healthy ones are given their time."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Collection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import ClassVar
from unittest import mock

import numpy as np
import psutil
import pytest

from mura_trt import supervisor as supervisor_module
from mura_trt.archives import list_archive
from mura_trt.archives.folder import FolderSource
from mura_trt.archives.listing import Listing
from mura_trt.bundle import Bundle
from mura_trt.crew import Crew, Handle, Inbox, Lost, Message
from mura_trt.errors import EnvironmentProblem
from mura_trt.ledger import Ledger
from mura_trt.places import Place
from mura_trt.progress import Progress
from mura_trt.results import Existing, OutputFolder
from mura_trt.rows import Failure, Rows, Task, score_type
from mura_trt.supervisor import Supervisor
from mura_trt.worker import Assignment, Done, Fatal, Flush, Pulse, Ready, Stop, Worker, WorkerConfig
from mura_trt.workerprocess import WorkerProcess


@pytest.fixture
def crew(bundle: Bundle, tmp_path: Path) -> Crew:
    config = WorkerConfig(bundle, FolderSource(str(tmp_path)), "null", 4, 0.0, tmp_path / "log")
    return Crew(WorkerProcess, config, [Place()])


def child(others: Collection[psutil.Process]) -> int:
    """The worker's process id; ``others`` were there before."""
    children = [one for one in psutil.Process().children() if one not in others]
    (found,) = (one for one in children if any("spawn_main" in part for part in one.cmdline()))
    return int(found.pid)


def test_a_frozen_worker_is_noticed_whatever_is_to_be_sent_to_it(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mura_trt.crew.SILENCE_SECONDS", 2.0)
    others = psutil.Process().children()
    with crew:
        crew.start()
        os.kill(child(others), signal.SIGSTOP)
        started = time.monotonic()
        for number in range(20):  # far more than a pipe holds: whoever waited for it would wait for ever
            task = Task(1000 * number, 1000 * number + 1000)
            crew.send(0, Assignment(task, [b"x" * 100] * 1000))
        while not isinstance(lost := crew.receive()[1], Lost):
            assert time.monotonic() - started < 60
        assert lost.hangs and lost.blame[0] == "STALLED"
        crew.stop(0, graceful=False)
        assert not crew.running


def test_a_worker_ends_by_a_word_and_another_takes_its_place(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mura_trt.workerprocess.END_SECONDS", 60.0)
    others = psutil.Process().children()
    with crew:
        for _ in range(2):
            crew.start()
            first = child(others)
            with mock.patch.object(BaseProcess, "kill") as kill:
                crew.stop(0, graceful=True)
            assert not kill.called and not psutil.pid_exists(first)


def test_what_may_take_its_time_is_not_taken_to_hang() -> None:
    worker = Worker.__new__(Worker)
    worker._seconds, worker._stage = {"decode": 0.0}, ("idle", 0.0)
    started = time.monotonic()
    with worker._doing("decode", allowance=30.0):
        stage, since = worker._stage
    ended = time.monotonic()
    assert stage == "decode" and started <= since - 30 <= ended
    assert worker._stage[0] == "idle" and 0 <= worker._seconds["decode"] <= ended - started


def run_of_24(bundle: Bundle, folder: Path) -> tuple[Listing, OutputFolder, WorkerConfig]:
    """Views that are there by name, where their rows go, and what workers are told."""
    (folder / "views").mkdir()
    for view in range(24):
        (folder / "views" / f"{view:02}.png").touch()
    listing = list_archive(folder / "views")
    config = WorkerConfig(bundle, listing.source, "null", 4, 0.0, folder / "log")
    return listing, OutputFolder(folder / "out", Existing.REFUSE), config


class Scripted:
    """In place of a worker: of each task it tells half, then that it is done; of the second it dies once."""

    started = 0

    def __init__(self, _config: WorkerConfig, inbox: Inbox) -> None:
        self._inbox = inbox
        self._dies = Scripted.started == 0
        Scripted.started += 1
        self._says(Ready("null", "cpu", 4, []))

    def _says(self, message: Message | None) -> None:
        self._inbox.put((self, message))

    def send(self, message: Assignment | Flush | Stop) -> None:
        if not isinstance(message, Assignment):
            return
        start, stop = message.task.start, message.task.stop
        self._says(Pulse((stop - start) // 2, "read", 0.0))
        if self._dies and start:
            self._dies = False
            self._says(None)
            return
        failures = [Failure(view, "read", "ENOENT", "gone") for view in range(start, stop)]
        self._says(Done(Rows(start, stop, np.empty(0, np.int64), np.empty(0, score_type(0)), failures), 0.0, {}))

    def last_words(self) -> str:
        return "exit code 1"

    def stop(self, graceful: bool) -> None: ...


class Unequal:
    """In place of workers: the first gives its second task and all behind it late or never, the other all at once."""

    late_s: ClassVar[float | None] = None
    hired: ClassVar[list[Unequal]] = []

    def __init__(self, _config: WorkerConfig, inbox: Inbox) -> None:
        self._inbox, self.given = inbox, 0
        self.stopped: list[bool] = []
        Unequal.hired.append(self)
        self._inbox.put((self, Ready("null", "cpu", 4, [])))

    def send(self, message: Assignment | Flush | Stop) -> None:
        if not isinstance(message, Assignment):
            return
        self.given += 1
        late = self is Unequal.hired[0] and self.given > 1
        if late and self.late_s is None:
            return
        if self is not Unequal.hired[0]:
            threading.Timer(0.3, self._inbox.put, [(self, Pulse(0, "idle", 0.0))]).start()
            threading.Timer(0.6, self._inbox.put, [(self, Pulse(0, "idle", 0.0))]).start()
        start, stop = message.task.start, message.task.stop
        failures = [Failure(view, "read", "ENOENT", "gone") for view in range(start, stop)]
        rows = Rows(start, stop, np.empty(0, np.int64), np.empty(0, score_type(0)), failures)
        threading.Timer((late and self.late_s) or 0.0, self._inbox.put, [(self, Done(rows, 0.001, {}))]).start()

    def last_words(self) -> str:
        return "exit code 1"

    def stop(self, graceful: bool) -> None:
        self.stopped.append(graceful)


def test_what_a_worker_is_late_with_an_idle_one_does_and_nobody_waits_for_it(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Unequal, "hired", [])
    monkeypatch.setattr(supervisor_module, "LATE_SECONDS", 0.2)
    listing, out, config = run_of_24(bundle, tmp_path)
    progress = Progress(24, 1)
    with Crew(Unequal, config, [Place(), Place()]) as crew:
        supervisor = Supervisor(listing, out, crew, Ledger(24, 4, 8, workers=2, least=4), progress, lambda _: None)
        supervisor.run()
    out.close()
    late, helper = Unequal.hired
    assert (progress.failed, progress.fresh, late.stopped, helper.stopped) == (24, 24, [False], [True])
    assert sum(record.views for record in supervisor.records) == 24
    assert "is late: its views" in caplog.text and "are scored twice" in caplog.text


def test_who_is_not_late_yet_is_waited_for(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Unequal, "hired", [])
    monkeypatch.setattr(Unequal, "late_s", 0.9)  # the idle one looks after 0.3 and 0.6 s
    listing, out, config = run_of_24(bundle, tmp_path)
    with Crew(Unequal, config, [Place(), Place()]) as crew:
        ledger = Ledger(24, 4, 8, workers=2, least=4)
        Supervisor(listing, out, crew, ledger, Progress(24, 1), lambda _: None).run()
    out.close()
    assert [worker.stopped for worker in Unequal.hired] == [[True], [True]] and "is late" not in caplog.text


class Roomless(Scripted):
    """In place of a worker that finds no memory on the GPU that it is to share."""

    def _says(self, message: Message | None) -> None:
        super()._says(Fatal(EnvironmentProblem("no memory")) if isinstance(message, Ready) else message)


def test_who_could_not_start_is_done_without(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Scripted, "started", 1)
    listing, out, config = run_of_24(bundle, tmp_path)
    places = [Place(cores=frozenset({core}), shared=True) for core in (0, 1)]

    def hire(config: WorkerConfig, inbox: Inbox) -> Handle:
        return Roomless(config, inbox) if config.place == places[0] else Scripted(config, inbox)

    progress = Progress(24, 1)
    with Crew(hire, config, places) as crew:
        supervisor = Supervisor(listing, out, crew, Ledger(24, 4, 8, workers=2, least=4), progress, lambda _: None)
        supervisor.run()
    out.close()
    assert "cannot start: no memory; the run goes on without it" in caplog.text
    assert [(record.gone, record.views) for record in supervisor.records] == [(True, 0), (False, 24)]
    assert progress.failed == progress.fresh == 24


def test_progress_counts_each_view_once_whatever_workers_tell(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scripted, "started", 0)
    listing, out, config = run_of_24(bundle, tmp_path)
    told: list[int] = []
    with Crew(Scripted, config, [Place()]) as crew:
        ledger = Ledger(24, 8, 4)
        Supervisor(listing, out, crew, ledger, Progress(24, 1), lambda progress: told.append(progress.done)).run()
    out.close()
    assert Scripted.started == 2
    assert told == [4, 8, 12, *range(8, 17), 20, 24]  # the task that it died of comes again view by view

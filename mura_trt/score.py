"""The supervisor: lists an archive, keeps a worker busy, commits its rows, and ends with the tables."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import mura_trt
from mura_trt import worker
from mura_trt.archive import UNREAD_SUFFIXES, Listing, list_archive
from mura_trt.bundle import Bundle
from mura_trt.errors import EXIT_FAILURES, EXIT_OK, EnvironmentProblem, UsageError
from mura_trt.ledger import Ledger, Rows, Task
from mura_trt.results import FORMATS, WORKER_LOG, OutputFolder
from mura_trt.runtimes import RUNTIMES
from mura_trt.studies import DEFAULT_THRESHOLD

logger = logging.getLogger(__name__)

SHARD_VIEWS = {"cpu": 256, "cuda": 2048}
LIBRARIES = ("nvidia-dali-cuda130", "onnxruntime", "torch", "tensorrt", "tensorrt_rtx", "pycuda", "numpy", "pandas")
# A worker that dies this often without giving a single row in between would die of anything: of some twenty views in a
# row that kill it, each costs one death.
MAX_DEATHS_IN_A_ROW = 20


@dataclass(frozen=True)
class ScoreOptions:
    """What to score and how; the fields are the options of ``mura-trt score``."""

    archive: Path
    engine: Path
    out: Path
    runtime: str = "auto"
    batch: int | None = None
    """Views in a batch; None takes what suits the runtime."""
    shard_views: int | None = None
    """Views in a shard, the unit of commit and retry; None takes 256 on a CPU and 2,048 on a GPU."""
    threshold: float = DEFAULT_THRESHOLD
    """A study is abnormal when its mean probability is strictly above."""
    study_depth: int | None = None
    """A study is the first so many parts of a view's path; None takes the folder the view lies in."""
    root: Path | None = None
    """For a list: where its relative paths start."""
    table_format: str = "csv"
    """``csv`` or ``parquet``."""
    overwrite: bool = False
    null_ms: float = 0.0
    """The ``null`` runtime's time for a batch, in milliseconds."""

    def __post_init__(self) -> None:
        if self.runtime not in ("auto", *RUNTIMES):
            raise UsageError(f"--runtime {self.runtime}: choose from auto, {', '.join(RUNTIMES)}")
        if self.table_format not in FORMATS:
            raise UsageError(f"--format {self.table_format}: choose from {', '.join(FORMATS)}")
        for name in ("batch", "shard_views"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} {value}: give 1 or more")
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"--threshold {self.threshold}: a probability, 0 to 1")
        if self.null_ms and self.runtime != "null":
            raise UsageError("--null-ms needs --runtime null")


@dataclass
class Progress:
    """How far a run has come."""

    views: int
    studies: int
    scored: int = 0
    failed: int = 0
    under_way: int = 0
    """Views that the worker is through with and that are not committed yet."""
    started: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        """Views that the worker is through with."""
        return self.scored + self.failed + self.under_way

    @property
    def rate(self) -> float:
        """Views per second since the start."""
        return self.done / max(time.monotonic() - self.started, 1e-9)


def score(options: ScoreOptions, report: Callable[[Progress], None] = lambda _: None) -> dict[str, Any]:
    """Scores an archive; returns what ``run.json`` says.

    Parameters
    ----------
    options
        What to score and how.
    report
        Told of every commit, and about once a second.

    Raises
    ------
    UsageError
        The archive, the options or the output folder cannot be used.
    BundleError, EnvironmentProblem
        The engine cannot be used, or the worker cannot work.
    """
    started = time.monotonic()
    bundle = Bundle.open(options.engine)
    listing = list_archive(options.archive, study_depth=options.study_depth, root=options.root)
    for name, reason in listing.unreadable:
        logger.warning("folder %s could not be listed: %s", name, reason)
    unread = [f"{count} {suffix}" for suffix, count in sorted(listing.ignored.items()) if suffix in UNREAD_SUFFIXES]
    if unread:
        logger.warning("files of formats that are not read yet, and are not scored: %s", ", ".join(unread))
    if options.archive.parent.resolve() == options.out.resolve() and options.archive.is_file():
        raise UsageError(f"{options.archive} lies in the output folder, whose files a run replaces; choose another")
    logger.info("%d views in %d studies", len(listing), len(listing.studies))
    out = OutputFolder(options.out, options.overwrite)
    try:
        listed = time.monotonic()
        with WorkerProcess(
            worker.WorkerConfig(bundle, options.runtime, options.batch, options.null_ms, options.out / WORKER_LOG)
        ) as process:
            supervisor = Supervisor(listing, out, process, options.shard_views, report)
            supervisor.run()
        scored = time.monotonic()
        outcome = out.outcome(len(listing))
        studies = out.write_tables(listing, outcome, options.threshold, options.table_format)
        ended = time.monotonic()
        failed = len(outcome.failures)
        run = {
            "command": shlex.join(sys.argv),
            "versions": _versions(),
            "archive": str(options.archive),
            "bundle": {"name": bundle.manifest.name, "precision": bundle.manifest.precision, "sha256": bundle.sha256},
            "runtime": supervisor.ready.runtime,
            "device": supervisor.ready.device,
            "passed_over": supervisor.ready.passed_over,
            "batch": supervisor.ready.batch,
            "shard_views": supervisor.shard_views,
            "threshold": options.threshold,
            "listed": len(listing),
            "scored": outcome.scored,
            "failed": failed,
            "studies": studies,
            "unreadable_folders": len(listing.unreadable),
            "ignored_files": dict(listing.ignored),
            "duplicate_entries": listing.duplicates,
            "worker_deaths": supervisor.deaths,
            "views_per_s": round(len(listing) / supervisor.seconds, 2),
            "wall_s": round(ended - started, 2),
            "stage_s": {
                "list": round(listed - started, 2),
                "score": round(scored - listed, 2),
                "tables": round(ended - scored, 2),
                **{f"worker_{name}": round(seconds, 2) for name, seconds in supervisor.stage_seconds.items()},
            },
            "out": str(options.out),
            "exit_code": EXIT_FAILURES if failed or listing.unreadable else EXIT_OK,
        }
        out.write_run(run)
        return run
    finally:
        out.close()


def _versions() -> dict[str, str]:
    """Of Python, this package and those of its libraries that are installed and touch the numbers."""
    versions = {"python": platform.python_version(), "mura_trt": mura_trt.__version__}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


class WorkerProcess:
    """A worker process and the connection to it; a context manager that leaves no process behind."""

    def __init__(self, config: worker.WorkerConfig) -> None:
        self._config = config
        self._context = multiprocessing.get_context("spawn")  # DALI and CUDA do not survive a fork
        self._process: SpawnProcess | None = None
        self.connection: Connection

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop(graceful=exception[0] is None)

    def start(self) -> worker.Ready | None:
        """Starts the process and waits until it can take tasks; None when it died instead.

        Raises
        ------
        MuraTrtError
            It cannot work here, for the reason given.
        """
        self.connection, theirs = self._context.Pipe()
        process = self._context.Process(
            target=worker.main, args=(theirs, self._config, os.getpid()), name="mura-trt-worker", daemon=True
        )
        process.start()
        self._process = process
        theirs.close()  # or the end of the process would not end the connection
        ready = self.receive()
        if ready is None:
            return None
        assert isinstance(ready, worker.Ready)
        # Whoever replaces it later works the same way: rows of another runtime must not slip in.
        self._config = dataclasses.replace(self._config, runtime=ready.runtime, batch=ready.batch)
        return ready

    def receive(self) -> worker.Ready | worker.Done | worker.Hungry | worker.Pulse | None:
        """The worker's next message, or None when it has died."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError):  # OSError where it died in the middle of a message
            return None
        if isinstance(message, worker.Fatal):
            raise message.error
        assert isinstance(message, (worker.Ready, worker.Done, worker.Hungry, worker.Pulse))
        return message

    def send(self, message: worker.Assignment | worker.Flush) -> None:
        """Gives the worker a message; where it has died, ``receive`` will tell."""
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def last_words(self) -> str:
        """How the process ended, and the last line that it or a library in it printed."""
        assert self._process is not None
        self._process.join(timeout=10)
        lines = self._config.log.read_text(errors="replace").split("\n") if self._config.log.exists() else []
        last = next((line for line in reversed(lines) if line.strip()), "no word in its log")
        return f"exit code {self._process.exitcode}, {self._config.log}: {last.strip()}"

    def stop(self, graceful: bool) -> None:
        """Ends the process: by closing the connection, or at once."""
        if self._process is None:
            return
        if not graceful:
            self._process.kill()
        self.connection.close()
        self._process.join(timeout=10)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        self._process.close()
        self._process = None


class Supervisor:
    """Moves tasks to the worker and rows to the disk until every view is committed."""

    def __init__(
        self,
        listing: Listing,
        out: OutputFolder,
        process: WorkerProcess,
        shard_views: int | None,
        report: Callable[[Progress], None],
    ) -> None:
        self._listing, self._out, self._process, self._report = listing, out, process, report
        ready = process.start()
        if ready is None:
            raise EnvironmentProblem(f"the worker process died while starting ({process.last_words()})")
        self.ready = ready
        if self.ready.passed_over:
            logger.info("runtime %s; passed over: %s", self.ready.runtime, " | ".join(self.ready.passed_over))
        self.shard_views = shard_views or SHARD_VIEWS[self.ready.device]
        # Three shards (one coming back, one at work, one to go on with), or enough that full batches are there to read,
        # to decode and to score.
        ahead = max(3 * self.shard_views, 8 * self.ready.batch)
        self._ledger = Ledger(len(listing), self.shard_views, ahead)
        self._progress = Progress(len(listing), len(listing.studies))
        self.deaths = 0
        self._deaths_in_a_row = 0
        self.stage_seconds: dict[str, float] = {}
        self._first_batch_at: float | None = None
        self._last_commit_at = 0.0

    @property
    def seconds(self) -> float:
        """From the first batch in to the last commit."""
        return self._last_commit_at - (self._first_batch_at or self._progress.started)

    def run(self) -> None:
        """Works until the ledger is done."""
        self._send_tasks()
        while not self._ledger.done:
            match self._process.receive():
                case worker.Done() as done:
                    self._take(done)
                    self._send_tasks()
                case worker.Hungry():
                    task = self._ledger.next_task(hungry=True)
                    self._process.send(self._assignment(task) if task else worker.Flush())
                case worker.Pulse(settled):
                    self._progress.under_way = settled
                    self._report(self._progress)
                case None:
                    self._replace_worker()
                    self._send_tasks()
                case message:
                    raise AssertionError(message)

    def _send_tasks(self) -> None:
        while task := self._ledger.next_task():
            self._process.send(self._assignment(task))

    def _assignment(self, task: Task) -> worker.Assignment:
        return worker.Assignment(task, self._listing.source, self._listing.keys(task.start, task.stop))

    def _take(self, done: worker.Done) -> None:
        self._deaths_in_a_row = 0
        self.stage_seconds = done.stage_seconds
        if self._first_batch_at is None and done.first_batch_at:
            self._first_batch_at = done.first_batch_at
        self._commit(self._ledger.returned(done.rows))

    def _commit(self, rows: Rows | None) -> None:
        if rows is None:
            return
        self._out.commit(rows)
        self._last_commit_at = time.monotonic()
        self._progress.under_way = 0
        self._progress.scored += len(rows.views)
        self._progress.failed += len(rows.failures)
        self._report(self._progress)

    def _replace_worker(self) -> None:
        """Settles what the dead worker had, and starts another, again where that one dies at once."""
        ready = None
        while ready is None:
            self.deaths += 1
            self._deaths_in_a_row += 1
            words = self._process.last_words()
            if self._deaths_in_a_row > MAX_DEATHS_IN_A_ROW:
                raise EnvironmentProblem(
                    f"the worker process died {self._deaths_in_a_row} times with no view scored in between ({words});"
                    " look at memory and at the log, then run again with --overwrite"
                )
            logger.warning("the worker process died (%s); starting another, its views are tried again", words)
            self._process.stop(graceful=False)
            self._progress.under_way = 0
            self._commit(self._ledger.worker_died())
            ready = self._process.start()
        if ready.device != self.ready.device:
            raise EnvironmentProblem(
                f"the worker began on {self.ready.device} and its replacement found only {ready.device};"
                " look at the GPU, then run again with --overwrite"
            )

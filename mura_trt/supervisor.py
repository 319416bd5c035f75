"""Moves tasks to a worker process and rows to the disk, until all is committed; replaces a worker that is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from queue import Empty, SimpleQueue

from mura_trt import worker
from mura_trt.archives.listing import Listing
from mura_trt.errors import EnvironmentProblem
from mura_trt.ledger import Ledger, Rows, Task
from mura_trt.results import OutputFolder

logger = logging.getLogger(__name__)

# A worker that is lost this often, with not a row given and no culprit named in between, would be lost on anything; so
# would one that is said to have died of that many views and gave no row in between. A hang names nobody here, for what
# hangs is mostly the disk, and costs 45 s.
MAX_LOSSES_IN_A_ROW = 20
MAX_CULPRITS_IN_A_ROW = 200
# Seconds after which a worker is taken to hang, by what it is at. A read or a batch's decoding takes a second where
# disk and machine are slow; a batch on a slow engine may take minutes.
PATIENCE = {"read": 45.0, "decode": 45.0, "engine": 600.0}
SILENCE_SECONDS = 45.0  # without any message, of which there is one a second
STARTS = 3  # of a run's first worker; what kills one, as a lack of memory, may be over with the next
START_SECONDS = 900.0  # to load libraries and the engine, whose kernels may be compiled for the GPU at first


Message = worker.Ready | worker.Done | worker.Hungry | worker.Pulse | worker.Fatal


@dataclass
class Progress:
    """How far a run has come."""

    views: int
    studies: int
    scored: int = 0
    failed: int = 0
    under_way: int = 0
    """Views that the worker is through with and that are not committed yet."""
    before: int = 0
    """Views that earlier runs have scored or given up, and that are not done again."""
    fresh: int = 0
    """Views that workers of this run gave rows of."""
    started: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        """Views that the worker is through with."""
        return self.scored + self.failed + self.under_way

    @property
    def rate(self) -> float:
        """Views per second since the start."""
        return (self.fresh + self.under_way) / max(time.monotonic() - self.started, 1e-9)


@dataclass(frozen=True)
class Lost:
    """In place of a message: there is no worker any more to count on."""

    hangs: str = ""
    """What it did not come to an end with; empty where the process has died."""

    @property
    def blame(self) -> tuple[str, str]:
        """Code and message for the one view that it was lost on."""
        company = "twice, the second time with no other view at work"
        if self.hangs:
            return "STALLED", f"the worker process hung on this view {company} ({self.hangs})"
        return "DECODER_CRASH", f"the worker process died on this view {company}"


class WorkerProcess:
    """A worker process and the connection to it; a context manager that leaves no process behind.

    Parameters
    ----------
    config
        What the worker works with; whoever replaces it works with the runtime and batch that the first one found.
    device
        ``cpu`` or ``cuda``, which it must work on; None takes what the first worker finds, for its successors, too.
    """

    def __init__(self, config: worker.WorkerConfig, device: str | None = None) -> None:
        self._config, self._device = config, device
        self._context = multiprocessing.get_context("spawn")  # DALI and CUDA do not survive a fork
        self._process: SpawnProcess | None = None
        self._inbox: SimpleQueue[Message | None]
        self._outbox: SimpleQueue[worker.Assignment | worker.Flush | worker.Stop]

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop(graceful=exception[0] is None)

    @property
    def running(self) -> bool:
        """Whether there is a process; it may have died."""
        return self._process is not None

    def start(self) -> worker.Ready:
        """Starts the process and waits until it can take tasks.

        Raises
        ------
        MuraTrtError
            It cannot work here, for the reason given, or it died while it started, and did so again.
        """
        for _ in range(STARTS):
            ready = self.try_to_start()
            if ready is not None:
                return ready
            words = self.last_words()
            logger.warning("the worker process died while starting (%s)", words)
            self.stop(graceful=False)
        raise EnvironmentProblem(f"the worker process died while starting ({words})")

    def try_to_start(self) -> worker.Ready | None:
        """As :meth:`start`, but None when it died."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=worker.main, args=(theirs, self._config, os.getpid()), name="mura-trt-worker", daemon=True
        )
        process.start()
        self._process = process
        theirs.close()  # or the end of the process would not end the connection
        # A process that hangs neither takes nor gives: threads wait for it, so that nobody else has to.
        self._inbox, self._outbox = SimpleQueue(), SimpleQueue()
        threading.Thread(target=_take, args=(ours, self._inbox), name="from worker", daemon=True).start()
        threading.Thread(target=_give, args=(ours, self._outbox), name="to worker", daemon=True).start()
        ready = self.receive(START_SECONDS)
        if isinstance(ready, Lost) and ready.hangs:
            raise EnvironmentProblem(
                f"the worker process did not get ready within {START_SECONDS:.0f} s; see {self._config.log}, look at"
                " the GPU and the disk, then run again with --resume"
            )
        if isinstance(ready, Lost):
            return None
        assert isinstance(ready, worker.Ready)
        if self._device not in (None, ready.device):
            raise EnvironmentProblem(
                f"the run began on {self._device} and its worker now finds only {ready.device}: look at the GPU, then"
                " run again with --resume"
            )
        # Whoever replaces it later works the same way: rows of another runtime must not slip in.
        self._device = ready.device
        self._config = dataclasses.replace(self._config, runtime=ready.runtime, batch=ready.batch)
        return ready

    def receive(self, patience: float = SILENCE_SECONDS) -> Message | Lost:
        """The worker's next message, or that it is lost: it died, or nothing came for ``patience`` seconds."""
        try:
            message = self._inbox.get(timeout=patience)
        except Empty:
            return Lost(hangs=f"no sign of life for {patience:.0f} s")
        if message is None:
            return Lost()
        if isinstance(message, worker.Fatal):
            raise message.error
        if isinstance(message, worker.Pulse) and message.seconds > PATIENCE.get(message.stage, float("inf")):
            return Lost(hangs=f"{message.stage} takes more than {PATIENCE[message.stage]:.0f} s")
        return message

    def send(self, message: worker.Assignment | worker.Flush) -> None:
        """Gives the worker a message; where it has died, ``receive`` will tell."""
        self._outbox.put(message)

    def last_words(self) -> str:
        """How the process ended, and the last line that it or a library in it printed."""
        assert self._process is not None
        self._process.join(timeout=10)
        lines = self._config.log.read_text(errors="replace").split("\n") if self._config.log.exists() else []
        last = next((line for line in reversed(lines) if line.strip()), "no word in its log")
        return f"exit code {self._process.exitcode}, {self._config.log}: {last.strip()}"

    def stop(self, graceful: bool) -> None:
        """Ends the process: by a word, or at once."""
        if self._process is None:
            return
        if not graceful:
            self._process.kill()
        self._outbox.put(worker.Stop())  # which ends the thread that gives it, too
        self._process.join(timeout=10)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join(timeout=10)
        if self._process.exitcode is None:  # it waits for a disk or a device in the kernel, where no signal reaches
            logger.warning("process %d does not end; it will once the kernel lets go of it", self._process.pid)
        else:
            self._process.close()
        self._process = None


def _take(connection: Connection, inbox: SimpleQueue[Message | None]) -> None:
    """Puts into the inbox what the worker says, and None when it has died."""
    try:
        while True:
            inbox.put(connection.recv())
    except (EOFError, OSError):  # OSError where it died in the middle of a message
        inbox.put(None)


def _give(connection: Connection, outbox: SimpleQueue[worker.Assignment | worker.Flush | worker.Stop]) -> None:
    """Gives the worker what is put into the outbox; where it has died, the inbox will tell."""
    with contextlib.suppress(OSError):
        while not isinstance(message := outbox.get(), worker.Stop):
            connection.send(message)
        connection.send(message)


class Supervisor:
    """Moves tasks to the worker and rows to the disk until every view is committed.

    Parameters
    ----------
    listing
        The views.
    out
        Where rows are committed.
    process
        The worker, running or to be started.
    ledger
        What is to be done.
    progress
        What an earlier run has done.
    report
        Told of every commit, and about once a second.

    Attributes
    ----------
    losses
        How often a worker was lost.
    stage_seconds
        What the last worker's main thread did for how long.
    """

    def __init__(
        self,
        listing: Listing,
        out: OutputFolder,
        process: WorkerProcess,
        ledger: Ledger,
        progress: Progress,
        report: Callable[[Progress], None],
    ) -> None:
        self._listing, self._out, self._process, self._ledger = listing, out, process, ledger
        self._progress, self._report = progress, report
        self.losses = 0
        self._losses_in_a_row = self._culprits_in_a_row = 0
        self.stage_seconds: dict[str, float] = {}
        self._first_batch_at: float | None = None
        self._last_commit_at = 0.0

    @property
    def seconds(self) -> float:
        """From the first batch in to the last commit."""
        return self._last_commit_at - (self._first_batch_at or self._progress.started)

    def run(self) -> None:
        """Works until the ledger is done."""
        if not self._ledger.done and not self._process.running:
            self._process.start()
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
                case Lost() as lost:
                    self._replace_worker(lost)
                    self._send_tasks()
                case message:
                    raise AssertionError(message)

    def _send_tasks(self) -> None:
        while task := self._ledger.next_task():
            self._process.send(self._assignment(task))

    def _assignment(self, task: Task) -> worker.Assignment:
        run = task.start, task.stop
        return worker.Assignment(task, self._listing.references(*run), self._listing.kinds_of(*run))

    def _take(self, done: worker.Done) -> None:
        self._losses_in_a_row = self._culprits_in_a_row = 0
        self.stage_seconds = done.stage_seconds
        self._progress.fresh += done.rows.stop - done.rows.start
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

    def _replace_worker(self, lost: Lost) -> None:
        """Settles what the lost worker had, and starts another, again where that one is lost at once."""
        while True:
            self.losses += 1
            self._losses_in_a_row += 1
            if lost.hangs:
                words = f"hangs: {lost.hangs}"
                self._process.stop(graceful=False)
            else:
                words = f"died ({self._process.last_words()})"
            if self._losses_in_a_row > MAX_LOSSES_IN_A_ROW or self._culprits_in_a_row > MAX_CULPRITS_IN_A_ROW:
                raise EnvironmentProblem(
                    f"the worker process {words}, and was lost {self._losses_in_a_row + self._culprits_in_a_row} times"
                    " with no view scored in between; look at the disk, at memory and at the log, then run again with"
                    " --resume"
                )
            logger.warning("the worker process %s; starting another, its views are tried again", words)
            self._process.stop(graceful=False)
            self._progress.under_way = 0
            named = self._ledger.culprits
            self._commit(self._ledger.worker_lost(*lost.blame))
            if self._ledger.culprits > named and not lost.hangs:
                self._losses_in_a_row = 0
                self._culprits_in_a_row += 1
            if self._ledger.done or self._process.try_to_start() is not None:
                return
            lost = Lost()

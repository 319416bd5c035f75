"""One device's process: takes tasks, reads, screens, decodes and scores their views, returns rows.

Reading and screening run in a few threads and decoding in others, both ahead of the engine, which the main thread
feeds. Batches cross the borders of tasks, so that no task pays for a tail of its own.
"""

from __future__ import annotations

import gc
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mura_trt.archives.listing import Reader, Reference, Source
from mura_trt.bundle import Bundle
from mura_trt.cores import processor_name, usable_cores
from mura_trt.cuda_devices import gpu_kind
from mura_trt.errors import EnvironmentProblem, MuraTrtError
from mura_trt.host_decode import AnyDecoder, open_decoder
from mura_trt.places import AnyPlace, Place
from mura_trt.processes import send_output_to, work_for
from mura_trt.readahead import Batch, ReadAhead
from mura_trt.rows import Failure, Rows, ScoreArray, Task, score_type, scores_of
from mura_trt.runtimes import Session, SessionOptions, open_session

# Ahead of the engine: with two, threads that are through with one wait while the main thread hands the other to a GPU.
BATCHES_DECODING = 3
PULSE_SECONDS = 1.0


@dataclass(frozen=True)
class WorkerConfig:
    """All a worker needs to know before its first task."""

    bundle: Bundle
    """Checked already by whoever opened it."""
    source: Source
    """Where the views are read from."""
    runtime: str
    """One of ``RUNTIMES``, or ``auto``."""
    batch: int | None
    """Views in a batch; None takes what suits the runtime."""
    null_ms: float
    """The ``null`` runtime's time for a batch, in milliseconds."""
    log: Path
    """File that takes what the libraries print to standard error."""
    map_size: int = 0
    """Values of a class activation map that rows come with: all it has, or none."""
    place: AnyPlace = field(default_factory=Place)
    """The device that it works on."""


class Line(Protocol):
    """A worker's end of the line to its supervisor; either method raises OSError or EOFError where that is gone."""

    def send(self, message: Any, /) -> None:
        """Gives a message."""

    def recv(self) -> Any:
        """The next one, when it comes."""


class Ready(NamedTuple):
    """A worker's first message: it can take tasks."""

    runtime: str
    device: str
    batch: int
    passed_over: list[str]
    device_name: str = ""
    """Of the processor or the GPU; empty where the machine does not tell."""
    node: str = ""
    """The machine that it works on, where there may be several."""
    actor: str = ""
    """What the cluster knows it by."""


class Assignment(NamedTuple):
    """A task with what its views are read by."""

    task: Task
    references: list[Reference]
    kinds: bytes = b""
    """What they are: a byte each, of the listing's kinds; empty where all are image files."""


class Done(NamedTuple):
    """A finished task."""

    rows: Rows
    working_s: float
    """Seconds since this worker's first batch went in; machines have no clock in common. 0 where none did."""
    stage_seconds: dict[str, float]
    """How long the main thread waited for reading and for decoding and was in the engine, its CPU time in all
    (``main_cpu``) and the process's (``cpu``), since it began to work."""


class Stop(NamedTuple):
    """Ends the worker."""


class Flush(NamedTuple):
    """The answer to ``Hungry`` where nothing more comes for now: finish with a short batch."""


class Hungry(NamedTuple):
    """What the worker has does not fill a batch: it wants a task or ``Flush``, one of which always comes."""


class Pulse(NamedTuple):
    """Sent about once a second by a thread of its own: the process lives, and this is what its main thread does."""

    settled: int
    """Views of tasks not done yet that have a score or a failure."""
    stage: str
    """``read``, ``decode`` or ``engine``; ``idle`` between them."""
    seconds: float
    """How long it has been in that stage without a sign of progress, less what the batch's bytes allow for."""
    away: str = ""
    """Why the archive as a whole cannot be reached, while that is waited for."""


class Fatal(NamedTuple):
    """A worker's last message: what keeps it from working at all."""

    error: MuraTrtError


def main(connection: Connection, config: WorkerConfig, supervisor: int) -> None:
    """The process's entry: works until the supervisor says ``Stop``, closes the connection or dies.

    Parameters
    ----------
    connection
        Takes ``Assignment``, ``Flush`` and ``Stop``; gives ``Ready``, then ``Done``, ``Hungry`` and ``Pulse``;
        ``Fatal`` at any time.
    config
        What to work with.
    supervisor
        The supervisor's process id.
    """
    work_for(supervisor)
    send_output_to(config.log)
    work(connection, config)


def work(line: Line, config: WorkerConfig) -> None:
    """What :func:`main` does in whatever process it is in; also takes a line of another kind."""
    try:
        bundle = config.bundle
        config.place.take()
        options = SessionOptions(config.batch, config.null_ms, device=config.place.gpu or 0)
        session, passed_over = open_session(config.runtime, bundle, options)
        with closing(session):  # or a process that fails would end in what CUDA says to that, not in why it failed
            threads = decoding_threads(usable_cores(), engine_on_cpu=session.device == "cpu" and session.name != "null")
            size = bundle.contract.size
            with closing(open_decoder(size, threads, session.batch, session.stream)) as decoder:
                reader = config.source.open()
                # All that is there stays: it need not be looked through whenever garbage is collected.
                gc.collect()
                gc.freeze()
                name = device_name(session.device, options.device)
                line.send(Ready(session.name, session.device, session.batch, passed_over, name))
                Worker(line, reader, decoder, session, config.map_size).run()
    except MuraTrtError as error:
        line.send(Fatal(error))
    except OSError as error:
        line.send(Fatal(EnvironmentProblem(f"the worker cannot work: {error}")))


def device_name(device: str, ordinal: int) -> str:
    """Of the GPU with that number where ``device`` is ``cuda``, else of the processor; empty where none is told."""
    if device != "cuda":
        return processor_name()
    kind = gpu_kind(ordinal)
    return kind.name if kind else ""


def decoding_threads(cores: int, engine_on_cpu: bool) -> int:
    """Threads for decoding, of a worker that may use ``cores``.

    An engine on the CPU takes fifty times what decoding takes, or more (200 core-ms a view, not 0.4 to 4): it may use
    every core and one decoding thread in sixteen keeps up with it; any other engine leaves the cores to decoding.
    """
    return max(1, cores // 16) if engine_on_cpu else cores


@dataclass
class _OpenTask:
    """A task at work; scores fill in as batches end, and a view that failed keeps NaN."""

    task: Task
    scores: ScoreArray
    failures: list[Failure] = field(default_factory=list)
    settled: int = 0

    @classmethod
    def of(cls, task: Task, map_size: int) -> _OpenTask:
        nothing = np.zeros(task.stop - task.start, score_type(map_size))
        nothing["probability"] = np.nan
        return cls(task, nothing)

    def score(self, views: NDArray[np.int64], scores: ScoreArray) -> None:
        """Takes what belongs to this task of a batch."""
        mine = (views >= self.task.start) & (views < self.task.stop)
        at = views[mine] - self.task.start
        self.scores[at] = scores[mine]
        self.settled += len(at)

    def fail(self, failure: Failure) -> None:
        if self.task.start <= failure.view < self.task.stop:
            self.failures.append(failure)
            self.settled += 1

    @property
    def complete(self) -> bool:
        return self.settled == len(self.scores)

    def rows(self) -> Rows:
        scored = np.flatnonzero(~np.isnan(self.scores["probability"]))
        self.failures.sort(key=lambda failure: failure.view)
        return Rows(self.task.start, self.task.stop, scored + self.task.start, self.scores[scored], self.failures)


class Worker:
    """The loop from tasks to rows, over one reader, one decoder and one session."""

    def __init__(self, line: Line, reader: Reader, decoder: AnyDecoder, session: Session, map_size: int) -> None:
        self._line, self._session, self._decoder = line, session, decoder
        self._map_size = map_size
        self._sending = threading.Lock()
        self._reader, self._ahead = reader, ReadAhead(session.batch, reader)
        self._inbox: SimpleQueue[Assignment | Flush | Stop] = SimpleQueue()
        self._decoding: deque[Batch] = deque()
        self._computing: deque[tuple[NDArray[np.int64], NDArray[np.bool_]]] = deque()  # views, and whether in color
        self._open: deque[_OpenTask] = deque()
        self._first_batch_at = 0.0
        self._seconds = {"read": 0.0, "decode": 0.0, "engine": 0.0}
        self._stage = ("idle", time.monotonic())
        self._cpu_began = {"main_cpu": time.thread_time(), "cpu": time.process_time()}
        self._settled = 0

    def run(self) -> None:
        """Works until ``Stop``, or until the other end of the line is closed."""
        # Messages are taken by a thread of their own: were both ends to send at once and neither to receive, both would
        # wait for ever.
        threading.Thread(target=self._take_messages, name="inbox", daemon=True).start()
        threading.Thread(target=self._send_pulses, name="pulse", daemon=True).start()
        try:
            while self._receive():
                # The decoder gets its next batches first, so that it works while this thread waits for the session.
                while len(self._decoding) < BATCHES_DECODING and self._start_batch():
                    pass
                if self._decoding and self._session.room:
                    self._hand_over()
                elif self._computing:
                    self._finish_batch()
                self._send_complete()
        finally:  # or its readers would wait for room for ever, and a process that has failed would not end
            with self._doing("read"):  # one of them may hang
                self._ahead.close()

    @contextmanager
    def _doing(self, stage: str, allowance: float = 0.0) -> Iterator[None]:
        """Notes what the main thread does, and for how long; ``allowance`` is seconds that it may take anyway."""
        started = time.monotonic()
        self._stage = (stage, started + allowance)
        try:
            yield
        finally:
            now = time.monotonic()
            self._seconds[stage] += now - started
            self._stage = ("idle", now)

    def _send_pulses(self) -> None:
        while True:
            time.sleep(PULSE_SECONDS)
            stage, since = self._stage
            if stage == "read":
                seconds = self._ahead.slowest_read()
            elif stage == "decode":
                seconds = time.monotonic() - max(since, self._decoder.attempted_at)
            else:
                seconds = time.monotonic() - since
            try:
                with self._sending:
                    self._line.send(Pulse(self._settled, stage, seconds, self._reader.away))
            except OSError:  # the supervisor has closed the connection
                return

    def _take_messages(self) -> None:
        while True:
            try:
                self._inbox.put(self._line.recv())
            except (EOFError, OSError):
                self._inbox.put(Stop())
                return

    def _receive(self) -> bool:
        """Takes what has come, waiting where there is nothing else to do; False when the supervisor is gone."""
        idle = not self._decoding and not self._computing and not self._ahead.reading
        if idle and self._ahead.waiting and self._inbox.empty():
            with self._sending:
                self._line.send(Hungry())
        while idle or not self._inbox.empty():
            message = self._inbox.get()
            if isinstance(message, Stop):
                return False
            if isinstance(message, Flush):
                self._ahead.flush()
            else:
                task, references, kinds = message
                self._open.append(_OpenTask.of(task, self._map_size))
                self._ahead.add(task.start, references, kinds)
            idle = False
        return True

    def _start_batch(self) -> bool:
        with self._doing("read"):
            batch, failures = self._ahead.next_batch()
        self._fail(failures)
        if batch is None:
            return False
        self._first_batch_at = self._first_batch_at or time.monotonic()
        with self._doing("decode", batch.allowance):
            self._decoder.submit(batch.files)
        self._decoding.append(batch)
        return True

    def _hand_over(self) -> None:
        """The oldest batch from the decoder to the session."""
        batch = self._decoding.popleft()
        with self._doing("decode", batch.allowance):
            pixels, kept, rejected = self._decoder.collect()
        self._fail([Failure(batch.views[at], "decode", reason.code, str(reason)) for at, reason in rejected])
        if kept:
            with self._doing("engine"):
                self._session.submit(pixels)
            views, _, color = batch.take(kept)
            self._computing.append((np.array(views), np.array(color)))

    def _finish_batch(self) -> None:
        """The oldest batch's scores from the session to the tasks that its views are of."""
        views, color = self._computing.popleft()
        with self._doing("engine"):
            scores = self._session.collect()
        maps = scores.cam if self._map_size else None
        self._settle(views, scores_of(scores.logit, scores.probability, color, maps))

    def _settle(self, views: NDArray[np.int64], scores: ScoreArray) -> None:
        finite = np.isfinite(scores["logit"]) & np.isfinite(scores["probability"])
        message = "the network gave no finite number; with FP16, check the checkpoint's range in FP32"
        self._fail([Failure(int(view), "engine", "NOT_FINITE", message) for view in views[~finite]])
        for task in self._open:
            task.score(views[finite], scores[finite])

    def _fail(self, failures: list[Failure]) -> None:
        for failure in failures:
            for task in self._open:
                task.fail(failure)

    def _send_complete(self) -> None:
        """Sends finished tasks, oldest first; views settle in order, so a later one is never kept waiting for long."""
        while self._open and self._open[0].complete:
            rows = self._open.popleft().rows()
            cpu = {"main_cpu": time.thread_time(), "cpu": time.process_time()}
            seconds = {**self._seconds, **{name: cpu[name] - began for name, began in self._cpu_began.items()}}
            with self._sending:  # no pulse that follows counts these views once more
                self._count()
                working = time.monotonic() - self._first_batch_at if self._first_batch_at else 0.0
                self._line.send(Done(rows, working, seconds))
        self._count()

    def _count(self) -> None:
        self._settled = sum(task.settled for task in self._open)

"""Moves tasks to the workers and rows to the disk, until all is committed; replaces a worker that is lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from mura_trt import worker
from mura_trt.archives.awaited import AWAY_SECONDS
from mura_trt.archives.listing import Listing
from mura_trt.crew import Crew, Lost
from mura_trt.errors import EnvironmentProblem, MuraTrtError
from mura_trt.ledger import Ledger
from mura_trt.progress import Progress
from mura_trt.results import OutputFolder
from mura_trt.rows import Rows, Task
from mura_trt.runtimes import runtime_code

logger = logging.getLogger(__name__)

# A worker that is lost this often, with not a row given and no culprit named in between, would be lost on anything; so
# would one that is said to have died of that many views and gave no row in between. A hang names nobody here, for what
# hangs is mostly the disk, and costs 45 s.
MAX_LOSSES_IN_A_ROW = 20
MAX_CULPRITS_IN_A_ROW = 200
# When all is handed out, an idle worker does what another is late with, too. Late is one that gave nothing for so long,
# and for so many times as long as the idle one would take for the task.
LATE_SECONDS, LATE_TIMES = 10.0, 3.0


@dataclass
class Record:
    """What one worker, and those that it replaced at its place, have done."""

    views: int = 0
    """Views that it gave rows of."""
    losses: int = 0
    """How often it was lost."""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """What its main thread did for how long, as far as it told."""
    gone: bool = False
    """It was lost for good."""
    settled: int = 0
    """Views of the tasks at work that it is through with."""
    losses_in_a_row: int = 0
    culprits_in_a_row: int = 0
    last_told: dict[str, float] = field(default_factory=dict)
    """The stage seconds of the one that is there now."""
    waited_since: float = 0.0
    """When it last gave rows, or was given a task while it had none: seconds of the monotonic clock."""
    views_of_its_own: int = 0
    """That the one gave that is there now."""
    seconds_a_view: float = 0.0
    """What it takes, as far as it told."""
    waits: bool = False
    """For the archive to be there again."""

    def take(self, done: worker.Done, views: int) -> None:
        """Counts a task's rows, of which so many count."""
        self.losses_in_a_row = self.culprits_in_a_row = 0
        self.views += views
        self.settled = max(0, self.settled - (done.rows.stop - done.rows.start))
        self.waited_since = time.monotonic()
        self.views_of_its_own += views
        if self.views_of_its_own:
            self.seconds_a_view = done.working_s / self.views_of_its_own
        for stage, seconds in done.stage_seconds.items():
            more = seconds - self.last_told.get(stage, 0.0)
            self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + more
        self.last_told = done.stage_seconds

    def lose(self) -> None:
        """Counts a loss."""
        self.losses += 1
        self.losses_in_a_row += 1
        self.settled, self.views_of_its_own, self.last_told = 0, 0, {}


class Supervisor:
    """Moves tasks to the workers and rows to the disk until every view is committed.

    Parameters
    ----------
    listing
        The views.
    out
        Where rows are committed.
    crew
        The workers, running or to be started.
    ledger
        What is to be done, for as many workers.
    progress
        What an earlier run has done.
    report
        Told of every commit, and about once a second.

    Attributes
    ----------
    records
        What each worker has done.
    """

    def __init__(
        self,
        listing: Listing,
        out: OutputFolder,
        crew: Crew,
        ledger: Ledger,
        progress: Progress,
        report: Callable[[Progress], None],
    ) -> None:
        self._listing, self._out, self._crew, self._ledger = listing, out, crew, ledger
        self._progress, self._report = progress, report
        self.records = [Record() for _ in range(len(crew))]
        self._first_batch_at: float | None = None
        self._last_commit_at = 0.0

    @property
    def seconds(self) -> float:
        """From the first batch in to the last commit."""
        return self._last_commit_at - (self._first_batch_at or self._progress.started)

    def run(self) -> None:
        """Works until the ledger is done."""
        if not self._ledger.done and not self._crew.running:
            self._crew.start()
        for number, record in enumerate(self.records):
            if self._crew.running and not self._crew.works(number):  # it could not start, and is done without
                record.gone = True
                self._ledger.worker_gone(number)
        self._send_tasks()
        while not self._ledger.done:
            number, message = self._crew.receive()
            match message:
                case worker.Done() as done:
                    self._take(number, done)
                case worker.Hungry():
                    task = self._ledger.next_task(number, hungry=True)
                    self._crew.send(number, self._assignment(task) if task else worker.Flush())
                    continue
                case worker.Pulse(settled, _, _, away):
                    self.records[number].settled = settled
                    self._tell_of_waiting(number, away)
                    self._help_with_what_is_late(number)
                    self._tell()
                    continue
                case Lost() as lost:
                    self._replace(number, lost)
                case worker.Fatal(error):
                    self._do_without(number, error)
                case worker.Ready():
                    pass  # who replaces another, and gets tasks as all do
            self._send_tasks()
        for number in range(len(self._crew)):
            if not self._ledger.idle(number):  # it is at what another has done before it
                self._crew.stop(number, graceful=False)

    def _send_tasks(self) -> None:
        """To all, for what a lost worker leaves may be for any."""
        for number in range(len(self._crew)):
            while self._crew.works(number) and (task := self._ledger.next_task(number)):
                self._send(number, task)

    def _send(self, number: int, task: Task) -> None:
        if self._ledger.oldest(number) == task:
            self.records[number].waited_since = time.monotonic()
        self._crew.send(number, self._assignment(task))

    def _help_with_what_is_late(self, number: int) -> None:
        """Has a worker, where it is idle, do what the latest of the others has at work, too."""
        if len(self._crew) == 1 or not self._crew.works(number) or not self._ledger.idle(number):
            return
        now, pace = time.monotonic(), self.records[number].seconds_a_view
        late = {}
        for other, record in enumerate(self.records):
            task = self._ledger.oldest(other)
            if task:
                allowed = max(LATE_SECONDS, LATE_TIMES * pace * (task.stop - task.start))
                late[other] = now - record.waited_since - allowed
        for other in sorted((other for other in late if late[other] > 0), key=late.__getitem__, reverse=True):
            task = self._ledger.copy(number, other)
            if task:
                name = self._crew.name(other)
                logger.warning("%s is late: its views %d to %d are scored twice", name, task.start, task.stop - 1)
                self._crew.send(number, self._assignment(task))
                return

    def _tell_of_waiting(self, number: int, away: str) -> None:
        waited, self.records[number].waits = self.records[number].waits, bool(away)
        if away and not waited:
            logger.warning(
                "%s: cannot be reached (%s); %s waits for it, %.0f minutes at the most",
                self._listing.source.root,
                away,
                self._crew.name(number),
                AWAY_SECONDS / 60,
            )

    def _assignment(self, task: Task) -> worker.Assignment:
        run = task.start, task.stop
        return worker.Assignment(task, self._listing.references(*run), self._listing.kinds_of(*run))

    def _take(self, number: int, done: worker.Done) -> None:
        if done.working_s:
            first_batch_at = time.monotonic() - done.working_s
            self._first_batch_at = min(self._first_batch_at or first_batch_at, first_batch_at)
        before = self._ledger.came_back
        whole = self._ledger.returned(number, self._named(number, done.rows))
        fresh = self._ledger.came_back - before
        self._progress.fresh += fresh
        self.records[number].take(done, fresh)
        if (ready := self._crew.ready(number)) and ready.node:
            self._progress.nodes[ready.node] = self._progress.nodes.get(ready.node, 0) + fresh
        self._commit(whole)

    def _named(self, number: int, rows: Rows) -> Rows:
        """Rows that tell their runtime, where workers have different ones."""
        ready = self._crew.ready(number)
        if not self._crew.mixed or ready is None:
            return rows
        scores = rows.scores.copy()  # what came by a cluster's shared memory cannot be written to
        scores["runtime"] = runtime_code(ready.runtime)
        return replace(rows, scores=scores)

    def _commit(self, rows: Rows | None) -> None:
        if rows is None:
            return
        self._out.commit(rows)
        self._last_commit_at = time.monotonic()
        self._progress.scored += len(rows.views)
        self._progress.failed += len(rows.failures)
        self._tell()

    def _tell(self) -> None:
        committed = self._progress.scored + self._progress.failed
        waiting = self._ledger.came_back - committed  # for the rest of their shards
        under_way = waiting + sum(record.settled for record in self.records)
        self._progress.under_way = min(under_way, self._progress.views - committed)  # some may be done twice
        self._report(self._progress)

    def _replace(self, number: int, lost: Lost) -> None:
        """Settles what the lost worker had, and has another start."""
        record, crew = self.records[number], self._crew
        record.lose()
        words = f"hangs: {lost.hangs}" if lost.hangs else f"died ({crew.last_words(number)})"
        crew.stop(number, graceful=False)
        if record.losses_in_a_row > MAX_LOSSES_IN_A_ROW or record.culprits_in_a_row > MAX_CULPRITS_IN_A_ROW:
            problem = EnvironmentProblem(
                f"{crew.name(number)} {words}, and was lost {record.losses_in_a_row + record.culprits_in_a_row} times"
                " with no view scored in between; look at the disk, at memory and at the log, then run again with"
                " --resume"
            )
            self._do_without(number, problem)
            return
        logger.warning("%s %s; starting another, its views are tried again", crew.name(number), words)
        named = self._ledger.culprits
        self._commit(self._ledger.worker_lost(number, *lost.blame))
        if self._ledger.culprits > named and not lost.hangs:
            record.losses_in_a_row = 0
            record.culprits_in_a_row += 1
        if not self._ledger.done:
            crew.launch(number)

    def _do_without(self, number: int, problem: MuraTrtError) -> None:
        """Goes on with the other workers, where there are any."""
        self.records[number].gone, self.records[number].settled = True, 0
        if all(record.gone for record in self.records):
            raise problem
        logger.warning("%s; the run goes on without it", problem)
        self._crew.stop(number, graceful=False)
        self._ledger.worker_gone(number)

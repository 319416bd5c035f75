"""Which views are committed, at work, or to be tried again. Pure bookkeeping: no process, file or clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Failure:
    """Why a view has no score."""

    view: int
    """The view's number in the listing."""
    stage: str
    """``read``, ``screen``, ``decode``, ``engine`` or ``worker``."""
    code: str
    message: str


@dataclass(frozen=True)
class Rows:
    """What became of the views ``start`` to ``stop`` (exclusive) of the listing.

    ``views`` int64 (k,), ``logit`` and ``probability`` float32 (k,) are the scored ones in order.
    """

    start: int
    stop: int
    views: NDArray[np.int64]
    logit: NDArray[np.float32]
    probability: NDArray[np.float32]
    failures: list[Failure] = field(default_factory=list)

    def __post_init__(self) -> None:
        named = sorted([*self.views.tolist(), *(failure.view for failure in self.failures)])
        if named != list(range(self.start, self.stop)):
            raise ValueError(f"views {self.start} to {self.stop}: some are lost or doubled")

    @classmethod
    def of_one_failure(cls, failure: Failure) -> Rows:
        """The rows of a single view that has no score."""
        nothing = np.empty(0, np.float32)
        return cls(failure.view, failure.view + 1, np.empty(0, np.int64), nothing, nothing, [failure])

    @classmethod
    def joined(cls, parts: list[Rows]) -> Rows:
        """Neighbouring rows as one."""
        parts = sorted(parts, key=lambda part: part.start)
        return cls(
            parts[0].start,
            parts[-1].stop,
            np.concatenate([part.views for part in parts]),
            np.concatenate([part.logit for part in parts]),
            np.concatenate([part.probability for part in parts]),
            [failure for part in parts for failure in part.failures],
        )


@dataclass(frozen=True)
class Task:
    """Views ``start`` to ``stop`` (exclusive) for a worker; all of one shard."""

    start: int
    stop: int


class Ledger:
    """Hands out shards as tasks, takes rows back, and says which shard is complete.

    A shard is a run of ``shard_views`` views; the last may be shorter. When a worker dies, the tasks it had are given
    out again one at a time, so that the next death has one culprit: a task that dies alone is split into single views,
    and a view that dies alone is a failure. Every other view keeps its score.

    Parameters
    ----------
    views
        How many there are.
    shard_views
        Views in a shard.
    ahead
        Views that are kept with the worker, so that it never runs dry; a hungry worker gets more.
    """

    def __init__(self, views: int, shard_views: int, ahead: int) -> None:
        self._views, self._shard_views, self._ahead = views, shard_views, ahead
        self._next_view = 0
        self._suspects: deque[Task] = deque()
        self._alone = False  # the task at work is a suspect
        self._at_work: deque[Task] = deque()
        self._partial: dict[int, list[Rows]] = {}

    @property
    def done(self) -> bool:
        """Every view was handed out and came back."""
        return self._next_view >= self._views and not self._suspects and not self._at_work

    def next_task(self, hungry: bool = False) -> Task | None:
        """The next task to send now, or None: wait for rows first, or all is sent.

        A worker is ``hungry`` when what it has does not fill a batch, as when most of it cannot be read.
        """
        if self._at_work and (self._suspects or self._alone):
            return None
        self._alone = bool(self._suspects)
        if self._suspects:
            task = self._suspects.popleft()
        else:
            at_work = sum(task.stop - task.start for task in self._at_work)
            if self._next_view >= self._views or (at_work >= self._ahead and not hungry):
                return None
            stop = min(self._next_view + self._shard_views, self._views)
            task = Task(self._next_view, stop)
            self._next_view = stop
        self._at_work.append(task)
        return task

    def returned(self, rows: Rows) -> Rows | None:
        """Takes a task's rows; gives a shard's when they are its last."""
        task = next(task for task in self._at_work if (task.start, task.stop) == (rows.start, rows.stop))
        self._at_work.remove(task)
        return self._gather(rows)

    def worker_died(self) -> Rows | None:
        """Takes back what the dead worker had; gives a shard's rows when a culprit's failure completes it."""
        lost = list(self._at_work)
        self._at_work.clear()
        if len(lost) == 1 and lost[0].stop - lost[0].start > 1:
            (task,) = lost
            again = [Task(view, view + 1) for view in range(task.start, task.stop)]
        elif len(lost) == 1 and self._alone:
            (task,) = lost
            message = "the worker process died on this view twice, the second time with no other view at work"
            return self._gather(Rows.of_one_failure(Failure(task.start, "worker", "WORKER_DIED", message)))
        else:
            again = [Task(task.start, task.stop) for task in lost]
        self._suspects.extendleft(reversed(again))
        return None

    def _gather(self, rows: Rows) -> Rows | None:
        shard = rows.start // self._shard_views
        parts = self._partial.setdefault(shard, [])
        parts.append(rows)
        size = min(self._shard_views, self._views - shard * self._shard_views)
        if sum(part.stop - part.start for part in parts) < size:
            return None
        return Rows.joined(self._partial.pop(shard))

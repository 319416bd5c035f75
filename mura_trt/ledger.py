"""Which views are committed, at work, or to be tried again. Pure bookkeeping: no process, file or clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Failure:
    """Why a view has no score."""

    view: int
    """The view's number in the listing."""
    stage: str
    """``read``, ``screen``, ``decode``, ``engine`` or ``worker``."""
    code: str
    message: str


ScoreArray = NDArray[np.void]


def score_type(map_size: int) -> np.dtype[np.void]:
    """Of one view: logit and probability, whether its file stores color, and its class activation map, row by row.

    The map has no values where none is kept.
    """
    return np.dtype([("logit", "<f4"), ("probability", "<f4"), ("color", "?"), ("map", "<f4", (map_size,))])


def scores_of(
    logit: ArrayLike, probability: ArrayLike, color: ArrayLike = False, maps: NDArray[np.float32] | None = None
) -> ScoreArray:
    """Scores of n views from their parts, (n,) each; maps are float32 (n, ...) or not kept."""
    found = np.empty(len(np.asarray(logit)), score_type(0 if maps is None else int(np.prod(maps.shape[1:]))))
    found["logit"], found["probability"], found["color"] = logit, probability, color
    if maps is not None:
        found["map"] = maps.reshape(found["map"].shape)
    return found


@dataclass(frozen=True)
class Rows:
    """What became of the views ``start`` to ``stop`` (exclusive) of the listing.

    ``views`` int64 (k,) are the scored ones in order, ``scores`` (k,) of :func:`score_type` what they got.
    """

    start: int
    stop: int
    views: NDArray[np.int64]
    scores: ScoreArray
    failures: list[Failure] = field(default_factory=list)

    def __post_init__(self) -> None:
        named = sorted([*self.views.tolist(), *(failure.view for failure in self.failures)])
        if named != list(range(self.start, self.stop)):
            raise ValueError(f"views {self.start} to {self.stop}: some are lost or doubled")

    def is_shard(self, shard_views: int, views: int) -> bool:
        """Whether they are all of a shard, where there are ``views`` in shards of ``shard_views``."""
        return self.start % shard_views == 0 and self.stop in (self.start + shard_views, views)

    def scored_runs(self) -> list[Rows]:
        """The rows without their failures: each run of neighbours that have scores, as rows of its own."""
        edges = [self.start - 1, *(failure.view for failure in self.failures), self.stop]
        runs = []
        for before, after in pairwise(edges):
            if after - before > 1:
                here = slice(*np.searchsorted(self.views, (before + 1, after)))
                runs.append(Rows(before + 1, after, self.views[here], self.scores[here]))
        return runs

    @classmethod
    def of_one_failure(cls, failure: Failure) -> Rows:
        """The rows of a single view that has no score."""
        return cls(failure.view, failure.view + 1, np.empty(0, np.int64), scores_of([], []), [failure])

    @classmethod
    def joined(cls, parts: list[Rows]) -> Rows:
        """Neighbouring rows as one."""
        parts = sorted(parts, key=lambda part: part.start)
        # Rows without a score know nothing of maps.
        scores = [part.scores for part in parts if len(part.scores)] or [parts[0].scores]
        return cls(
            parts[0].start,
            parts[-1].stop,
            np.concatenate([part.views for part in parts]),
            np.concatenate(scores),
            [failure for part in parts for failure in part.failures],
        )


@dataclass(frozen=True)
class Task:
    """Views ``start`` to ``stop`` (exclusive) for a worker; all of one shard."""

    start: int
    stop: int


class Ledger:
    """Hands out shards as tasks, takes rows back, and says which shard is complete.

    A shard is a run of ``shard_views`` views; the last may be shorter. When a worker is lost, because it died or hung,
    the tasks it had are given out again one at a time, so that the next loss has one culprit: a task that is lost alone
    is split into single views, and a view that is lost alone is a failure. Every other view keeps its score.

    Parameters
    ----------
    views
        How many there are.
    shard_views
        Views in a shard.
    ahead
        Views that are kept with the worker, so that it never runs dry; a hungry worker gets more.
    kept
        Rows of an earlier run, each of one shard or part of one: their views are not handed out.

    Attributes
    ----------
    culprits
        How many views were named that a worker was lost on.
    """

    def __init__(self, views: int, shard_views: int, ahead: int, kept: Iterable[Rows] = ()) -> None:
        self._views, self._shard_views, self._ahead = views, shard_views, ahead
        self._suspects: deque[Task] = deque()
        self._alone = False  # the task at work is a suspect
        self._at_work: deque[Task] = deque()
        self._partial: dict[int, list[Rows]] = {}
        self.culprits = 0
        self._complete = np.zeros(-(-views // shard_views), bool)
        for rows in kept:
            self._complete[rows.start // shard_views] = self._gather(rows) is not None
        self._untouched = self._gaps()
        self._next = next(self._untouched, None)

    @property
    def done(self) -> bool:
        """Every view was handed out and came back."""
        return self._next is None and not self._suspects and not self._at_work

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
            if self._next is None or (at_work >= self._ahead and not hungry):
                return None
            task, self._next = self._next, next(self._untouched, None)
        self._at_work.append(task)
        return task

    def returned(self, rows: Rows) -> Rows | None:
        """Takes a task's rows; gives a shard's when they are its last."""
        task = next(task for task in self._at_work if (task.start, task.stop) == (rows.start, rows.stop))
        self._at_work.remove(task)
        return self._gather(rows)

    def worker_lost(self, code: str, message: str) -> Rows | None:
        """Takes back what a lost worker had; gives a shard's rows when a culprit's failure completes it.

        Parameters
        ----------
        code, message
            Of the culprit's failure: what the loss looked like.
        """
        lost = list(self._at_work)
        self._at_work.clear()
        if len(lost) == 1 and lost[0].stop - lost[0].start > 1:
            (task,) = lost
            again = [Task(view, view + 1) for view in range(task.start, task.stop)]
        elif len(lost) == 1 and self._alone:
            (task,) = lost
            self.culprits += 1
            return self._gather(Rows.of_one_failure(Failure(task.start, "worker", code, message)))
        else:
            again = [Task(task.start, task.stop) for task in lost]
        self._suspects.extendleft(reversed(again))
        return None

    def _gaps(self) -> Iterator[Task]:
        """What the kept rows leave to do: whole shards, or the parts between them."""
        for shard in np.flatnonzero(~self._complete).tolist():
            at, stop = self._bounds(shard)
            for part in sorted(self._partial.get(shard, []), key=lambda part: part.start):
                if at < part.start:
                    yield Task(at, part.start)
                at = part.stop
            if at < stop:
                yield Task(at, stop)

    def _bounds(self, shard: int) -> tuple[int, int]:
        return shard * self._shard_views, min((shard + 1) * self._shard_views, self._views)

    def _gather(self, rows: Rows) -> Rows | None:
        shard = rows.start // self._shard_views
        parts = self._partial.setdefault(shard, [])
        parts.append(rows)
        start, stop = self._bounds(shard)
        if sum(part.stop - part.start for part in parts) < stop - start:
            return None
        return Rows.joined(self._partial.pop(shard))

"""Which views are committed, at work, or to be tried again. Pure bookkeeping: no process, file or clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from mura_trt.rows import Failure, Rows, Task


@dataclass
class _Hand:
    """What one worker has, and what is to be tried on it again."""

    at_work: deque[Task] = field(default_factory=deque)
    copies: list[Task] = field(default_factory=list)
    """Tasks that another worker has at work, and this one, too."""
    overtaken: list[Task] = field(default_factory=list)
    """Tasks that this one may be at work on still, and whose rows another has given."""
    suspects: deque[Task] = field(default_factory=deque)
    alone: bool = False
    """The task at work is a suspect."""

    @property
    def views(self) -> int:
        """Of the tasks at work."""
        return sum(task.stop - task.start for task in self.at_work)

    @property
    def idle(self) -> bool:
        """It has nothing to do."""
        return not (self.at_work or self.copies or self.overtaken)


class Ledger:
    """Hands out shards as tasks, takes rows back, and says which shard is complete.

    A shard is a run of ``shard_views`` views; the last may be shorter. When a worker is lost, because it died or hung,
    the tasks it had are given out again one at a time, so that the next loss has one culprit: a task that is lost alone
    is split into single views, and a view that is lost alone is a failure. Every other view keeps its score, and the
    other workers go on with theirs. Where nothing else is left to do, they try a lost worker's tasks, too, each alone.

    Several workers are to end together: when the end comes near, each gets half its share of what is left, in parts of
    shards where need be, and again when it is through with that. What a straggler has at work may then be given to an
    idle worker, too: whose rows come first count, and the other's are passed over.

    Parameters
    ----------
    views
        How many there are.
    shard_views
        Views in a shard.
    ahead
        Views that are kept with a worker, so that it never runs dry; a hungry worker gets more.
    kept
        Rows of an earlier run, each of one shard or part of one: their views are not handed out.
    workers
        How many there are; they are known by number, from 0.
    least
        Views that are worth a worker's while: fewer are kept with it only where there are no more.

    Attributes
    ----------
    culprits
        How many views were named that a worker was lost on.
    """

    def __init__(
        self,
        views: int,
        shard_views: int,
        ahead: int,
        kept: Iterable[Rows] = (),
        workers: int = 1,
        least: int = 1,
    ) -> None:
        self._views, self._shard_views = views, shard_views
        self._ahead, self._least = ahead, least
        self._hands = [_Hand() for _ in range(workers)]
        self._working = workers
        self._partial: dict[int, list[Rows]] = {}
        self._lost: set[Task] = set()
        self.culprits = 0
        self._left = views  # not handed out yet
        self._complete = np.zeros(-(-views // shard_views), bool)
        for rows in kept:
            self._complete[rows.start // shard_views] = self._gather(rows) is not None
            self._left -= rows.stop - rows.start
        self._untouched = self._gaps()
        self._next = next(self._untouched, None)

    @property
    def done(self) -> bool:
        """Every view was handed out and came back."""
        return self._next is None and not any(hand.suspects or hand.at_work for hand in self._hands)

    @property
    def came_back(self) -> int:
        """Views whose rows are there, of this run or an earlier one, be their shard complete or not."""
        suspects = sum(task.stop - task.start for hand in self._hands for task in hand.suspects)
        return self._views - self._left - suspects - sum(hand.views for hand in self._hands)

    def next_task(self, worker: int, hungry: bool = False) -> Task | None:
        """The next task to send to a worker now, or None: wait for rows first, or all is sent.

        A worker is ``hungry`` when what it has does not fill a batch, as when most of it cannot be read.
        """
        hand = self._hands[worker]
        if hand.at_work and (hand.suspects or hand.alone):
            return None
        task = self._suspect_for(hand) if hand.idle else None
        hand.alone = task is not None
        task = task or self._untouched_for(hand, hungry)
        if task:
            hand.at_work.append(task)
        return task

    def _suspect_for(self, hand: _Hand) -> Task | None:
        if hand.suspects:
            return hand.suspects.popleft()
        most = max(self._hands, key=lambda other: len(other.suspects))
        return most.suspects.pop() if most.suspects and self._next is None else None

    def _untouched_for(self, hand: _Hand, hungry: bool) -> Task | None:
        task, ahead = self._next, self._ahead
        if self._working > 1:
            to_do = self._left + sum(other.views for other in self._hands)
            ahead = min(ahead, max(self._least, to_do // (2 * self._working)))
        room = ahead - hand.views
        if task is None or (room <= 0 and not hungry):
            return None
        cut = task.start + max(room, self._least)
        if ahead < self._ahead and cut + self._least <= task.stop:
            task, self._next = Task(task.start, cut), Task(cut, task.stop)
        else:
            self._next = next(self._untouched, None)
        self._left -= task.stop - task.start
        return task

    def idle(self, worker: int) -> bool:
        """Whether a worker has nothing to do, for nothing is left that was not handed out."""
        return self._next is None and self._hands[worker].idle

    def oldest(self, worker: int) -> Task | None:
        """What a worker is at, of what has no culprit in it as far as is known."""
        hand = self._hands[worker]
        return hand.at_work[0] if hand.at_work and not hand.alone else None

    def copy(self, worker: int, straggler: int) -> Task | None:
        """Gives an idle worker what a straggler will come to last, to be done twice; None where all of it is, or was.

        What a worker was lost with is not copied any more, or it could take one after the other for ever.
        """
        not_again = self._lost.union(task for hand in self._hands for task in hand.copies)
        task = next((task for task in reversed(self._hands[straggler].at_work) if task not in not_again), None)
        if task:
            self._hands[worker].copies.append(task)
            self._hands[worker].alone = False
        return task

    def returned(self, worker: int, rows: Rows) -> Rows | None:
        """Takes the rows of a task that a worker had; gives a shard's when they are its last."""
        hand, task = self._hands[worker], Task(rows.start, rows.stop)
        if task in hand.overtaken:
            hand.overtaken.remove(task)
            return None
        own = task in hand.at_work
        (hand.at_work if own else hand.copies).remove(task)
        for other in self._hands:
            tasks = other.copies if own else other.at_work
            if task in tasks:
                tasks.remove(task)
                other.overtaken.append(task)
        return self._gather(rows)

    def worker_lost(self, worker: int, code: str, message: str) -> Rows | None:
        """Takes back what a lost worker had, to be tried again on the one that replaces it.

        Gives a shard's rows when a culprit's failure completes it.

        Parameters
        ----------
        worker
            Which one.
        code, message
            Of the culprit's failure: what the loss looked like.
        """
        hand = self._hands[worker]
        lost = self._take_back(hand)
        if len(lost) == 1 and lost[0].stop - lost[0].start > 1:
            (task,) = lost
            again = [Task(view, view + 1) for view in range(task.start, task.stop)]
        elif len(lost) == 1 and hand.alone:
            (task,) = lost
            self.culprits += 1
            return self._gather(Rows.of_one_failure(Failure(task.start, "worker", code, message)))
        else:
            again = lost
        hand.suspects.extendleft(reversed(again))
        return None

    def worker_gone(self, worker: int) -> None:
        """Takes back what a worker had that nobody replaces: the others will try that, with no blame on any view."""
        hand = self._hands[worker]
        hand.suspects.extendleft(reversed(self._take_back(hand)))
        self._working -= 1

    def _take_back(self, hand: _Hand) -> list[Task]:
        """What a worker had that nobody else is at: what another has a copy of is that one's now."""
        lost = []
        self._lost.update(hand.at_work, hand.copies)
        for task in hand.at_work:
            other = next((other for other in self._hands if task in other.copies), None)
            if other:
                other.copies.remove(task)
                other.at_work.append(task)
            else:
                lost.append(task)
        for tasks in (hand.at_work, hand.copies, hand.overtaken):
            tasks.clear()
        return lost

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

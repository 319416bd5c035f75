"""Every view ends up committed once, whatever the order of answers and whoever dies on what."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from mura_trt.ledger import Ledger
from mura_trt.rows import Failure, Rows, Task, scores_of


def rows_of(start: int, stop: int, failed: frozenset[int] = frozenset()) -> Rows:
    """What a worker returns: a score that tells the view, or a failure."""
    views = np.array([view for view in range(start, stop) if view not in failed], np.int64)
    failures = [Failure(view, "read", "ENOENT", "gone") for view in range(start, stop) if view in failed]
    return Rows(start, stop, views, scores_of(views * 3, views / 1e3, views % 2 == 0), failures)


class Simulation:
    """Workers that answer in random order, die at random or of poison, or are gone for good; and their ledger."""

    def __init__(self, seed: int, workers: int) -> None:
        rng = self.rng = random.Random(seed)
        self.views = rng.choice([0, 1, 2, rng.randrange(1, 60), rng.randrange(1, 300)])
        self.shard_views = rng.choice([1, 2, rng.randrange(1, 40)])
        self.ahead = rng.choice([1, self.shard_views, 2 * self.shard_views, rng.randrange(1, 120)])
        some = frozenset(view for view in range(self.views) if rng.random() < 0.05)
        self.poison = frozenset(view for view in some if rng.random() < 0.6)
        self.unreadable = some - self.poison
        # Of a single view at work that dies nobody can tell whether it was to blame; so no accident befalls it.
        self.accidents = rng.choice([0.0, 0.02, 0.2])
        self.farewells = rng.choice([0.0, 0.1])
        self.kept = self._kept_by_an_earlier_run(some)
        least = rng.choice([1, rng.randrange(1, 20)])
        self.ledger = Ledger(self.views, self.shard_views, self.ahead, self.kept, workers, least)
        self.at_work: dict[int, list[Task]] = {worker: [] for worker in range(workers)}
        self.helpful = rng.choice([0.0, 0.1, 0.9])
        self.copies: list[Task] = []
        self.deaths = self.gone = self.passed_over = 0

    def _kept_by_an_earlier_run(self, lost: frozenset[int]) -> list[Rows]:
        """Some of the shards, whole or only their scored views, in any order."""
        kept: list[Rows] = []
        self.kept_shards: list[Rows] = []
        for start in range(0, self.views, self.shard_views):
            stop = min(start + self.shard_views, self.views)
            if self.rng.random() < 0.3:
                if self.rng.random() < 0.5 and not self.poison.intersection(range(start, stop)):
                    self.kept_shards.append(rows_of(start, stop, lost))
                    kept.append(self.kept_shards[-1])
                elif runs := rows_of(start, stop, lost).scored_runs():
                    kept.extend(runs)
                    if (runs[0].start, runs[0].stop) == (start, stop):
                        self.kept_shards.append(runs[0])
        self.rng.shuffle(kept)
        self.kept_views = {view for rows in kept for view in range(rows.start, rows.stop)}
        self.committed = list(self.kept_shards)
        return kept

    def views_at_work(self, worker: int) -> int:
        return sum(task.stop - task.start for task in self.at_work[worker])

    def run(self) -> None:
        for _ in range(20 * self.views + 100 * len(self.at_work)):
            assert self.ledger.done == (self.committed_views == self.views)
            if self.ledger.done:
                assert all(self.ledger.next_task(worker) is None for worker in self.at_work)
                return
            workers = list(self.at_work)
            self.rng.shuffle(workers)
            for worker in workers:
                self._hand_out(worker)
            assert any(self.at_work.values()), "nothing at work and nothing to do"
            self._step(self.rng.choice([worker for worker in workers if self.at_work[worker]]))
        raise AssertionError("the ledger does not come to an end")

    @property
    def committed_views(self) -> int:
        return sum(rows.stop - rows.start for rows in self.committed)

    def _hand_out(self, worker: int) -> None:
        while True:
            before = self.views_at_work(worker)
            task = self.ledger.next_task(worker)
            if task is None:
                self._help(worker)
                return
            assert before < self.ahead
            assert 0 <= task.start < task.stop <= self.views
            assert not self.kept_views.intersection(range(task.start, task.stop))
            assert task.start // self.shard_views == (task.stop - 1) // self.shard_views
            others = [other for tasks in self.at_work.values() for other in tasks if other not in self.copies]
            assert all(task.stop <= other.start or other.stop <= task.start for other in others)
            self.at_work[worker].append(task)

    def _help(self, worker: int) -> None:
        """An idle worker may do what another has at work, too."""
        stragglers = [other for other in self.at_work if self.ledger.oldest(other)]
        if not self.ledger.idle(worker) or self.rng.random() > self.helpful or not stragglers:
            return
        straggler = self.rng.choice(stragglers)
        assert not self.at_work[worker]
        if task := self.ledger.copy(worker, straggler):
            assert task in self.at_work[straggler] and straggler != worker
            self.at_work[worker].append(task)
            self.copies.append(task)

    def _step(self, worker: int) -> None:
        tasks = self.at_work[worker]
        poisoned = any(view in self.poison for task in tasks for view in range(task.start, task.stop))
        if len(self.at_work) > 1 and self.rng.random() < self.farewells:
            del self.at_work[worker]
            self.gone += 1
            self.ledger.worker_gone(worker)
            return
        accident = self.views_at_work(worker) > 1 and self.rng.random() < self.accidents
        if accident or (poisoned and self.rng.random() < 0.7):
            tasks.clear()
            self.deaths += 1
            self._take(self.ledger.worker_lost(worker, "DECODER_CRASH", "it died"))
            return
        able = [task for task in tasks if not self.poison.intersection(range(task.start, task.stop))]
        if able:
            task = self.rng.choice(able)
            tasks.remove(task)
            before = self.ledger.came_back
            self._take(self.ledger.returned(worker, rows_of(task.start, task.stop, self.unreadable)))
            assert self.ledger.came_back - before in (0, task.stop - task.start)
            self.passed_over += self.ledger.came_back == before

    def _take(self, rows: Rows | None) -> None:
        if rows is not None:
            assert rows.start % self.shard_views == 0
            assert rows.stop == min(rows.start + self.shard_views, self.views)
            self.committed.append(rows)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize("block", range(4))
def test_random_schedules_commit_every_view_once_and_blame_only_poison(block: int, workers: int) -> None:
    deaths = poisoned = gone = copied = passed_over = 0
    for seed in range(block * 100, block * 100 + 100):
        simulation = Simulation(seed, workers)
        simulation.run()
        shards = sorted(simulation.committed, key=lambda rows: rows.start)
        assert [rows.start for rows in shards] == list(range(0, simulation.views, simulation.shard_views)), seed
        failures = [failure for rows in shards for failure in rows.failures]
        scored = [view for rows in shards for view in rows.views.tolist()]
        lost = simulation.poison | simulation.unreadable
        assert scored == [view for view in range(simulation.views) if view not in lost], seed
        assert [value for rows in shards for value in rows.scores["logit"].tolist()] == [3 * view for view in scored], (
            seed
        )
        blamed = [failure.view for failure in failures if failure.code == "DECODER_CRASH"]
        assert sorted(blamed) == sorted(simulation.poison), seed
        assert {failure.stage for failure in failures if failure.code == "DECODER_CRASH"} <= {"worker"}
        assert sorted(failure.view for failure in failures) == sorted(lost), seed
        deaths, poisoned = deaths + simulation.deaths, poisoned + len(simulation.poison)
        gone, copied = gone + simulation.gone, copied + len(simulation.copies)
        passed_over += simulation.passed_over
    assert deaths > 100 and poisoned > 50  # or the schedules would show nothing
    assert workers == 1 or (gone > 5 and copied > 10)
    assert workers < 3 or passed_over > 0


def length(task: Task) -> int:
    return task.stop - task.start


def tasks_of(ledger: Ledger, worker: int = 0) -> list[Task]:
    """All that may be sent now."""
    tasks = []
    while task := ledger.next_task(worker):
        tasks.append(task)
    return tasks


def test_shards_are_handed_out_in_order_until_enough_is_ahead() -> None:
    ledger = Ledger(23, shard_views=5, ahead=10)
    assert tasks_of(ledger) == [Task(0, 5), Task(5, 10)]
    assert ledger.returned(0, rows_of(5, 10)) is not None
    assert tasks_of(ledger) == [Task(10, 15)]
    for start in (0, 10):
        ledger.returned(0, rows_of(start, start + 5))
    assert tasks_of(ledger) == [Task(15, 20), Task(20, 23)]
    assert not ledger.done
    ledger.returned(0, rows_of(20, 23))
    ledger.returned(0, rows_of(15, 20))
    assert ledger.done


@pytest.mark.parametrize("ahead", [1, 4, 5, 6, 11, 1000])
def test_no_task_is_sent_once_that_many_views_are_at_work(ahead: int) -> None:
    handed = [task.start for task in tasks_of(Ledger(100, shard_views=5, ahead=ahead))]
    assert handed == list(range(0, min(ahead, 100), 5))


def test_what_is_kept_is_not_handed_out_and_comes_back_with_the_rest_of_its_shard() -> None:
    kept = [rows_of(3, 6), *rows_of(6, 9, frozenset({6, 8})).scored_runs(), rows_of(9, 12, frozenset({10}))]
    ledger = Ledger(14, shard_views=3, ahead=100, kept=kept)
    assert tasks_of(ledger) == [Task(0, 3), Task(6, 7), Task(8, 9), Task(12, 14)]
    assert ledger.returned(0, rows_of(8, 9)) is None
    shard = ledger.returned(0, rows_of(6, 7, frozenset({6})))
    assert shard is not None and (shard.start, shard.stop, shard.views.tolist()) == (6, 9, [7, 8])
    for start, stop in ((0, 3), (12, 14)):
        assert ledger.returned(0, rows_of(start, stop)) is not None
    assert ledger.done


def test_where_all_is_kept_nothing_is_to_be_done() -> None:
    ledger = Ledger(7, shard_views=3, ahead=9, kept=[rows_of(0, 3), rows_of(6, 7), rows_of(3, 6, frozenset({4}))])
    assert ledger.done and ledger.next_task(0) is None


@pytest.mark.parametrize("failed", [[], [4], [9], [4, 5], [6, 8], range(4, 10), range(4, 9)])
def test_scored_runs_are_the_rows_between_failures(failed: list[int]) -> None:
    rows = rows_of(4, 10, frozenset(failed))
    runs = rows.scored_runs()
    assert [view for run in runs for view in range(run.start, run.stop)] == [n for n in range(4, 10) if n not in failed]
    assert all(before.stop < after.start for before, after in pairwise(runs))
    assert not [failure for run in runs for failure in run.failures]
    if runs:
        assert np.concatenate([run.scores for run in runs]).tobytes() == rows.scores.tobytes()


def test_no_views_are_done_at_once() -> None:
    ledger = Ledger(0, shard_views=4, ahead=8)
    assert ledger.done and ledger.next_task(0) is None


def test_after_a_death_suspects_go_out_alone_and_the_culprit_is_split() -> None:
    ledger = Ledger(9, shard_views=3, ahead=6)
    assert [task.start for task in tasks_of(ledger)] == [0, 3]
    assert ledger.worker_lost(0, "DECODER_CRASH", "it died") is None
    assert tasks_of(ledger) == [Task(0, 3)]
    assert ledger.returned(0, rows_of(0, 3)) is not None
    assert tasks_of(ledger) == [Task(3, 6)]
    assert ledger.worker_lost(0, "DECODER_CRASH", "it died") is None
    assert tasks_of(ledger) == [Task(3, 4)]
    assert ledger.returned(0, rows_of(3, 4)) is None
    assert tasks_of(ledger) == [Task(4, 5)]
    assert ledger.worker_lost(0, "DECODER_CRASH", "it died") is None
    assert tasks_of(ledger) == [Task(5, 6)]
    shard = ledger.returned(0, rows_of(5, 6))
    assert shard is not None and shard.views.tolist() == [3, 5]
    assert [(failure.view, failure.stage, failure.code) for failure in shard.failures] == [
        (4, "worker", "DECODER_CRASH")
    ]
    assert tasks_of(ledger) == [Task(6, 9)]  # the suspects are through: company again
    assert not ledger.done


def test_death_on_the_last_view_of_a_shard_completes_it() -> None:
    ledger = Ledger(2, shard_views=2, ahead=2)
    tasks_of(ledger)
    ledger.worker_lost(0, "DECODER_CRASH", "it died")
    tasks_of(ledger)
    ledger.returned(0, rows_of(0, 1))
    tasks_of(ledger)
    shard = ledger.worker_lost(0, "DECODER_CRASH", "it died")
    assert shard is not None and (shard.start, shard.stop) == (0, 2) and ledger.done


def test_death_without_work_changes_nothing() -> None:
    ledger = Ledger(3, shard_views=3, ahead=3)
    assert ledger.worker_lost(0, "DECODER_CRASH", "it died") is None
    assert tasks_of(ledger) == [Task(0, 3)]


# --- several workers ---


def test_a_lost_worker_costs_only_its_own_tasks_a_retry_and_the_others_go_on() -> None:
    ledger = Ledger(200, shard_views=2, ahead=4, workers=2)
    assert tasks_of(ledger, 0) == [Task(0, 2), Task(2, 4)]
    assert tasks_of(ledger, 1) == [Task(4, 6), Task(6, 8)]
    assert ledger.worker_lost(0, "DECODER_CRASH", "it died") is None
    assert tasks_of(ledger, 1) == []  # it has enough
    ledger.returned(1, rows_of(4, 6))
    assert tasks_of(ledger, 1) == [Task(8, 10)]  # nothing of the other's
    assert tasks_of(ledger, 0) == [Task(0, 2)]  # alone
    ledger.returned(0, rows_of(0, 2))
    assert tasks_of(ledger, 0) == [Task(2, 4)]
    ledger.returned(0, rows_of(2, 4))
    assert tasks_of(ledger, 0) == [Task(10, 12), Task(12, 14)]


def test_where_nothing_else_is_left_the_others_try_suspects_too_each_alone() -> None:
    ledger = Ledger(12, shard_views=6, ahead=6, workers=2, least=6)
    assert (tasks_of(ledger, 0), tasks_of(ledger, 1)) == ([Task(0, 6)], [Task(6, 12)])
    ledger.worker_lost(0, "DECODER_CRASH", "it died")
    assert tasks_of(ledger, 1) == []
    ledger.returned(1, rows_of(6, 12))
    assert (tasks_of(ledger, 1), tasks_of(ledger, 0)) == ([Task(5, 6)], [Task(0, 1)])
    ledger.worker_lost(1, "DECODER_CRASH", "it died")
    assert ledger.culprits == 1
    assert tasks_of(ledger, 1) == [Task(4, 5)]
    ledger.returned(0, rows_of(0, 1))
    for worker, view in ((0, 1), (0, 2), (0, 3)):
        assert tasks_of(ledger, worker) == [Task(view, view + 1)]
        assert ledger.returned(worker, rows_of(view, view + 1)) is None
    assert tasks_of(ledger, 0) == []
    shard = ledger.returned(1, rows_of(4, 5))
    assert shard is not None and [failure.view for failure in shard.failures] == [5] and ledger.done


def test_what_a_worker_leaves_that_nobody_replaces_is_done_by_the_others_with_no_blame() -> None:
    ledger = Ledger(5, shard_views=1, ahead=1, workers=2)
    assert (tasks_of(ledger, 0), tasks_of(ledger, 1)) == ([Task(0, 1)], [Task(1, 2)])
    ledger.worker_lost(0, "DECODER_CRASH", "it died")
    assert tasks_of(ledger, 0) == [Task(0, 1)]  # alone: lost once more, it would be to blame
    ledger.worker_gone(0)
    handed = [1]
    while not ledger.done:
        ledger.returned(1, rows_of(handed[-1], handed[-1] + 1))
        handed += [task.start for task in tasks_of(ledger, 1)]
    assert handed == [1, 2, 3, 4, 0] and ledger.culprits == 0


@pytest.mark.parametrize(("workers", "views"), [(2, 300), (3, 700), (8, 100_000), (4, 40), (2, 6400)])
def test_workers_end_together_however_the_work_comes_out(workers: int, views: int) -> None:
    """One is half as fast as the others; at the end nobody waits while another has as much as a shard to do."""
    least = 32
    ledger = Ledger(views, shard_views=256, ahead=768, workers=workers, least=least)
    seconds = [2.0, *[1.0] * (workers - 1)]  # for a view
    queues: list[list[Task]] = [tasks_of(ledger, worker) for worker in range(workers)]
    at = [0.0] * workers
    sizes = []
    while not ledger.done:
        worker = min((w for w in range(workers) if queues[w]), key=lambda w: at[w] + seconds[w] * length(queues[w][0]))
        task = queues[worker].pop(0)
        at[worker] += seconds[worker] * length(task)
        sizes.append(length(task))
        ledger.returned(worker, rows_of(task.start, task.stop))
        for other in range(workers):
            queues[other].extend(more := tasks_of(ledger, other))
            if more and len(queues[other]) == len(more):
                at[other] = max(at[other], at[worker])
    assert sum(sizes) == views
    assert max(at) - min(at) <= 2.0 * 256
    assert views < 50_000 or sizes.count(256) > 0.7 * len(sizes)  # mostly whole shards


def test_one_worker_gets_whole_shards_to_the_end() -> None:
    ledger = Ledger(23, shard_views=5, ahead=10, workers=1, least=2)
    handed = []
    while not ledger.done:
        handed += (tasks := tasks_of(ledger))
        for task in tasks:
            ledger.returned(0, rows_of(task.start, task.stop))
    assert handed == [Task(0, 5), Task(5, 10), Task(10, 15), Task(15, 20), Task(20, 23)]


def test_what_a_straggler_has_is_done_twice_and_counts_once_whoever_is_first() -> None:
    for first, second in ((0, 1), (1, 0)):
        ledger = Ledger(6, shard_views=3, ahead=6, workers=2, least=6)
        assert tasks_of(ledger, 0) == [Task(0, 3), Task(3, 6)] and tasks_of(ledger, 1) == []
        assert ledger.idle(1) and ledger.oldest(0) == Task(0, 3)
        assert ledger.copy(1, 0) == Task(3, 6)  # what the straggler will come to last
        assert not ledger.idle(1)
        whole = ledger.returned(first, rows_of(3, 6))
        assert whole and (whole.start, whole.stop) == (3, 6) and ledger.came_back == 3
        assert ledger.returned(second, rows_of(3, 6)) is None and ledger.came_back == 3
        assert ledger.returned(0, rows_of(0, 3)) and ledger.done


def test_a_lost_workers_task_is_its_copys_and_a_lost_copy_costs_nothing() -> None:
    ledger = Ledger(3, shard_views=3, ahead=3, workers=2, least=3)
    assert tasks_of(ledger, 0) == [Task(0, 3)]
    assert ledger.copy(1, 0) == Task(0, 3) and ledger.copy(1, 0) is None
    ledger.worker_lost(0, "DECODER_CRASH", "it died")
    assert tasks_of(ledger, 0) == []  # no suspects: the other is at it
    assert ledger.copy(0, 1) is None  # or what kills workers would take one after the other
    assert ledger.returned(1, rows_of(0, 3)) and ledger.done

    ledger = Ledger(3, shard_views=3, ahead=3, workers=2, least=3)
    tasks_of(ledger, 0)
    ledger.copy(1, 0)
    ledger.worker_lost(1, "DECODER_CRASH", "it died")
    assert tasks_of(ledger, 1) == [] and ledger.copy(1, 0) is None
    assert ledger.returned(0, rows_of(0, 3)) and ledger.done


def test_a_suspect_is_not_copied_and_goes_to_no_worker_that_may_be_at_something_else() -> None:
    ledger = Ledger(4, shard_views=2, ahead=2, workers=2, least=2)
    assert tasks_of(ledger, 0) == [Task(0, 2)] and tasks_of(ledger, 1) == [Task(2, 4)]
    ledger.returned(1, rows_of(2, 4))
    ledger.copy(1, 0)
    ledger.returned(1, rows_of(0, 2))
    assert ledger.done and not ledger.idle(0)  # it is at what is done already
    ledger = Ledger(4, shard_views=2, ahead=2, workers=2, least=2)
    tasks_of(ledger, 0)
    ledger.worker_lost(0, "DECODER_CRASH", "it died")
    assert tasks_of(ledger, 0) == [Task(0, 1)]
    assert ledger.oldest(0) is None


def test_rows_of_no_task_are_refused() -> None:
    ledger = Ledger(6, shard_views=3, ahead=6)
    tasks_of(ledger)
    ledger.returned(0, rows_of(0, 3))
    with pytest.raises((StopIteration, ValueError)):
        ledger.returned(0, rows_of(0, 3))


@pytest.mark.parametrize(
    ("views", "failed"),
    [
        ([4, 5], []),
        ([4, 5, 6, 7], []),
        ([4, 5, 5], []),
        ([3, 4, 5], []),
        ([4, 5, 6], [6]),
        ([4, 5], [5]),
        ([4, 5], [6, 6]),
    ],
)
def test_rows_refuse_lost_and_doubled_views(views: list[int], failed: list[int]) -> None:
    values = np.zeros(len(views), np.float32)
    with pytest.raises(ValueError, match="views 4 to 7: some are lost or doubled"):
        Rows(4, 7, np.array(views), scores_of(values, values), [Failure(view, "read", "EIO", "x") for view in failed])


def test_joined_rows_are_in_order_whatever_the_parts_order_and_refuse_a_gap() -> None:
    parts = [rows_of(0, 3, frozenset({1})), rows_of(3, 4), rows_of(4, 9, frozenset({4, 8}))]
    for seed in range(6):
        random.Random(seed).shuffle(parts)
        joined = Rows.joined(list(parts))
        assert (joined.start, joined.stop) == (0, 9)
        assert joined.views.tolist() == [0, 2, 3, 5, 6, 7]
        assert joined.scores["logit"].tolist() == [0, 6, 9, 15, 18, 21]
        assert [failure.view for failure in joined.failures] == [1, 4, 8]
    with pytest.raises(ValueError, match="lost or doubled"):
        Rows.joined([rows_of(0, 3), rows_of(4, 9)])


def test_rows_of_one_failure_hold_that_view_alone() -> None:
    failure = Failure(7, "worker", "DECODER_CRASH", "x")
    rows = Rows.of_one_failure(failure)
    assert (rows.start, rows.stop, rows.failures) == (7, 8, [failure])
    assert rows.views.dtype == np.int64
    assert len(rows.views) == len(rows.scores) == 0

"""What a worker decides for itself."""

from __future__ import annotations

import numpy as np
import pytest

from mura_trt.ledger import Failure, Rows, Task, scores_of
from mura_trt.worker import _OpenTask, decoding_threads


@pytest.mark.parametrize(
    ("cores", "engine_on_cpu", "threads"), [(1, True, 1), (2, True, 1), (64, True, 4), (1, False, 1), (16, False, 16)]
)
def test_decoding_gets_the_cores_that_the_engine_leaves(cores: int, engine_on_cpu: bool, threads: int) -> None:
    assert decoding_threads(cores, engine_on_cpu) == threads


def test_open_task_takes_its_own_views_of_mixed_batches() -> None:
    task = _OpenTask.of(Task(10, 14), 2)
    half = np.array([0.5, 0.25, 0.125], np.float32)
    scores = scores_of(half, half, [False, True, True], np.arange(6, dtype=np.float32).reshape(3, 2, 1))
    task.score(np.array([8, 9, 10]), scores)
    task.fail(Failure(9, "read", "ENOENT", "of another task"))
    task.fail(Failure(13, "read", "ENOENT", "gone"))
    assert not task.complete
    task.score(np.array([11, 12, 20]), scores)
    assert task.complete
    rows: Rows = task.rows()
    assert rows.views.tolist() == [10, 11, 12]
    assert rows.scores["probability"].tolist() == [0.125, 0.5, 0.25]
    assert rows.scores["color"].tolist() == [True, False, True]
    assert rows.scores["map"].tolist() == [[4, 5], [0, 1], [2, 3]]
    assert [failure.view for failure in rows.failures] == [13]

"""What a worker decides for itself."""

from __future__ import annotations

import numpy as np
import pytest

from mura_trt.ledger import Failure, Rows, Task
from mura_trt.worker import _OpenTask, share_cores


@pytest.mark.parametrize(
    ("cores", "runtime", "expected"),
    [
        (1, "onnxruntime", (1, 1)),
        (2, "onnxruntime", (1, 2)),
        (64, "torch", (4, 64)),
        (2, "null", (2, 2)),
        (16, "tensorrt_rtx", (16, 16)),
        (16, "auto", (1, 16)),
    ],
)
def test_cores_are_shared_by_plan(cores: int, runtime: str, expected: tuple[int, int]) -> None:
    assert share_cores(cores, runtime) == expected


def test_open_task_takes_its_own_views_of_mixed_batches() -> None:
    task = _OpenTask.of(Task(10, 14, last=True))
    half = np.array([0.5, 0.25, 0.125], np.float32)
    task.score(np.array([8, 9, 10]), half, half)
    task.fail(Failure(9, "read", "ENOENT", "of another task"))
    task.fail(Failure(13, "read", "ENOENT", "gone"))
    assert not task.complete
    task.score(np.array([11, 12, 20]), half, half)
    assert task.complete
    rows: Rows = task.rows()
    assert rows.views.tolist() == [10, 11, 12]
    assert rows.probability.tolist() == [0.125, 0.5, 0.25]
    assert [failure.view for failure in rows.failures] == [13]

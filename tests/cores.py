"""A core for each of the processes that run tests side by side.

Threads of torch and ONNX Runtime wait for one another busily, and two pools on the same cores take several times as
long as each has one core to itself. What is started inherits it. Tests that need more take ``all_cores``.
"""

from __future__ import annotations

import os

import torch

ALL = frozenset(os.sched_getaffinity(0))
"""What this machine gives to tests."""

_worker = os.environ.get("PYTEST_XDIST_WORKER", "")  # gw0, gw1 and so on; nothing where one process runs all
MINE = frozenset({sorted(ALL)[int(_worker.removeprefix("gw")) % len(ALL)]}) if _worker else ALL

os.sched_setaffinity(0, MINE)
torch.set_num_threads(len(MINE))

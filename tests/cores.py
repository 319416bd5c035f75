"""Cores for each of the processes that run tests side by side: as many for all alike, and as far as they go its own.

Threads of torch and ONNX Runtime wait for one another busily, and two pools on the same cores take several times as
long as each with cores to itself. What is started inherits it. Tests that need more take ``all_cores``.
"""

from __future__ import annotations

import os

import torch

ALL = frozenset(os.sched_getaffinity(0))
"""What this machine gives to tests."""

_worker = os.environ.get("PYTEST_XDIST_WORKER", "")  # gw0, gw1 and so on; nothing where one process runs all
_share = max(1, len(ALL) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
_first = int(_worker.removeprefix("gw") or 0) * _share
MINE = frozenset(sorted(ALL)[(_first + at) % len(ALL)] for at in range(_share))

os.sched_setaffinity(0, MINE)
torch.set_num_threads(len(MINE))

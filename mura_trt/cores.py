"""How many cores this process may really use, and who gets them."""

from __future__ import annotations

import math
import os
from pathlib import Path

CORES = "MURA_TRT_CORES"  # of the environment: as many as a process may use, where it may not use all


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores by affinity, cgroup quota (version 2's ``cpu.max`` or version 1's CFS quota) and ``CORES``; at least 1."""
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota(cgroup)
    granted = os.environ.get(CORES, "")
    return max(1, min(cores, math.ceil(quota or cores), int(granted) if granted.isdecimal() else cores))


def processor_name() -> str:
    """As ``AMD EPYC 9654``; empty where the kernel does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def cpu_quota(cgroup: Path = Path("/sys/fs/cgroup")) -> float | None:
    """How many cores' time the cgroup allows, which need not be a whole number; None where it sets no limit."""
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if limit in ("max", "-1"):
        return None
    return int(limit) / int(period)

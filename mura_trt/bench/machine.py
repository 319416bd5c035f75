"""What figures were measured on, and whether other work was in their way."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import mura_trt
from mura_trt.bench.processes import in_fresh_process
from mura_trt.cores import processor_name, usable_cores
from mura_trt.cuda_devices import cuda_driver
from mura_trt.memory import memory

OTHERS_MOST = 0.05  # of the cores' time


class Moment(NamedTuple):
    """The machine at one time."""

    at: float
    """Seconds of the monotonic clock."""
    busy: float | None
    """Seconds of CPU time since the start, of all that ran on this process's cores; None where it cannot be told."""
    own: float
    """Likewise of this process and of those that it has started and that have ended."""
    load: float
    """Processes that ran or wanted to, over the last minute."""
    clocks: list[int]
    """MHz, of those of its cores that tell."""


def machine() -> dict[str, Any]:
    """What figures are kept with: processor, GPUs, versions, commit, date; None or empty for what cannot be told."""
    from mura_trt.score_recipe import LIBRARIES, installed_versions

    driver = in_fresh_process(cuda_driver)  # this process gets no CUDA context
    return {
        "cpu": processor_name(),
        "cores": usable_cores(),
        "memory_bytes": memory()["total_bytes"],
        "gpus": [gpu.name for gpu in driver.gpus],
        "driver": driver.version,
        "cuda": driver.cuda,
        "python": platform.python_version(),
        "mura_trt": mura_trt.__version__,
        "versions": installed_versions(LIBRARIES),
        "commit": commit()[:10],
        "date": time.strftime("%Y-%m-%d"),
    }


def commit() -> str:
    """What the checkout is at that this package is part of; empty where it is of none."""
    # A package may be installed inside somebody else's checkout, which does not know its files.
    known = _git("ls-files", Path(__file__).name)
    return _git("rev-parse", "HEAD") if known else ""


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:  # no git
        return ""
    return done.stdout.strip()


def moment(system: Path = Path("/")) -> Moment:
    """Now; ``system`` is where ``sys`` and ``proc`` are."""
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    return Moment(time.monotonic(), _busy(system), own, os.getloadavg()[0], _clocks(system))


def disturbance(before: Moment, after: Moment) -> dict[str, Any]:
    """What there was besides the measurements.

    Returns
    -------
    JSON types: ``load`` and ``clock_mhz`` (of each core that tells) at ``start`` and ``end``; ``others_share`` of the
    cores' time that other processes and, on a virtual machine, its neighbours had, or None; and ``warnings``.
    """
    cores = usable_cores()
    share = None
    if before.busy is not None and after.busy is not None:
        others = after.busy - before.busy - (after.own - before.own)
        share = max(0.0, others / (after.at - before.at) / cores)
    warnings = []
    if before.load > cores:
        warnings.append(f"other work was going on: a load of {before.load:.1f} on {cores} cores before it began")
    if share is not None and share > OTHERS_MOST:
        warnings.append(f"other work had {share:.0%} of the cores' time: measure again when it is quiet")
    return {
        "load": {"start": round(before.load, 2), "end": round(after.load, 2)},
        "clock_mhz": {"start": before.clocks, "end": after.clocks},
        "others_share": None if share is None else round(share, 3),
        "warnings": warnings,
    }


def _busy(system: Path) -> float | None:
    """Of proc(5)'s ``stat``: user, nice, system, irq, softirq and steal; guests are in user and nice."""
    try:
        lines = (system / "proc/stat").read_text().splitlines()
    except OSError:
        return None
    mine = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    rows = [list(map(int, line.split()[1:])) for line in lines if line.split(maxsplit=1)[0] in mine]
    ticks = sum(sum(row[:3]) + sum(row[5:8]) for row in rows)
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else None


def _clocks(system: Path) -> list[int]:
    """MHz as the frequency driver says, or what proc(5)'s ``cpuinfo`` does, which may be the nominal one."""
    cores = sorted(os.sched_getaffinity(0))
    try:
        files = [system / f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq" for core in cores]
        return [int(file.read_text()) // 1000 for file in files]
    except (OSError, ValueError):
        pass
    try:
        told = (system / "proc/cpuinfo").read_text()
    except OSError:
        return []
    clocks = re.findall(r"^processor\s*:\s*(\d+)$.*?^cpu MHz\s*:\s*([\d.]+)$", told, re.MULTILINE | re.DOTALL)
    by_core = {int(core): round(float(clock)) for core, clock in clocks}
    return [by_core[core] for core in cores if core in by_core]

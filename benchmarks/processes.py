"""What the processes of a run take while they run."""

from __future__ import annotations

import psutil


def resident(process: psutil.Process) -> int:
    """Bytes in memory of a process and those below it; pages that they share are counted once for each."""
    total = 0
    for one in (process, *_children(process)):
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found

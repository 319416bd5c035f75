"""Processes that are measured: what computes in a fresh one, and the memory that one and those below it take."""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import ParamSpec, TypeVar

from mura_trt.errors import EnvironmentProblem
from mura_trt.processes import work_for

P = ParamSpec("P")
T = TypeVar("T")


def in_fresh_process(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """A function's result, computed where nothing ran before it, and raises what it raises.

    Parameters
    ----------
    function
        Of a module, by its name there; it and what it takes and gives are pickled.

    Raises
    ------
    EnvironmentProblem
        The process died.
    """
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(os.getpid(),)) as pool:
            return pool.submit(function, *arguments, **named).result()
    except BrokenProcessPool as error:
        raise EnvironmentProblem(
            f"the process of {function.__name__} died ({error}); look for the kernel's word on memory, and try doctor"
        ) from error


def _begin(supervisor: int) -> None:
    work_for(supervisor)
    os.dup2(2, 1)  # what C libraries print; standard output may be carrying JSON


def resident(process: int) -> int:
    """Bytes in memory of a process, by its id, and of those below it; pages that they share count once for each.

    Raises
    ------
    EnvironmentProblem
        The kernel does not tell a process's children.
    """
    if not Path("/proc/thread-self/children").exists():
        raise EnvironmentProblem("memory cannot be told: this kernel was built without CONFIG_PROC_CHILDREN")
    total, waiting = 0, [process]
    while waiting:
        folder = Path(f"/proc/{waiting.pop()}")
        try:
            total += int((folder / "statm").read_text().split()[1]) * resource.getpagesize()
            for thread in (folder / "task").iterdir():
                waiting.extend(map(int, (thread / "children").read_text().split()))
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
    return total

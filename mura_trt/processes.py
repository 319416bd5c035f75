"""What a process that works for another one does first."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # prctl(2)


def work_for(supervisor: int) -> None:
    """Ties this process to the one with that process id.

    The kernel kills this one when the supervisor dies, even by kill -9; and Ctrl-C, which reaches the whole group, is
    the supervisor's to decide on.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it died before the call
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def return_freed_memory() -> None:
    """Has the C library return to the kernel what it keeps of freed memory; one that cannot does nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc: malloc_trim(3)
    if trim:
        trim(0)


def send_output_to(log: Path) -> None:
    """The decoders' C libraries print lines of their own for a bad image, and standard output may be carrying JSON."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)

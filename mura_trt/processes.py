"""What a process that works for another one does first."""

from __future__ import annotations

import ctypes
import os
import signal

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

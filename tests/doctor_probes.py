"""What a check may do to the process it runs in."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

from mura_trt.doctor.finding import WORKS, Finding
from mura_trt.errors import EnvironmentProblem


def works(found: str = "well", **facts: object) -> Finding:
    return Finding(WORKS, found, facts=facts)


def segfaults() -> Finding:
    print("a library's last words", file=sys.stderr, flush=True)
    ctypes.string_at(0)
    return works()


def killed(number: int) -> Finding:
    os.kill(os.getpid(), number)
    return works()


def hangs() -> Finding:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    time.sleep(600)
    return works()


def waits() -> Finding:
    print("begun", flush=True)
    time.sleep(600)
    return works()


def raises() -> Finding:
    raise ValueError("a library\nin a bad mood")


def knows_what_is_wrong() -> Finding:
    raise EnvironmentProblem("no such thing: pip install thing")


def leaves() -> Finding:
    sys.exit(7)


def ends_badly() -> Finding:
    import atexit

    atexit.register(os.kill, os.getpid(), signal.SIGABRT)
    return works("all well")

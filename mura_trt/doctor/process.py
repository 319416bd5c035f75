"""A check in a process of its own: whatever a library does to that process is a finding."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mura_trt.doctor.finding import PROBLEM, Finding
from mura_trt.errors import MuraTrtError
from mura_trt.processes import work_for

_PROGRAM = "from mura_trt.doctor.process import main; main()"
_KILLED_SECONDS = 5.0  # a process that hangs in a driver cannot even be killed, and is left behind
_WORDS = 300  # characters of what a library said


def ask(probe: str, arguments: dict[str, Any], folder: Path, timeout: float, mend: str) -> Finding:
    """Calls a function in a new process, and tells how that ended.

    Parameters
    ----------
    probe
        ``module:function``; it returns a Finding. What it raises is a problem.
    arguments
        The function's, as JSON can carry them.
    folder
        Scratch; the process's output goes into a file there.
    timeout
        Seconds that it may take.
    mend
        What to do about a problem of which nothing better is known.
    """
    answer, log = folder / "answer.json", folder / "log"
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-P", "-c", _PROGRAM, probe, json.dumps(arguments), str(os.getpid()), str(answer)]
    # The process sees the same modules, wherever this one has them from.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path)}
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            code: int | None = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_KILLED_SECONDS)
    seconds = round(time.monotonic() - started, 2)
    try:
        finding = Finding(**json.loads(answer.read_text()))
    except (OSError, ValueError, TypeError):
        finding = None
    if code == 0 and finding:
        instead = mend if finding.status == PROBLEM else None
        return dataclasses.replace(finding, mend=finding.mend or instead, seconds=seconds)
    ended = _ended(code, timeout)
    if finding:
        ended = f"{finding.found}; then, when it should have ended: {ended}"
    return Finding(PROBLEM, f"{ended}{_last_words(log)}", _mend(code) or mend, seconds)


def _ended(code: int | None, timeout: float) -> str:
    if code is None:
        return f"no answer within {timeout:g} s"
    if code >= 0:
        return f"the process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # a real-time signal
        name = f"signal {-code}"
    return f"the process was killed by {name}"


def _mend(code: int | None) -> str | None:
    """What the way it ended tells."""
    if code is None:
        return "try once more; where it hangs again, look at `dmesg` and `nvidia-smi`, which hangs with a broken driver"
    if code == -signal.SIGKILL:
        return "somebody killed it, most likely the kernel for want of memory: look at `dmesg`"
    if code == -signal.SIGILL:
        return "this processor, or the machine that emulates it, lacks instructions that the library was built for"
    return None


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"; its last words: {lines[-1][:_WORDS]}" if lines else ""


def main() -> None:
    """The new process's entry: calls the function and writes down what it returned or raised."""
    probe, arguments, supervisor, answer = sys.argv[1:]
    work_for(int(supervisor))
    module, function = probe.split(":")
    try:
        finding = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    except MuraTrtError as error:
        finding = Finding(PROBLEM, str(error))
    except Exception as error:  # libraries raise whatever they like, and all of it is a finding
        finding = Finding(PROBLEM, f"{type(error).__name__}: {' '.join(str(error).split())}"[:_WORDS])
    Path(answer).write_text(json.dumps(dataclasses.asdict(finding)))

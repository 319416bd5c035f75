"""``mura-trt score`` as a user starts it, for what it tells and the memory that it takes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from mura_trt.bench.processes import resident
from mura_trt.errors import EnvironmentProblem

PAUSE_SECONDS = 0.05  # between two looks at its memory
LAST_WORDS = 500  # characters


class Scored(NamedTuple):
    """A run that has scored all views."""

    run: dict[str, Any]
    """Its ``run.json``."""
    peak_bytes: int | None
    """Most memory that its processes took together, at one of the looks; None where nobody looked or could."""

    @property
    def rate(self) -> float:
        """Views/s, from the first batch in to the last commit."""
        return float(self.run["views_per_s"])


def scored(archive: Path, engine: Path, *options: str, memory: bool = False) -> Scored:
    """Runs it over an archive; results go.

    Parameters
    ----------
    archive, engine, options
        As for the command.
    memory
        Has its memory looked at, which takes 0.7 % of two cores from a run as fast as decoding.

    Raises
    ------
    EnvironmentProblem
        It failed, or some views did; with its last words.
    """
    command = [sys.executable, "-m", "mura_trt", "score", str(archive), "--engine", str(engine), "--json", *options]
    with tempfile.TemporaryDirectory() as out, tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as said:
        process = subprocess.Popen([*command, "-o", out], stdout=told, stderr=said)
        try:
            peak = _peak(process) if memory else None
            process.wait()
        finally:
            if process.poll() is None:  # this one is to end
                process.terminate()
                process.wait()
        told.seek(0)
        said.seek(0)
        if process.returncode:
            words = said.read().decode(errors="replace").strip()[-LAST_WORDS:]
            raise EnvironmentProblem(f"score ended with exit code {process.returncode}: {words}")
        return Scored(json.loads(told.read()), peak)


def _peak(process: subprocess.Popen[bytes]) -> int | None:
    """The most that a process took at one of the looks, at its end; None at once where that cannot be told."""
    peak = 0
    try:
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            time.sleep(PAUSE_SECONDS)
    except EnvironmentProblem:
        return None
    return peak

"""Runs of ``mura-trt score`` with the null runtime, as a user starts them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mura_trt.bench.processes import resident

OK, FAILURES = 0, 3  # exit codes of runs that came to their end
PAUSE = 0.05  # seconds between two looks


@dataclass(frozen=True)
class Run:
    """How a run ended, and what it left."""

    out: Path
    exit_code: int
    seconds: float
    said: str
    peak_bytes: int
    """In memory, of all its processes."""

    @property
    def summary(self) -> dict[str, Any]:
        """What ``run.json`` says."""
        found: dict[str, Any] = json.loads((self.out / "run.json").read_text())
        return found

    def scores(self) -> pd.Series:
        """Logits by view."""
        table = pd.read_csv(self.out / "views.csv", keep_default_na=False, dtype={"view": str})
        return table.set_index("view")["logit"]

    def failures(self) -> pd.Series:
        """Codes by view."""
        table = pd.read_csv(self.out / "failures.csv", keep_default_na=False, dtype=str)
        return table.set_index("view")["code"]


def score(archive: Path, engine: Path, out: Path, *options: str, limit: float = 1200) -> Run:
    """Runs to the end, in processes of its own.

    Raises
    ------
    subprocess.TimeoutExpired
        It took longer than ``limit`` seconds: it hangs.
    """
    started = time.monotonic()
    command = [sys.executable, "-m", "mura_trt", "score", str(archive), "--engine", str(engine), "-o", str(out)]
    salt = ("--uid-salt-file", str(out.parent / "salt"), "--keep-paths")
    command += ["--runtime", "null", "--overwrite", *salt, *options]
    peak = 0
    with tempfile.TemporaryFile() as said:
        # Looked at while they run: what the system keeps of children that ended counts this process's own memory in.
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said) as process:
            while process.poll() is None:
                if time.monotonic() - started > limit:
                    process.kill()
                    raise subprocess.TimeoutExpired(command, limit)
                peak = max(peak, resident(process.pid))
                time.sleep(PAUSE)
        seconds = time.monotonic() - started
        said.seek(0)
        return Run(out, process.returncode, seconds, said.read().decode(errors="replace"), peak)

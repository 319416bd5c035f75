"""Runs of ``mura-trt score`` with the null runtime, as a user starts them."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

OK, FAILURES = 0, 3  # exit codes of runs that came to their end


@dataclass(frozen=True)
class Run:
    """How a run ended, and what it left."""

    out: Path
    exit_code: int
    seconds: float
    said: str

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
    done = subprocess.run(
        [*command, "--runtime", "null", "--overwrite", *salt, *options],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=limit,
        check=False,
    )
    return Run(out, done.returncode, time.monotonic() - started, done.stderr)


def peak_memory() -> int:
    """MiB that the largest process started so far has had in memory."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10

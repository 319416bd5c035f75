"""Memory of a long run: what a worker or supervisor kept of each view would show in the second half."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.soak.files import png
from mura_trt.bench.processes import resident

ORIGINALS = 100  # files, which the views are hard links of
PAUSE = 0.1  # seconds between two looks
MOST = 1.1  # times the first half's peak


def long_run(work: Path, engine: Path, views: int) -> dict[str, Any]:
    """Scores so many tiny images with the null runtime and looks at the memory of all its processes.

    Raises
    ------
    AssertionError
        The second half's peak, that of writing the tables included, is more than ``MOST`` times the first's.
    """
    archive, out, pool = work / "archive", work / "out", work / "pool"
    for folder in (archive, out, pool):
        shutil.rmtree(folder, ignore_errors=True)
    pool.mkdir()
    for number in range(ORIGINALS):
        (pool / f"{number}.png").write_bytes(png(np.random.default_rng(number)))
    for view in range(views):
        path = archive / f"study{view // 4:06d}" / f"image{view % 4}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(pool / f"{view % ORIGINALS}.png", path)
    command = [sys.executable, "-m", "mura_trt", "score", str(archive), "--engine", str(engine), "-o", str(out)]
    peaks = [0.0, 0.0]
    started = time.monotonic()
    with subprocess.Popen(
        [*command, "--runtime", "null"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            committed = 256 * sum(1 for _ in (out / "shards").glob("*.json")) if out.exists() else 0
            half = int(committed >= views / 2)
            peaks[half] = max(peaks[half], resident(process.pid))
            time.sleep(PAUSE)
    assert process.returncode == 0, process.returncode
    result = {
        "views": views,
        "first_half_peak_mib": round(peaks[0] / 2**20, 1),
        "second_half_peak_mib": round(peaks[1] / 2**20, 1),
        "ratio": round(peaks[1] / peaks[0], 3),
        "seconds": round(time.monotonic() - started, 1),
    }
    assert peaks[1] <= MOST * peaks[0], result
    return result

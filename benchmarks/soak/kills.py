"""Kills of supervisor or worker at random moments; every run must end in the bytes of one that nobody killed."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

SHARD_VIEWS = 32
VIEWS_A_STUDY = 4
WORKER_SHARE = 0.5  # of the kills; the rest meet the supervisor, which takes its worker along
MEAN_PAUSE = 2.0  # seconds
GAVE_UP = "mura-trt: the worker process died while starting"
BAD_SHARE = 0.01  # of the files, so that failures are resumed, too


def draw(archive: Path, views: int) -> None:
    """Small images of noise, some of them broken; each has its own pixels, and so its own score from ``null``."""
    from PIL import Image

    rng = np.random.default_rng(0)
    part = archive.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    for view in range(views):
        study, number = divmod(view, VIEWS_A_STUDY)
        path = part / f"XR_HAND/patient{study:06d}/study1_negative/image{number + 1}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if rng.random() < BAD_SHARE:
            path.write_bytes(rng.bytes(40))
        else:
            Image.fromarray(rng.integers(0, 256, (24, 24), np.uint8)).save(path)
    part.rename(archive)


def start(archive: Path, engine: Path, runtime: str, out: Path) -> psutil.Popen:
    """A run that goes on with what is there; what it says lies beside its folder."""
    command = [sys.executable, "-m", "mura_trt", "score", str(archive), "--engine", str(engine), "-o", str(out)]
    options = ["--runtime", runtime, "--shard-views", str(SHARD_VIEWS), "--resume"]
    with out.with_suffix(".log").open("a") as log:
        return psutil.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=log)


def worker_of(process: psutil.Process) -> psutil.Process | None:
    """The run's worker, where it has one just now."""
    try:
        children = [child for child in process.children() if any("spawn_main" in part for part in child.cmdline())]
    except psutil.NoSuchProcess:
        return None
    return children[0] if children else None


def tables(out: Path) -> dict[str, bytes]:
    """What the runs must agree in."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.csv"))}


def kill_at_random(
    work: Path, engine: Path, kills: int, views: int, runtime: str = "null", mean_pause: float = MEAN_PAUSE
) -> dict[str, Any]:
    """Runs until so many kills are done and the last run has come to its end.

    Parameters
    ----------
    work
        Folder for images, runs and counts; where it was stopped, it goes on.
    engine
        Engine bundle.
    kills
        How many.
    views
        Images of an archive that is drawn once.
    runtime
        What scores.
    mean_pause
        Seconds between two kills, on average, or fewer where the whole run takes less.

    Raises
    ------
    AssertionError
        A run that ended has other tables than one that nobody killed.
    RuntimeError
        A run ended in another way than it should.
    """
    work.mkdir(parents=True, exist_ok=True)
    archive, clean, out, counts = work / "archive", work / "clean", work / "out", work / "kills.json"
    if not archive.exists():
        draw(archive, views)
    log = out.with_suffix(".log")
    started = time.monotonic()
    shutil.rmtree(clean, ignore_errors=True)
    if start(archive, engine, runtime, clean).wait() != 3:  # some files are broken
        raise RuntimeError(f"the clean run into {clean} did not end as it should")
    seconds = time.monotonic() - started
    expected = tables(clean)
    done: dict[str, Any] = {"supervisor": 0, "worker": 0, "gave_up": 0, "runs_ended": 0}
    if counts.exists():
        done |= json.loads(counts.read_text())
    rng = random.Random(sum(done.values()))
    while True:
        process = start(archive, engine, runtime, out)
        while done["supervisor"] + done["worker"] < kills:
            try:
                process.wait(timeout=rng.uniform(0, 2 * min(mean_pause, seconds)))
                break
            except psutil.TimeoutExpired:
                pass
            worker = worker_of(process) if rng.random() < WORKER_SHARE else None
            (worker or process).kill()
            done["worker" if worker else "supervisor"] += 1
            counts.write_text(json.dumps(done))
            if not worker:
                break
        code = process.wait()
        if code == -9:
            continue
        if code == 5 and log.read_text().rstrip().splitlines()[-1].startswith(GAVE_UP):
            done["gave_up"] += 1  # the kills hit the worker each time that it started; a run goes on from there, too
            continue
        if code != 3:
            raise RuntimeError(f"a run ended with exit code {code}; see {log}")
        done["runs_ended"] += 1
        assert tables(out) == expected, f"{out} has other tables than {clean}"
        counts.write_text(json.dumps(done))
        print(json.dumps(done), file=sys.stderr)
        if done["supervisor"] + done["worker"] >= kills:
            return {"runtime": runtime, "views": views, "shard_views": SHARD_VIEWS, **done}
        shutil.rmtree(out)

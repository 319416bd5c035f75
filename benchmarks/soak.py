"""What a scorer must survive, for as long as one likes: kills at random moments, each time to the same bytes.

    python -m benchmarks.soak kills WORK --engine BUNDLE [--kills 1000] [--views 20000] [--json FILE]

Scores small random images with the null runtime in shards of 32 views, again and again with ``--resume``; kills the
supervisor or the worker with SIGKILL at random moments, and compares the tables of every run that comes to its end with
those of a clean run. It counts in ``WORK/kills.json`` and goes on from there when it is stopped itself.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer

from benchmarks.pipeline import finish

SHARD_VIEWS = 32
VIEWS_A_STUDY = 4
WORKER_SHARE = 0.5  # of the kills; the rest meet the supervisor, which takes its worker along
BAD_SHARE = 0.01  # of the files, so that failures are resumed, too

app = typer.Typer(add_completion=False, help=__doc__)


@app.callback()
def _commands() -> None:
    """Keeps the command's name although there is one only."""


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


def start(archive: Path, engine: Path, out: Path) -> psutil.Popen:
    """A run that goes on with what is there; what it says lies beside its folder."""
    command = [sys.executable, "-m", "mura_trt", "score", str(archive), "--engine", str(engine), "-o", str(out)]
    options = ["--runtime", "null", "--shard-views", str(SHARD_VIEWS), "--resume"]
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


def kill_at_random(work: Path, engine: Path, kills: int) -> dict[str, Any]:
    """Runs until so many kills are done and the last run has come to its end."""
    archive, clean, out, counts = work / "archive", work / "clean", work / "out", work / "kills.json"
    started = time.monotonic()
    if start(archive, engine, clean).wait() != 3:  # some files are broken
        raise RuntimeError(f"the clean run into {clean} did not end as it should")
    seconds = time.monotonic() - started
    expected = tables(clean)
    done: dict[str, Any] = {"supervisor": 0, "worker": 0, "runs_ended": 0, "differences": 0}
    if counts.exists():
        done = json.loads(counts.read_text())
    rng = random.Random(sum(done.values()))
    while True:
        process = start(archive, engine, out)
        while done["supervisor"] + done["worker"] < kills:
            try:
                process.wait(timeout=rng.uniform(0, 1.5 * seconds))
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
        if code != 3:
            raise RuntimeError(f"a run ended with exit code {code}; see {out.with_suffix('.log')}")
        done["runs_ended"] += 1
        done["differences"] += tables(out) != expected
        counts.write_text(json.dumps(done))
        print(json.dumps(done), file=sys.stderr)
        if done["supervisor"] + done["worker"] >= kills:
            return {"views": len(list(archive.rglob("*.png"))), "shard_views": SHARD_VIEWS, **done}
        shutil.rmtree(out)


@app.command()
def kills(
    work: Annotated[Path, typer.Argument(help="Folder for images, runs and counts.")],
    engine: Annotated[Path, typer.Option(help="Engine bundle; its contract alone is used.")],
    kills: Annotated[int, typer.Option(help="How many.")] = 1000,
    views: Annotated[int, typer.Option(help="Images, drawn once.")] = 20_000,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the result.")] = None,
) -> None:
    """Kills supervisors and workers, and compares every run that ends with a clean one."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "archive").exists():
        draw(work / "archive", views)
    result = kill_at_random(work, engine, kills)
    finish({"kills": result}, json_file)
    if result["differences"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()

"""What a scorer must survive, for an hour on two cores; it goes on where it was stopped.

    python -m benchmarks.soak WORK --engine BUNDLE [--only PART] [--kills 1000] [--json FILE]

Each part raises where something is lost, doubled or damaged; its result is kept in ``WORK``, with the commit, and
measured again at another one.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.measuring import finish
from benchmarks.soak import disk, files, hostile, kills, memory
from mura_trt.bench.machine import commit

REAL_KILLS, REAL_VIEWS, REAL_PAUSE = 20, 480, 12.0  # with the engine, at some 30 views/s


def main(
    work: Annotated[Path, typer.Argument(help="Folder for images, runs and results.")],
    engine: Annotated[Path, typer.Option(help="Engine bundle.")],
    only: Annotated[list[str] | None, typer.Option(help="Parts to do [all].")] = None,
    killed: Annotated[int, typer.Option("--kills", help="How many kills with the null runtime.")] = 1000,
    views: Annotated[int, typer.Option(help="Images of the runs that are killed.")] = 20_000,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the result.")] = None,
) -> None:
    """Does what was not done yet."""
    work, engine = work.resolve(), engine.resolve()
    logging.disable(logging.CRITICAL)  # what the runs in this process say of each refused operation
    parts: dict[str, Callable[[Path], Any]] = {
        "disk_refuses": lambda folder: disk.refuse_each(folder, engine),
        "power_cuts": lambda folder: disk.cut_power(folder, engine, 500),
        "bad_files_at_every_position": lambda folder: files.positions(folder, engine),
        "mutated_files": lambda folder: files.mutations(folder, engine, good=40_000, bad=10_000),
        "hostile_archives": lambda folder: hostile.archives(folder, engine, 50),
        "memory_of_a_long_run": lambda folder: memory.long_run(folder, engine, 100_000),
        "kills": lambda folder: kills.kill_at_random(folder, engine, killed, views),
        "kills_with_the_engine": lambda folder: kills.kill_at_random(
            folder, engine, REAL_KILLS, REAL_VIEWS, "onnxruntime", REAL_PAUSE
        ),
    }
    unknown = set(only or ()) - set(parts)
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(parts)}")
    results = {}
    for name, part in parts.items():
        if only and name not in only:
            continue
        folder, kept = work / name, work / f"{name}.json"
        before = json.loads(kept.read_text())["commit"] if kept.exists() else None
        if before != commit():
            print(f"{name} ...", file=sys.stderr)
            if before:
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            started = time.monotonic()
            result = part(folder)
            kept.write_text(json.dumps({**result, "commit": commit(), "wall_s": round(time.monotonic() - started, 1)}))
        results[name] = json.loads(kept.read_text())
    finish(results, json_file)


if __name__ == "__main__":
    typer.run(main)

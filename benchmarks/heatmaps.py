"""What heatmaps cost: maps in the engine and on their way to the disk while a run scores, and drawing behind it.

    python -m benchmarks.heatmaps ARCHIVE --engine BUNDLE [--repeats 5] [--json FILE]

Runs without and with ``--heatmaps abnormal`` take turns, with the ``null`` runtime, which leaves all the time to the
rest; its checksums make about half of all studies abnormal. A session of ONNX Runtime takes turns with and without the
map among its outputs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import typer

from benchmarks.measuring import finish
from mura_trt.bench.sample import repeated
from mura_trt.bench.scoring import scored
from mura_trt.bench.spread import spread
from mura_trt.bundle import Bundle
from mura_trt.runtimes.onnxruntime import BATCH

VIEWS = 3200
SESSION_BATCHES = 24  # of each kind


def run_with(archive: Path, engine: Path, *options: str) -> dict[str, Any]:
    """A run's ``run.json``."""
    return scored(archive, engine, "--runtime", "null", "--batch", "64", *options).run


def engine_ratio(session: ort.InferenceSession) -> float:
    """Seconds with the map among the outputs to those without; batches take turns, and so does who goes first."""
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 320, 320, 1), np.uint8)
    seconds = {True: 0.0, False: 0.0}
    for number in range(2 * SESSION_BATCHES):
        with_map = number % 4 in (0, 3)
        started = time.monotonic()
        session.run(["probability", "logit", *(["cam"] if with_map else [])], {"image": images})
        seconds[with_map] += time.monotonic() - started
    return seconds[True] / seconds[False]


def measure(archive: Path, engine: Path, repeats: int) -> dict[str, Any]:
    """Ratios with to without, and how fast is drawn."""
    session = ort.InferenceSession(Bundle.open(engine).path("fp32_onnx"), providers=["CPUExecutionProvider"])
    engine_ratio(session)  # warms it
    rates, drawing, in_engine, whole = [], [], [], []
    with repeated(archive, VIEWS) as large:
        run_with(large, engine)  # what is read is in the page cache
        for number in range(repeats):
            # Who goes first changes, for a machine's speed drifts.
            turns = [("--heatmaps", "abnormal"), ()]
            runs = {
                bool(options): run_with(large, engine, *options) for options in (turns if number % 2 else turns[::-1])
            }
            rates.append(runs[True]["views_per_s"] / runs[False]["views_per_s"])
            drawing.append(runs[True]["heatmaps"] / runs[True]["stage_s"]["heatmaps"])
            whole.append(runs[True]["wall_s"] / runs[False]["wall_s"])
            in_engine.append(engine_ratio(session))
    return {
        "views": VIEWS,
        "drawn": runs[True]["heatmaps"],
        "views_per_s": {"with": runs[True]["views_per_s"], "without": runs[False]["views_per_s"]},
        "scoring_rate_ratio": spread(rates),
        "drawn_per_s": spread(drawing),
        "whole_run_ratio": spread(whole),
        "engine_time_ratio": spread(in_engine),
    }


def main(
    archive: Annotated[Path, typer.Argument(help="Folder of PNG files.")],
    engine: Annotated[Path, typer.Option(help="Engine bundle.")],
    repeats: Annotated[int, typer.Option(help="Pairs of runs.")] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the result.")] = None,
) -> None:
    """Measures both, in turns."""
    finish(measure(archive, engine, repeats), json_file)


if __name__ == "__main__":
    typer.run(main)

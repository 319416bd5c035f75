"""How fast the whole is: from files to a table of scores."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.acceptance.work import Work, interleaved
from mura_trt.bench.sample import link_views
from mura_trt.bench.scoring import scored
from mura_trt.places import CPU

CPU_VIEWS, GPU_VIEWS = 100, 32_000
CPU_RUNTIMES, GPU_RUNTIMES = ("onnxruntime", "null"), ("auto", "null")
# What else the first runtime is tried with, once: several workers have a Python lock each.
CPU_VARIATIONS: dict[str, tuple[str, ...]] = {}
GPU_VARIATIONS = {
    "1 worker": ("--devices", "0"),
    "4 workers": ("--devices", "0,0,0,0"),
    "batches of 64": ("--batch", "64"),
}
SECONDS = 200  # after which no variation is begun: a run takes some 20 s, and the section has 240
FACTS = ("runtime", "device", "batch", "passed_over", "workers", "scored", "wall_s", "stage_s")


def end_to_end(work: Work) -> dict[str, Any]:
    """From files in the page cache to CSV: ``mura-trt score`` as a user runs it, with where its main thread waited.

    Rates of all repetitions, and :data:`FACTS` of the last one.
    """
    until = time.monotonic() + SECONDS
    views, runtimes = (CPU_VIEWS, CPU_RUNTIMES) if work.cpu else (GPU_VIEWS, GPU_RUNTIMES)
    last: dict[str, dict[str, Any]] = {}

    archives: dict[str, Path] = {}

    def taking(name: str, kind: str, *options: str) -> Callable[[], float]:
        def take() -> float:
            devices: tuple[str, ...] = ()
            if "null" in options and not work.cpu:
                # What reading and decoding give, by as many workers as share the GPU.
                devices = ("--devices", ",".join([CPU] * len(last[f"{runtimes[0]} {kind}"]["workers"])))
            last[name] = scored(archives[kind], work.bundle("fp16"), "--allow-unproven", *options, *devices).run
            return float(last[name]["views_per_s"])

        return take

    takes: dict[str, Callable[[], float]] = {}
    for kind, folder in (("png", work.png), ("jpeg", work.jpeg)):
        archives[kind] = work.folder / f"many-{kind}"
        shutil.rmtree(archives[kind], ignore_errors=True)
        link_views(folder, archives[kind], views)
        for runtime in runtimes:
            name = f"{runtime} {kind}"
            takes[name] = taking(name, kind, "--runtime", runtime)
    # Each run warms up by itself: its rate is from the first batch on.
    rates = interleaved(takes, 1 if work.cpu else 2, warm_up=0)
    for variation, options in (CPU_VARIATIONS if work.cpu else GPU_VARIATIONS).items():
        for kind in archives:
            name = f"{runtimes[0]} {kind}, {variation}"
            if time.monotonic() < until:
                take = taking(name, kind, "--runtime", runtimes[0], *options)
                rates |= interleaved({name: take}, 1, warm_up=0)
            else:
                rates[name] = "left out: the time was up"
    return {
        name: {**rate, **{fact: last[name][fact] for fact in FACTS}} if isinstance(rate, dict) else {"error": rate}
        for name, rate in rates.items()
    }

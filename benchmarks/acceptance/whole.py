"""How fast the whole is: from files to a table of scores."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.acceptance.work import Work, interleaved
from mura_trt.bench.sample import link_views
from mura_trt.bench.scoring import scored


def end_to_end(work: Work) -> dict[str, Any]:
    """From files in the page cache to CSV: ``mura-trt score`` as a user runs it, with where its main thread waited."""
    views = 100 if work.cpu else 16_000
    runtimes = ["onnxruntime", "null"] if work.cpu else ["auto", "null"]
    last: dict[str, dict[str, Any]] = {}

    def taking(name: str, archive: Path, runtime: str) -> Callable[[], float]:
        def take() -> float:
            last[name] = scored(archive, work.bundle("fp16"), "--allow-unproven", "--runtime", runtime).run
            return float(last[name]["views_per_s"])

        return take

    takes: dict[str, Callable[[], float]] = {}
    for kind, folder in (("png", work.png), ("jpeg", work.jpeg)):
        many = work.folder / f"many-{kind}"
        shutil.rmtree(many, ignore_errors=True)
        link_views(folder, many, views)
        takes |= {f"{runtime} {kind}": taking(f"{runtime} {kind}", many, runtime) for runtime in runtimes}
    # Each run warms up by itself: its rate is from the first batch on.
    rates = interleaved(takes, 1 if work.cpu else 2, warm_up=0)
    facts = ("runtime", "device", "batch", "passed_over", "stage_s")
    return {
        name: {**rate, **{fact: last[name][fact] for fact in facts}} if isinstance(rate, dict) else {"error": rate}
        for name, rate in rates.items()
    }

"""How fast scoring is."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from mura_trt.commands.shared import AllowUnproven, Archive, Batch, Engine, Json, Root, archive_named
from mura_trt.commands.streams import answer


def bench(
    archive: Archive,
    engine: Engine,
    runtime: Annotated[str, typer.Option(help="As for score; or all: every one that works here.")] = "auto",
    batch: Batch = None,
    rounds: Annotated[int, typer.Option(help="How often everything is measured, in turns.")] = 5,
    seconds: Annotated[
        float, typer.Option(help="Seconds of scoring in a whole run; decoding and the model alone take half.")
    ] = 4.0,
    sweep: Annotated[bool, typer.Option(help="Try batches and threads, too.")] = True,
    root: Root = None,
    allow_unproven: AllowUnproven = False,
    as_json: Json = False,
) -> None:
    """Measures the model alone, decoding alone, and from files to CSV: how fast scoring is here, and what limits it.

    Nothing else should run meanwhile.
    """
    from mura_trt.bench.options import BenchOptions
    from mura_trt.bench.run import bench as run_bench
    from mura_trt.bench.tell import text
    from mura_trt.progress import Reporter

    options = BenchOptions(archive_named(archive), engine, runtime, batch, rounds, seconds, sweep, root, allow_unproven)
    with Reporter(sys.stderr) as reporter:
        found = run_bench(options, reporter.show)
    answer(json.dumps(found, indent=2) if as_json else text(found))

"""How fast scoring is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from mura_trt.commands.shared import Root, archive_named, errors_told


def bench(
    archive: Annotated[str, typer.Argument(help="Folder, zip, tar or list of X-rays, or the URL of one.")],
    engine: Annotated[Path, typer.Option(help="Engine bundle, made by build-engine.")],
    runtime: Annotated[str, typer.Option(help="As for score; or all that work here.")] = "auto",
    batch: Annotated[int | None, typer.Option(help="Views in a batch [what suits the runtime].")] = None,
    rounds: Annotated[int, typer.Option(help="How often everything is measured, in turns.")] = 5,
    seconds: Annotated[float, typer.Option(help="Of scoring in a run; parts alone take half of them.")] = 4.0,
    sweep: Annotated[bool, typer.Option(help="Try batches and threads, too.")] = True,
    root: Root = None,
    allow_unproven: Annotated[bool, typer.Option("--allow-unproven", help="As for score.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not tables.")] = False,
) -> None:
    """Measures the model alone, decoding alone, and from files to CSV: how fast scoring is here, and what limits it.

    Nothing else should run meanwhile.
    """
    with errors_told():
        from mura_trt.bench.options import BenchOptions
        from mura_trt.bench.run import bench as run_bench
        from mura_trt.bench.tell import text
        from mura_trt.progress import Reporter

        options = BenchOptions(
            archive_named(archive), engine, runtime, batch, rounds, seconds, sweep, root, allow_unproven
        )
        with Reporter(sys.stderr) as reporter:
            found = run_bench(options, reporter.show)
        print(json.dumps(found, indent=2) if as_json else text(found))

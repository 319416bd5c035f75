"""What options and batches do to a plan, where it can be seen without a GPU: the time to build it, and its size.

    python -m benchmarks.plans BUNDLE [--rounds 3] [--json FILE]

Builds the graph of a bundle in turns, once a round, with every variant of the builder's options and for batches of
several sizes. What the options do to speed is for a GPU to show.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from benchmarks.measuring import finish
from mura_trt.builder_options import DEFAULTS, VARIANTS, BuilderOptions
from mura_trt.bundle import Bundle
from mura_trt.plan import build_plan, find_builder
from mura_trt.sweep import BATCHES

ANY = (1, 64, 256)


def measure(bundle: Bundle, rounds: int) -> dict[str, Any]:
    """Seconds and bytes of each plan."""
    builder = find_builder("auto")
    assert builder is not None
    plans: dict[str, tuple[tuple[int, int, int], BuilderOptions]] = {
        **{f"batch 1 to 256, {name}": (ANY, options) for name, options in VARIANTS.items()},
        "batch 1 to 256, SM75": (ANY, BuilderOptions(targets=("SM75",))),
        "batch 1 to 256, SM89": (ANY, BuilderOptions(targets=("SM89",))),
        **{f"batch {size}": ((size, size, size), DEFAULTS) for size in (1, *BATCHES)},
    }
    seconds: dict[str, list[float]] = {name: [] for name in plans}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, (batch, options) in plans.items():
                built = build_plan(builder, bundle.path("onnx"), Path(folder) / "plan", batch, options)
                seconds[name].append(built["seconds"])
                sizes[name] = built["plan_bytes"]
    found = {name: {"seconds": median(times), "bytes": sizes[name]} for name, times in seconds.items()}
    return {"builder": builder, "version": built["version"], "precision": bundle.manifest.precision, "plans": found}


def main(
    bundle: Path,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    result: Annotated[Path | None, typer.Option("--json", help="Where to keep the figures.")] = None,
) -> None:
    """Builds and prints."""
    finish(measure(Bundle.open(bundle), rounds), result)


if __name__ == "__main__":
    typer.run(main)

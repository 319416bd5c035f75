"""From measured points to archives that nobody has measured: time, memory, disk, hours and euros. All is projection.

    python -m benchmarks.scale --json FILE
    python -m benchmarks.scale_projection FILE [--price 2,4] [--views-per-s 10000,20000,40000] [--cores 16]

A view more costs a stage what lies between the two largest sizes that were measured; listing and stamping, what they
cost on real files. Seconds are of one core: what the disk and other work add is not in them. A GPU's hours are views by
the slower of two sides: what the GPU gives, which is an input here, for nothing was measured on one, and what its
worker is fed by the host's cores.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from benchmarks.scale import VIEWS_PER_STUDY

SIZES = (10_000_000, 100_000_000)  # views
# Of one core, for a gray PNG file of 79 KB to 320 x 320 pixels: benchmarks/results/decoders-2cores.json.
DECODE_MS = 0.43
# What one worker is fed on two cores where pixels cost next to nothing: benchmarks/results/feed-2cores.json. That is
# reading, screening and all else of a view: 0.08 ms of a core at the most.
FEED_VIEWS_PER_S = 25_400
FEED_MS = 2 / FEED_VIEWS_PER_S * 1e3


class Cost(NamedTuple):
    """Of a view more in a stage."""

    seconds: float
    cpu_seconds: float
    peak_bytes: float


def costs_per_view(small: dict[str, Any], large: dict[str, Any]) -> dict[str, Cost]:
    """Of each stage, from two sizes of the same case or walk."""
    views = large["views"] - small["views"]
    costs = {}
    for stage, more in large["stages"].items():
        less = small["stages"][stage]
        seconds, cpu, peak = (more[name] - less[name] for name in ("s", "cpu_s", "peak_mb"))
        costs[stage] = Cost(seconds / views, cpu / views, round(peak * 1e6 / views, 6))
    return costs


def projected(large: dict[str, Any], costs: dict[str, Cost], views: int) -> dict[str, float]:
    """What a run of so many views takes beside reading, decoding and the network, by the largest that was measured."""
    times = views / large["views"]
    more = views - large["views"]
    peaks = [large["stages"][stage]["peak_mb"] / 1e3 + more * cost.peak_bytes / 1e9 for stage, cost in costs.items()]
    return {
        **{f"{stage}_cpu_s": views * cost.cpu_seconds for stage, cost in costs.items()},
        "peak_gb": max(peaks),
        "shards": large["shards"] * times,
        "shards_gb": large["shards_mb"] / 1e3 * times,
        "tables_gb": large["tables_mb"] / 1e3 * times,
    }


def hours(studies: float, views_per_s: float, host_views_per_s: float, idle: float) -> float:
    """Of a GPU that gives so many views a second, on a host that feeds it so many.

    ``idle`` is seconds a view in which it waits: before the first view and behind the last.
    """
    return studies * VIEWS_PER_STUDY * (1 / min(views_per_s, host_views_per_s) + idle) / 3600


def host_rate(cores: int) -> float:
    """Views a second that so many cores feed one worker, if all are like those that were measured."""
    return min(FEED_VIEWS_PER_S, cores / (DECODE_MS + FEED_MS) * 1e3)


def numbers(text: str) -> list[float]:
    """Of ``2,4``."""
    return [float(number) for number in text.split(",")]


def main(
    file: Annotated[Path, typer.Argument(help="What benchmarks.scale left.", exists=True)],
    price: Annotated[str, typer.Option(help="Euros for an hour of the machine.")] = "2,4",
    views_per_s: Annotated[str, typer.Option(help="Of the GPU, model alone.")] = "10000,20000,40000",
    cores: Annotated[int, typer.Option(help="Of the machine with the GPU.")] = 16,
) -> None:
    """Prints costs of a view, larger archives, and a million studies on a GPU."""
    found = json.loads(file.read_text())
    usual = [
        case
        for case in found["cases"]
        if (case["worker"], case["shard_views"], case["table_format"]) == ("played", 2048, "csv")
    ]
    small, large = usual[-2:]
    costs = costs_per_view(small, large)
    for stage, cost in costs_per_view(*found["walks"][-2:]).items():
        costs[stage] = costs[stage]._replace(seconds=cost.seconds, cpu_seconds=cost.cpu_seconds)
    del costs["take_up"]  # of a run that begins there is nothing
    print(f"Of a view more, between {small['views']:,} and {large['views']:,}:")
    for stage, cost in costs.items():
        print(
            f"  {stage:10} {cost.seconds * 1e6:6.2f} us, {cost.cpu_seconds * 1e6:6.2f} us of CPU,"
            f" {cost.peak_bytes:6.1f} bytes of the stage's peak"
        )
    for views in SIZES:
        print(f"Projected for {views:,} views:")
        for name, value in projected(large, costs, views).items():
            print(f"  {name:12} {value:,.1f}")
    host, idle = host_rate(cores), sum(cost.cpu_seconds for stage, cost in costs.items() if stage != "supervise")
    print(f"Projected for 1,000,000 studies on one GPU; {cores} cores feed it {host:,.0f} gray PNG files/s;")
    print(f"it waits for {idle * 1e6:.1f} us of one core a view before the first one and behind the last:")
    for rate in numbers(views_per_s):
        needed = hours(1_000_000, rate, host, idle)
        euros = ", ".join(f"{needed * each:.2f} euros at {each:g} an hour" for each in numbers(price))
        print(f"  {rate:9,.0f} views/s: {needed * 60:.1f} minutes; {euros}")


if __name__ == "__main__":
    typer.run(main)

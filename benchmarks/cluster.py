"""What Ray costs: the driver beside workers that answer at once, and one worker on Ray against one without.

    python -m benchmarks.cluster [--views 1000000] [--archive demo/archive --engine demo/engine] [--json FILE]

``driver``: the product's own run, with actors in place of the worker that give rows made from views' numbers as soon as
they are asked (null decode, null engine): listing, supervisor, ledger, messages by Ray, commits with fsync, tables. The
driver has one core, and its memory is the kernel's VmHWM; two nodes of Ray on this machine have the others.
``one worker``: ``mura-trt score`` with the null runtime, with ``--cluster local --workers 1`` and without, in turns:
views a second from the first batch to the last commit.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import typer

import mura_trt.score
from benchmarks.answering import AnsweringActor
from benchmarks.feed import make_bundle
from benchmarks.measuring import finish
from benchmarks.scale import Meter, keys
from mura_trt.archives import folder
from mura_trt.bench.processes import in_fresh_process
from mura_trt.bench.sample import link_views
from mura_trt.bench.scoring import scored
from mura_trt.bench.spread import spread
from mura_trt.results import OutputFolder
from mura_trt.score_options import ScoreOptions
from mura_trt.supervisor import Supervisor

WORKERS = 2


@contextmanager
def two_nodes() -> Iterator[str]:
    """The address of a Ray cluster of two nodes with a CPU each, on this machine."""
    from ray.cluster_utils import Cluster

    root = str(Path(__file__).parent.parent)  # where actors find this package
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "PYTHONPATH": root}
    folder = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
    head = {"num_cpus": 1, "include_dashboard": False, "temp_dir": folder.name}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]
        folder.cleanup()


def drive(views: int, engine: Path, out: Path, address: str) -> dict[str, Any]:
    """A run of so many views, in this process."""
    from mura_trt.cluster import hire

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["RAY_ADDRESS"] = address
    meter = Meter()
    options = ScoreOptions(
        out.parent, engine, out, runtime="null", shard_views=2048, allow_unproven=True, cluster="auto", workers=WORKERS
    )
    answering = functools.partial(hire.ActorHandle, actor=AnsweringActor)
    with ExitStack() as patches:
        for patch in (
            mock.patch.object(folder, "_walk", return_value=keys(views)),
            mock.patch.object(hire, "ActorHandle", answering),
            meter.over(mura_trt.score, "list_archive", "list"),
            meter.over(OutputFolder, "write_hashes", "hashes"),
            meter.over(Supervisor, "run", "supervise"),
            meter.over(OutputFolder, "outcome", "outcome"),
            meter.over(OutputFolder, "write_tables", "tables"),
        ):
            patches.enter_context(patch)
        told = mura_trt.score.score(options)
    assert told["scored"] + told["failed"] == told["listed"] == views
    assert len({worker["node"] for worker in told["workers"]}) == WORKERS
    return {
        "views_per_s": told["views_per_s"],
        "peak_mb": max(stage["peak_mb"] for stage in meter.stages.values()),
        "stages": meter.stages,
        "views_of_workers": [worker["views"] for worker in told["workers"]],
    }


def measure_driver(views: int, rounds: int) -> dict[str, Any]:
    """Runs, each in a process of its own, on one cluster."""
    with tempfile.TemporaryDirectory() as name, two_nodes() as address:
        work = Path(name)
        make_bundle(work / "engine")
        runs = [in_fresh_process(drive, views, work / "engine", work / f"out{at}", address) for at in range(rounds)]
    rates = [run["views_per_s"] for run in runs]
    return {
        "views": views,
        "workers": WORKERS,
        "views_per_s": spread(rates),
        "peak_mb": max(run["peak_mb"] for run in runs),
        "allowed_mb": 200 + views * 120 / 1e6,
        "runs": runs,
    }


def measure_one_worker(archive: Path, engine: Path, views: int, rounds: int) -> dict[str, Any]:
    """The same run with and without Ray, in turns."""
    options = ("--runtime", "null", "--allow-unproven", "--shard-views", "2048")
    ratios, rates = [], []
    with tempfile.TemporaryDirectory() as name:
        linked = Path(name) / "archive"
        link_views(archive, linked, views)
        for _ in range(rounds):
            without = scored(linked, engine, *options)
            on_ray = scored(linked, engine, *options, "--cluster", "local", "--workers", "1")
            ratios.append(on_ray.rate / without.rate)
            rates.append((without.rate, on_ray.rate))
    return {
        "views": views,
        "ratio": spread(ratios),
        "views_per_s": rates,
    }


def main(
    views: Annotated[int, typer.Option(help="Of the driver's runs.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(help="Of each.")] = 5,
    archive: Annotated[Path | None, typer.Option(help="Folder of PNG files, for the run with one worker.")] = None,
    engine: Annotated[Path | None, typer.Option(help="Engine bundle, likewise.")] = None,
    linked: Annotated[int, typer.Option(help="Views that are linked of the archive's.")] = 16_000,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the result.")] = None,
) -> None:
    """Measures and prints."""
    result: dict[str, Any] = {"driver": measure_driver(views, rounds)}
    if archive and engine:
        result["one_worker"] = measure_one_worker(archive, engine, linked, rounds)
    finish(result, json_file)


if __name__ == "__main__":
    typer.run(main)

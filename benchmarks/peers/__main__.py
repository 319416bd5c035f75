"""mura-trt score against what a user would write or install instead, each tuned, from the same files to a CSV.

    python -m benchmarks.peers ARCHIVE --engine BUNDLE --checkpoint CKPT [--views 64] [--rounds 5] [--quick]
        [--peers eager,openvino] [--python openvino=venv/bin/python] [--json FILE]

Everybody has the same cores, files and weights, and every run's studies are checked before its time counts. The table
quotes the ratio of steady rates, from the first batch handed in to the last result, and has whole commands beside it.
The peers: benchmarks/peers/README.md.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.measuring import finish
from benchmarks.peers.catalogue import Peer, peers
from benchmarks.peers.contest import Course, contest
from benchmarks.peers.runs import Reference, Weights
from benchmarks.peers.tell import table
from benchmarks.peers.torch_network import export
from mura_trt.bench.sample import link_views
from mura_trt.cores import usable_cores

# Multiples of all batch sizes: no peer pays for a short batch.
VIEWS, TUNING_VIEWS = 64, 32
QUICK_VIEWS, QUICK_TUNING_VIEWS, QUICK_CHOICES = 32, 8, 1


def pin(cores: int) -> list[int]:
    """Gives this process, and all that it starts, so many of its cores; returns which."""
    taken = sorted(os.sched_getaffinity(0))[:cores]
    os.sched_setaffinity(0, taken)
    return taken


def chosen(names: str | None, cores: int, quick: bool) -> list[Peer]:
    """The peers of these names, or all; typer.BadParameter where there is none of a name."""
    every = {peer.name: peer for peer in peers(cores)}
    if not names:
        return [peer for peer in every.values() if not (quick and peer.slow_start)]
    if unknown := set(names.split(",")) - every.keys():
        raise typer.BadParameter(f"no peer {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    return [every[name] for name in names.split(",")]


def environments(given: list[str], known: list[Peer]) -> dict[str, str]:
    """Interpreters by peer of ``NAME=PATH``; typer.BadParameter where one is not of that form or not there."""
    found: dict[str, str] = {}
    for one in given:
        name, _, path = one.partition("=")
        if name not in {peer.name for peer in known}:
            raise typer.BadParameter(f"--python {one}: no peer {name} takes part")
        if not Path(path).is_file():
            raise typer.BadParameter(f"--python {one}: no file {path}")
        found[name] = str(Path(path).absolute())  # not resolved: a venv's interpreter is a link
    return found


def main(
    archive: Annotated[Path, typer.Argument(help="Folder of X-rays, as made by mura-trt demo.")],
    engine: Annotated[Path, typer.Option(help="Engine bundle.")],
    checkpoint: Annotated[Path, typer.Option(help="The checkpoint that it was built from.")],
    views: Annotated[int | None, typer.Option(help=f"Images of a run [{VIEWS}; {QUICK_VIEWS} with --quick].")] = None,
    rounds: Annotated[int | None, typer.Option(help="Warm rounds [5; 1 with --quick].")] = None,
    cold_rounds: Annotated[int | None, typer.Option(help="Cold rounds [1; 0 with --quick].")] = None,
    names: Annotated[str | None, typer.Option("--peers", help="Which, with commas between them [all].")] = None,
    python: Annotated[list[str] | None, typer.Option(help="NAME=PATH: a peer's own interpreter.")] = None,
    cores: Annotated[int | None, typer.Option(help="How many cores everybody has [all].")] = None,
    quick: Annotated[
        bool, typer.Option(help="A look: few views, one round, nobody tuned, no peer that compiles.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the result.")] = None,
) -> None:
    """Tunes the peers, runs everybody in turns, and prints the result and its table."""
    pinned = pin(min(cores or usable_cores(), usable_cores()))
    taking = chosen(names, len(pinned), quick)
    pythons = environments(python or [], taking)
    views = views or (QUICK_VIEWS if quick else VIEWS)
    with tempfile.TemporaryDirectory() as work:
        # What torch.compile keeps is found by the later runs of one contest, and not by the next contest.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(work) / "inductor")
        short, full = Path(work) / "short", Path(work) / "full"
        link_views(archive.resolve(), short, min(views, QUICK_TUNING_VIEWS if quick else TUNING_VIEWS))
        link_views(archive.resolve(), full, views)
        weights = Weights(checkpoint.resolve(), engine.resolve(), Path(work) / "graph.onnx")
        export(weights.checkpoint, weights.graph)
        course = Course(short, full, weights, Reference(full, weights.checkpoint), pythons)
        result: dict[str, Any] = {"views": views, "pinned_cores": pinned, "tuned": not quick}
        result |= contest(
            course,
            taking,
            rounds or (1 if quick else 5),
            (0 if quick else 1) if cold_rounds is None else cold_rounds,
            QUICK_CHOICES if quick else None,
            lambda told: print(told, file=sys.stderr, flush=True),
        )
    finish(result, json_file)
    print(table(result))


if __name__ == "__main__":
    typer.run(main)

"""One run of a peer, or of ours, in a fresh process: its rate, its memory, and whether its scores are right."""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peers.catalogue import OUR_PIXELS, Bounds, Choice, Peer
from benchmarks.peers.script import study_means, views_of
from mura_trt.bench.processes import resident

CHECKOUT = Path(__file__).parents[2]
SAMPLE_SECONDS = 0.1  # between looks at the memory
OURS = ("--runtime", "onnxruntime")


class RunFailed(Exception):
    """A run that has no time worth telling; its text says why."""


@dataclass(frozen=True)
class Weights:
    """The same network in both forms."""

    checkpoint: Path
    engine: Path
    """The bundle that is ours."""
    graph: Path
    """In FP32, as :func:`benchmarks.peers.torch_network.export` makes it."""

    def options(self, peer: Peer) -> Choice:
        """What the peer's script takes."""
        if peer.weights == "checkpoint":
            return "--checkpoint", str(self.checkpoint)
        return "--graph", str(self.graph)


@dataclass(frozen=True)
class Run:
    """What was measured in one process."""

    options: Choice
    views_per_s: float
    """From the first batch handed in to the last result."""
    wall_s: float
    """The whole command, start-up and all."""
    peak_gb: float
    """Resident memory of all its processes; what they share is counted for each."""
    dp_max: float
    """A study's difference from the reference at the most."""

    def record(self) -> dict[str, Any]:
        """For the result."""
        rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}
        return {**rounded, "options": " ".join(self.options), "dp_max": float(f"{self.dp_max:.2g}")}


def watched(command: Sequence[str]) -> tuple[str, float, float]:
    """Standard output, seconds and peak memory in GB of a command.

    Raises
    ------
    RunFailed
        It ends with another code than 0; with its last words.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as words:
        began = time.perf_counter()
        process = psutil.Popen(command, stdout=out, stderr=words, cwd=CHECKOUT)
        peak = 0
        try:
            while process.poll() is None:
                peak = max(peak, resident(process.pid))
                try:
                    process.wait(SAMPLE_SECONDS)
                except psutil.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:
                process.kill()
        seconds = time.perf_counter() - began
        out.seek(0)
        words.seek(0)
        if process.returncode:
            raise RunFailed(f"exit code {process.returncode}: {words.read().strip()[-500:]}")
        return out.read(), seconds, peak / 1e9


def read_table(path: Path) -> dict[str, float]:
    """A column of probabilities by what stands first in each row."""
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        first = (rows.fieldnames or ["study"])[0]
        return {row[first]: float(row["probability"]) for row in rows}


class Reference:
    """What the studies' probabilities are, of any folder whose views are among those of ``folder``."""

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        with tempfile.TemporaryDirectory() as work:
            table = Path(work) / "views.csv"
            command = ["benchmarks.peers.reference", str(folder), "-o", str(table), "--checkpoint", str(checkpoint)]
            watched([sys.executable, "-m", *command])
            self._views = read_table(table)

    def studies(self, folder: Path) -> dict[str, float]:
        """By the study's path."""
        views = views_of(folder)
        return study_means(folder, views, [self._views[view.relative_to(folder).as_posix()] for view in views])

    def differ(self, found: dict[str, float], folder: Path, bounds: Bounds) -> float:
        """By how much the studies differ at the most.

        Raises
        ------
        RunFailed
            By more than the bounds allow, or studies are missing.
        """
        expected = self.studies(folder)
        if found.keys() != expected.keys():
            raise RunFailed(
                f"{len(found)} studies, of which {len(found.keys() & expected.keys())} are right;"
                f" wanted {len(expected)}"
            )
        off = [abs(found[study] - probability) for study, probability in expected.items()]
        largest, mean = max(off), sum(off) / len(off)
        if not (largest <= bounds.largest and mean <= bounds.mean):  # so that NaN is no agreement
            raise RunFailed(
                f"its studies differ from the reference by {largest:.2g} at the most and {mean:.2g} on average;"
                f" {bounds.largest:g} and {bounds.mean:g} are allowed"
            )
        return largest


def run_peer(
    peer: Peer, options: Choice, folder: Path, weights: Weights, reference: Reference, python: str = sys.executable
) -> Run:
    """Runs a peer and checks its studies.

    Raises
    ------
    RunFailed
        It fails, or its scores are wrong.
    """
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "studies.csv"
        # A script for several engines takes the engine's name first.
        engine, base = (peer.base[:1], peer.base[1:]) if peer.module == "our_decode" else ((), peer.base)
        script = [python, "-m", f"benchmarks.peers.{peer.module}", *engine, str(folder), "-o", str(out)]
        told, wall, peak = watched([*script, *weights.options(peer), *base, *options])
        measured = json.loads(told.splitlines()[-1])
        off = reference.differ(read_table(out), folder, peer.bounds)
    return Run(options, measured["views"] / measured["seconds"], wall, peak, off)


def run_ours(folder: Path, weights: Weights, reference: Reference) -> Run:
    """Runs ``mura-trt score`` as it is and checks its studies; raises as :func:`run_peer`."""
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "out"
        command = ["mura_trt", "score", str(folder), "--engine", str(weights.engine), "-o", str(out), "--json", *OURS]
        told, wall, peak = watched([sys.executable, "-m", *command])
        off = reference.differ(read_table(out / "studies.csv"), folder, OUR_PIXELS)
    return Run(OURS, float(json.loads(told)["views_per_s"]), wall, peak, off)

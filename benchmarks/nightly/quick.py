"""Speed in a minute: what a change of the code puts at risk, in small turns with fixed work between them.

Three things are measured, each by wall time and by CPU time:

* ``decode``: bytes in memory to pixels, on all cores;
* ``pipeline``: ``mura-trt score`` with the null runtime on the archive's images, on all cores;
* ``feed``: the same on images of 8 x 8 pixels, which cost nothing but what every view costs, on one core. On several,
  its threads wait for Python's lock, and take up to twice the CPU time while nothing else wants those cores.

A figure is how many views are done in the time of one unit of fixed work (:mod:`benchmarks.nightly.reference`) that was
done just before and just after. Wall time of a run is from its first batch to its last commit. CPU time is what its
``run.json`` tells: of the supervisor from listing to the last commit, and of the worker since it began to work.
"""

from __future__ import annotations

import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from benchmarks.feed import make_archive, make_bundle
from benchmarks.nightly.reference import Load, Pace, Turns, images, small_files
from mura_trt.bench.sample import link_views
from mura_trt.bench.scoring import scored
from mura_trt.cores import usable_cores

HOWS = Pace._fields
BATCH = 64
MOST_FILES = 512
FEW_CORES = 2
MEMORY, ROOM = Path("/dev/shm"), 2**30  # bytes; the tiny images take a page each


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    seconds: float = 78.0
    """Another round begins where one as long as the last would end within so many."""
    rounds: int = 3
    """So many at the least, however long they take."""
    pipeline_views: int = 6000
    """A run's, on two cores; more on more."""
    feed_views: int = 30_000
    slices: int = 10
    """Turns of decoding in a round."""
    turn: float = 0.25
    """Seconds of fixed work before and after a run."""
    slice: float = 0.1
    """Seconds of a turn of decoding, and of fixed work between two of them."""


@dataclass
class Measured:
    """What rounds found."""

    figures: dict[str, list[float]] = field(default_factory=dict)
    """By name, views in the time of a unit of fixed work: one a round."""
    rates: dict[str, list[float]] = field(default_factory=dict)
    """By name, views a second, or a second of CPU time."""

    def take(self, name: str, ours: Pace, before: Pace, after: Pace) -> None:
        """Notes both figures of a thing."""
        self.take_slices(name, [ours], [before, after])

    def take_slices(self, name: str, ours: list[Pace], between: list[Pace]) -> None:
        """Notes both figures by the median of many turns; ``between`` has one more."""
        for how in HOWS:
            rates = [getattr(pace, how) for pace in ours]
            fixed = [getattr(pace, how) for pace in between]
            around = [math.sqrt(one * other) for one, other in pairwise(fixed)]
            self._note(f"{name} {how}", rates, around)

    def _note(self, name: str, rates: list[float], fixed: list[float]) -> None:
        ratios = [rate / other for rate, other in zip(rates, fixed, strict=True)]
        self.figures.setdefault(name, []).append(statistics.median(ratios))
        self.rates.setdefault(name, []).append(statistics.median(rates))


def decoding(folder: Path, threads: int) -> Load:
    """The host's decoder over files of an archive, evenly spaced, in memory."""
    from mura_trt.host_decode import open_decoder

    paths = sorted(folder.rglob("*.png"))
    files = [path.read_bytes() for path in paths[:: -(-len(paths) // MOST_FILES)]]
    decoder = open_decoder((320, 320), threads, BATCH)
    at = 0

    def work(seconds: float) -> int:
        nonlocal at
        began, views = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            decoder.submit([files[(at + number) % len(files)] for number in range(BATCH)])
            at, views = at + BATCH, views + BATCH
            if decoder.pending > 2:
                decoder.collect()
        while decoder.pending:
            decoder.collect()
        return views

    work(0.0)
    return work


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder, and what ``tempfile`` makes meanwhile, in memory where there is room: disks are shared, too."""
    fits = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM
    with tempfile.TemporaryDirectory(dir=MEMORY if fits else None) as folder:
        before, tempfile.tempdir = tempfile.tempdir, folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before


@contextmanager
def one_core() -> Iterator[None]:
    """What is started meanwhile has one core, for good."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _run(archive: Path, bundle: Path, fixed: Turns, turn: float) -> tuple[Pace, Pace, Pace]:
    """How fast its views are scored with the null runtime, and the fixed work before and after."""
    before = fixed.turn(turn)
    told = scored(archive, bundle, "--runtime", "null", "--allow-unproven", "--shard-views", "2048").run
    after = fixed.turn(turn)
    cpu = told["stage_s"]["worker_cpu"] + told["stage_s"]["supervisor_cpu"]
    return Pace(told["views_per_s"], told["scored"] / cpu), before, after


def measure(archive: Path, engine: Path, effort: Effort | None = None) -> Measured:
    """Rounds of everything, in turns with fixed work.

    Parameters
    ----------
    archive
        Folder of PNG files, as made by ``mura-trt demo``.
    engine
        Bundle.
    effort
        How much.
    """
    effort = effort or Effort()
    cores = usable_cores()
    found = Measured()
    began = time.monotonic()
    with scratch() as work:
        many, tiny, nothing = (work / name for name in ("many", "tiny", "nothing"))
        link_views(archive, many, effort.pipeline_views * max(cores, FEW_CORES) // FEW_CORES)
        make_archive(tiny, effort.feed_views)
        make_bundle(nothing)
        with one_core():
            alone = Turns(1, small_files)
        with Turns(cores, images) as fixed, alone:
            rounds, round_began, last = 0, time.monotonic(), 0.0
            while rounds < effort.rounds or round_began + last - began < effort.seconds:
                found.take("pipeline", *_run(many, engine, fixed, effort.turn))
                with one_core():
                    found.take("feed", *_run(tiny, nothing, alone, effort.turn))
                with Turns(1, decoding, archive, cores) as decoder:
                    ours_, between = [], [fixed.turn(effort.slice)]
                    for _ in range(effort.slices):
                        ours_.append(decoder.turn(effort.slice))
                        between.append(fixed.turn(effort.slice))
                found.take_slices("decode", ours_, between)
                now = time.monotonic()
                rounds, round_began, last = rounds + 1, now, now - round_began
    return found

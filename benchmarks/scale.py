"""What a run costs beside reading, decoding and the network, from ten thousand views to a million.

    python -m benchmarks.scale [--views 10000,100000,1000000] [--rounds 3] [--json FILE]

``benchmarks.scale_projection`` goes on from what this leaves in FILE. All is the product's own:
:func:`mura_trt.score.score` lists, supervises, keeps its ledger, commits each shard with fsync, checks what was
committed, writes the tables, and goes on with a run that is there. Two ends are played. The walk through the archive's
folders gives names in MURA's layout of files that are nowhere (what a walk through real ones costs is measured apart,
on empty files); and the worker answers with rows made from the views' numbers, in this process (``played``) or in a
process of its own behind the real transport, on another core (``process``) or on the supervisor's (``one core``). Each
case has a new process on one core, whose memory is the kernel's VmHWM, begun anew at each stage.
"""

from __future__ import annotations

import functools
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import numpy as np
import typer
from numpy.typing import NDArray

import mura_trt.score
from benchmarks.measuring import finish
from benchmarks.played import PlayedWorker, answer
from mura_trt import worker
from mura_trt.archives import folder, list_archive
from mura_trt.bench.processes import in_fresh_process
from mura_trt.crew import Inbox
from mura_trt.demo.anatomy import BODY_PARTS
from mura_trt.earlier import hashes_of
from mura_trt.processes import work_for
from mura_trt.results import OutputFolder
from mura_trt.rows import Failure, Rows, Task, scores_of
from mura_trt.score_options import ScoreOptions
from mura_trt.supervisor import Supervisor
from mura_trt.workerprocess import WorkerProcess

# MURA v1.1: 40,561 views in 14,863 studies of 12,173 patients; a study has 1 to 13 views.
VIEWS_PER_STUDY, MOST_VIEWS, STUDIES_PER_PATIENT = 40_561 / 14_863, 13, 14_863 / 12_173
FAILED_EVERY, COLORED_EVERY = 1000, 20  # views
BATCH = 256
MOST_FILES = 100_000  # that are made


def keys(views: int) -> Iterator[bytes]:
    """Names of that many views in MURA's layout, as a walk through its folders gives them."""
    rng = np.random.default_rng(0)
    patient = given = 0
    for at, part in enumerate(BODY_PARTS, start=1):
        while given < views * at // len(BODY_PARTS):
            patient += 1
            for study in range(1, 2 + int(rng.random() < STUDIES_PER_PATIENT - 1)):
                label = "positive" if rng.random() < 0.4 else "negative"
                for image in range(1, 1 + min(MOST_VIEWS, 1 + rng.poisson(VIEWS_PER_STUDY - 1), views - given)):
                    yield b"XR_%s/patient%05d/study%d_%s/image%d.png" % (
                        part.encode(),
                        patient,
                        study,
                        label.encode(),
                        image,
                    )
                    given += 1


def logits(views: NDArray[np.int64]) -> NDArray[np.float32]:
    """What the worker answers; probabilities are their sigmoids."""
    return np.asarray(np.sin(views * 0.7) * 4, np.float32)


def rows_of(task: Task) -> Rows:
    """What the worker answers to a task."""
    views = np.arange(task.start, task.stop)
    failed = views % FAILED_EVERY == FAILED_EVERY // 2
    scored, lost = views[~failed], views[failed]
    logit = logits(scored)
    scores = scores_of(logit, 1 / (1 + np.exp(-logit)), scored % COLORED_EVERY == 0)
    return Rows(
        task.start, task.stop, scored, scores, [Failure(view, "read", "ENOENT", "gone") for view in lost.tolist()]
    )


def rows_at_once(message: worker.Assignment) -> Rows:
    """What workers answer."""
    return rows_of(message.task)


def played(_config: worker.WorkerConfig, inbox: Inbox) -> PlayedWorker:
    """In place of a worker process."""
    return PlayedWorker(inbox, rows_at_once, BATCH)


def answer_at_once(connection: Connection, _config: worker.WorkerConfig, supervisor: int) -> None:
    """A process that gives rows at once: :func:`mura_trt.worker.main` without an archive, a decoder and an engine."""
    work_for(supervisor)
    answer(connection, rows_at_once, BATCH)


def answer_beside(connection: Connection, config: worker.WorkerConfig, supervisor: int) -> None:
    """The same on the cores that the supervisor leaves, where there are any."""
    if others := set(range(os.cpu_count() or 1)) - os.sched_getaffinity(0):
        os.sched_setaffinity(0, others)
    answer_at_once(connection, config, supervisor)


WORKERS: dict[str, Callable[[Any, Any], Any]] = {
    "played": played,
    "process": functools.partial(WorkerProcess, target=answer_beside),
    "one core": functools.partial(WorkerProcess, target=answer_at_once),
}


@dataclass(frozen=True)
class Case:
    """A run to be measured."""

    views: int
    worker: str = "played"
    """One of ``WORKERS``."""
    shard_views: int = 2048
    table_format: str = "csv"


class Meter:
    """Seconds, seconds of CPU and peak memory of stages."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, float]] = {}

    @contextmanager
    def measuring(self, stage: str) -> Iterator[None]:
        """Measures what is done within."""
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew: proc(5)
        began, cpu = time.monotonic(), time.process_time()
        yield
        self.stages[stage] = {
            "s": round(time.monotonic() - began, 3),
            "cpu_s": round(time.process_time() - cpu, 3),
            "peak_mb": peak_mb(),
        }

    def over(self, owner: object, name: str, stage: str) -> Any:
        """A patch that measures ``owner.name``."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def measured(*args: Any, **named: Any) -> Any:
            with self.measuring(stage):
                return original(*args, **named)

        return mock.patch.object(owner, name, measured)


def peak_mb() -> float:
    """VmHWM of this process in 10^6 bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return round(int(found[1]) * 1024 / 1e6, 1)


def run(case: Case, engine: Path, out: Path, resume: bool) -> dict[str, Any]:
    """A run, or one that finds all of it committed, in a process of its own."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    meter = Meter()
    options = ScoreOptions(
        out.parent,
        engine,
        out,
        shard_views=case.shard_views,
        table_format=case.table_format,
        resume=resume,
        allow_unproven=True,
    )
    with ExitStack() as patches:
        for patch in (
            mock.patch.object(folder, "_walk", return_value=keys(case.views)),
            mock.patch.object(mura_trt.score, "WorkerProcess", WORKERS[case.worker]),
            meter.over(mura_trt.score, "list_archive", "list"),
            meter.over(OutputFolder, "write_hashes", "hashes"),
            meter.over(mura_trt.score, "Ledger", "take_up"),
            meter.over(Supervisor, "run", "supervise"),
            meter.over(OutputFolder, "outcome", "outcome"),
            meter.over(OutputFolder, "write_tables", "tables"),
        ):
            patches.enter_context(patch)
        told = mura_trt.score.score(options)
    assert told["scored"] + told["failed"] == told["listed"] == case.views
    return {
        "studies": told["studies"],
        "views_per_s": told["views_per_s"],
        "wall_s": told["wall_s"],
        "peak_mb": max(stage["peak_mb"] for stage in meter.stages.values()),
        "stages": meter.stages,
    }


def measure(case: Case, work: Path) -> dict[str, Any]:
    """A run and one that goes on with it, and what they leave on the disk; ``work`` holds an engine bundle."""
    with tempfile.TemporaryDirectory(dir=work) as name:
        out = Path(name) / "out"
        fresh = in_fresh_process(run, case, work / "engine", out, False)
        shards = [path.stat().st_size for path in (out / "shards").iterdir()]
        tables = sum(path.stat().st_size for path in out.glob(f"*.{case.table_format}"))
        again = in_fresh_process(run, case, work / "engine", out, True)
    return {
        **asdict(case),
        **fresh,
        "shards": len(shards),
        "shards_mb": round(sum(shards) / 1e6, 3),
        "tables_mb": round(tables / 1e6, 3),
        "resumed": again,
    }


def walk(archive: Path) -> dict[str, Any]:
    """Lists and stamps an archive's files, on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    meter = Meter()
    with meter.measuring("list"):
        listing = list_archive(archive)
    with meter.measuring("hashes"):
        hashes_of(listing)
    return meter.stages


def measure_walk(views: int, work: Path) -> dict[str, Any]:
    """What so many empty files cost that are listed and stamped, just made and so in the kernel's caches."""
    with tempfile.TemporaryDirectory(dir=work) as name:
        for key in keys(views):
            path = Path(name, key.decode())
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return {"views": views, "stages": in_fresh_process(walk, Path(name))}


def middle(rounds: list[Any]) -> Any:
    """The median of each number in results of the same form."""
    first = rounds[0]
    if isinstance(first, dict):
        return {name: middle([one[name] for one in rounds]) for name in first}
    return statistics.median_low(rounds) if isinstance(first, int | float) else first


def cases(views: int) -> list[Case]:
    """As a GPU's run has it, and with one thing changed at a time."""
    return [
        Case(views),
        Case(views, table_format="parquet"),
        Case(views, shard_views=256),
        Case(views, worker="process"),
        Case(views, worker="one core"),
    ]


def main(
    views: Annotated[str, typer.Option(help="How many, one after another.")] = "10000,100000,1000000",
    rounds: Annotated[int, typer.Option(help="Of all cases, one after another.")] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the result.")] = None,
) -> None:
    """Measures and prints."""
    from benchmarks.feed import make_bundle

    sizes = [int(count) for count in views.split(",")]
    all_cases = [case for count in sizes for case in cases(count)]
    found, walks = [], []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        make_bundle(work / "engine")
        for _ in range(rounds):
            found.append([measure(case, work) for case in all_cases])
            walks.append([measure_walk(count, work) for count in sizes if count <= MOST_FILES])
    result = {
        "rounds": rounds,
        "cases": [
            {**middle(list(runs)), "views_per_s_of_rounds": [one["views_per_s"] for one in runs]}
            for runs in zip(*found, strict=True)
        ],
        "walks": [middle(list(runs)) for runs in zip(*walks, strict=True)],
    }
    finish(result, json_file)


if __name__ == "__main__":
    typer.run(main)

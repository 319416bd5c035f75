"""What a disk may do to a run: refuse any operation, or forget at a power cut what was not synced."""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path
from typing import Any

from benchmarks.soak.simulated_disk import Disk, watched
from benchmarks.soak.small_runs import Runs, tables
from mura_trt.errors import MuraTrtError
from mura_trt.progress import Progress
from mura_trt.shards import read_shard

Operation = tuple[Any, ...]


def refuse_each(work: Path, engine: Path, step: int = 1) -> dict[str, int]:
    """ENOSPC and EIO at every operation, one a run; each run is gone on with and must end in the same bytes.

    Parameters
    ----------
    work
        Folder for archive and runs.
    engine
        Engine bundle.
    step
        2 refuses every second one.

    Raises
    ------
    AssertionError
        Something was lost, doubled or half written, or a run ended as if nothing had happened.
    """
    runs = Runs(work, engine)
    counts = {"refusals": 0, "operations": 0, "operations_of_an_update": 0}
    for update in (False, True):
        for code in (errno.ENOSPC, errno.EIO):
            number = 0
            while _refuse_one(runs, work / f"out-{update}-{code}-{number}", update, code, number):
                number += step
            counts["operations_of_an_update" if update else "operations"] = number
            counts["refusals"] += number // step
    return counts


def _refuse_one(runs: Runs, out: Path, update: bool, code: int, number: int) -> str:
    """Refuses the operation of that number, of a run that begins or updates another; says which it was."""
    runs.grow(False)
    whole = [runs.expected]
    if update:
        runs.run(out, lambda _: None)
        runs.grow(True)
        whole.append(runs.expected)
    seen, refused = 0, ""

    def see(kind: str, path: str, *_: object) -> None:
        nonlocal seen, refused
        if kind == "content":
            return
        seen += 1
        if seen == number + 1:
            refused = f"{kind} {Path(path).name}"
            raise OSError(code, os.strerror(code))

    with watched(out, see):
        try:
            runs.run(out, lambda _: None, update)
        except (MuraTrtError, OSError):
            assert refused, "a run failed with no operation refused"
        else:
            assert not refused or refused.startswith("remove"), f"nobody noticed that {refused} was refused"
    for name, content in tables(out).items():
        assert content in [expected[name] for expected in whole], f"{refused}: half a table"
    if (out / "run.json").exists():
        assert tables(out) in whole, f"{refused}: the run looks whole"
    runs.run(out, lambda _: None, update)
    assert tables(out) == runs.expected, f"{refused}: other tables when gone on with"
    shutil.rmtree(out)
    return refused


def cut_power(work: Path, engine: Path, cuts: int, seed: int = 0) -> dict[str, int]:
    """Cuts the power at random moments of runs and of runs that go on; each must end in the same bytes.

    Half of them update one another while the archive grows and shrinks.

    Raises
    ------
    AssertionError
        What was committed is gone or damaged, or tables differ.
    """
    runs, rng = Runs(work, engine), random.Random(seed)
    counts = {"cuts": 0, "committed_views_found_again": 0, "updates": 0}
    before = work / "disk"
    while counts["cuts"] < cuts:
        shutil.rmtree(before, ignore_errors=True)
        before.mkdir()
        update = rng.random() < 0.5
        runs.grow(False)
        for _ in range(rng.randint(1, 4)):  # in a row
            if update:
                runs.grow(rng.random() < 0.5)
            log: list[Operation] = []
            disk = Disk(before)

            def see(*operation: Any, log: list[Operation] = log) -> None:
                log.append(operation)

            def report(progress: Progress, log: list[Operation] = log) -> None:
                log.append(("committed", progress.scored + progress.failed))

            with watched(before / "out", see):
                runs.run(before / "out", report, update)
            committed = 0
            for operation in log[: rng.randint(0, len(log))]:
                if operation[0] == "committed":
                    committed = operation[1]
                else:
                    disk.do(*operation)
            after = work / "after"
            disk.after_cut(before, after, rng)
            shutil.rmtree(before)
            after.rename(before)
            counts["cuts"] += 1
            counts["updates"] += update
            if update:  # which puts aside what is committed
                continue
            counts["committed_views_found_again"] += committed
            shards = [read_shard(path) for path in (before / "out/shards").glob("*.json")]
            found = sum(rows.stop - rows.start for rows in shards)
            assert found >= committed, f"{committed} views were committed, and {found} are there after the cut"
            if (before / "out/run.json").exists():
                assert tables(before / "out") == runs.expected, "a run looks whole and is not"
        runs.run(before / "out", lambda _: None, update)
        assert tables(before / "out") == runs.expected, "other tables after a cut"
    return counts

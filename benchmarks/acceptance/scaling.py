"""Whether decoding is held up by Python's lock or by the cores: processes with a lock each, and threads with one."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.acceptance.work import Work
from benchmarks.nightly.reference import Load, Turns
from mura_trt import gray
from mura_trt.bench.alone import decode_rate, in_batches, read_batches
from mura_trt.cores import usable_cores
from mura_trt.host_decode import open_decoder

SIZE = 320, 320
FILES = 32  # of all over the archive, again and again
SECONDS = 1.2  # that each figure is taken over, about
LEAST_BATCHES = 4  # behind the first one, so that three are under way at a time
BATCH, LARGE_BATCH = 64, 256  # of most sessions on a GPU, and of torch_fused


def decode_scaling(work: Work) -> dict[str, Any]:
    """Our C in processes of one thread, by how many; then all of the decoder, by its threads, in batches.

    Where the processes keep their rate as they become more and the threads do not, Python's lock is what holds the
    threads up, or handing files over to them: fewer cores are busy than there are threads, and they wait more often.
    Where the processes get slower, too, and a view takes more CPU time, the cores share something.
    """
    if not gray.available():
        return {"left_out": "the C code was not built here"}
    cores, paths = usable_cores(), sorted(work.png.rglob("*.png"))
    paths = paths[:: max(1, len(paths) // FILES)][:FILES]
    found: dict[str, Any] = {}
    for processes in shares(cores, 2):
        found[f"processes {processes}"] = of_processes(paths, processes, SECONDS)
    alone = found["processes 1"]["views_per_s"]
    for threads, batch in [*((threads, BATCH) for threads in shares(cores, 4, 2)), (cores, LARGE_BATCH)]:
        views = int(alone * threads * SECONDS)
        found[f"threads {threads}, batches of {batch}"] = of_threads(paths, threads, batch, views)
    return found


def shares(cores: int, *parts: int) -> list[int]:
    """One core, these parts of the cores, and all of them; each number once."""
    return sorted({1, cores, *(max(1, cores // part) for part in parts)})


def drawing(paths: Sequence[Path]) -> Load:
    """Decodes files by :mod:`mura_trt.gray`, in the order that they are given in.

    Pixels are new with each batch, as the decoder has them, for what is freed decides what the C library's allocator
    keeps: into one array again and again, a fifth of the CPU time goes into page faults.
    """
    files = [path.read_bytes() for path in paths]

    def work(seconds: float) -> int:
        began, views = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            if views % BATCH == 0:
                pixels = np.empty((BATCH, *SIZE), np.uint8)
            data = files[views % len(files)]
            how = gray.layout(data)
            assert how is not None
            assert gray.draw(data, how, pixels[views % BATCH])
            views += 1
        return views

    return work


def of_processes(paths: Sequence[Path], processes: int, seconds: float) -> dict[str, float]:
    """Views/s of all processes together, and microseconds of CPU time a view."""
    with Turns(processes, drawing, paths) as turns:
        turns.turn(seconds / 10)
        pace = turns.turn(seconds)
    return {"views_per_s": round(pace.wall, 1), "cpu_us": round(1e6 / pace.cpu, 1)}


def of_threads(paths: Sequence[Path], threads: int, batch: int, views: int) -> dict[str, float]:
    """How the decoder does so many views, in whole batches, files read by the thread that feeds it.

    Returns
    -------
    ``views_per_s``, the first batch not counted; and with it, of the whole process: ``user_us`` and ``system_us``,
    microseconds of CPU time a view; ``cores_busy``, CPU time by time; ``waits`` and ``faults``, voluntary context
    switches and minor page faults a view.
    """
    views = max(LEAST_BATCHES, views // batch) * batch
    many = list(islice(cycle(paths), views))
    with closing(open_decoder(SIZE, threads, batch)) as decoder:
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        rate = decode_rate(decoder, read_batches(in_batches(many, batch)))
        after, taken = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - began
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    decoded = views + batch  # which in_batches gives once more
    return {
        "views_per_s": round(rate, 1),
        "user_us": round(user / decoded * 1e6, 1),
        "system_us": round(system / decoded * 1e6, 1),
        "cores_busy": round((user + system) / taken, 2),
        "waits": round((after.ru_nvcsw - before.ru_nvcsw) / decoded, 3),
        "faults": round((after.ru_minflt - before.ru_minflt) / decoded, 1),
    }

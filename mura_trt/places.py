"""Where the workers of one machine are put: ``--devices``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from mura_trt.cores import CORES, usable_cores
from mura_trt.cuda_devices import cuda_device_count, room
from mura_trt.errors import UsageError
from mura_trt.memory import memory

AUTO, ALL, CPU = "auto", "all", "cpu"

# Of the workers that share a GPU: each has a Python lock of its own, and with one lock sixteen cores are mostly idle
# (benchmarks/NOTES.md). Eight take some 2 s more to start than one, which must be worth it.
MOST_WORKERS, CORES_A_WORKER, VIEWS_A_WORKER = 8, 2, 4000
# Bytes of a GPU's memory, and of the host's: each of eight took 3.9 GiB and 1.4. Large files take more (readahead).
GPU_BYTES_A_WORKER, HOST_BYTES_A_WORKER = 8 << 30, 3 << 30


class AnyPlace(Protocol):
    """Where one worker works: on this machine or elsewhere. As text, what a user calls it."""

    @property
    def gpu(self) -> int | None:
        """A GPU's number, as the CUDA driver counts those that the worker's process may use; None takes none."""

    @property
    def device(self) -> str | None:
        """``cuda`` or ``cpu``; None where the runtime decides."""

    @property
    def optional(self) -> bool:
        """Whether the run goes on without a worker here, where none can start here and one can elsewhere."""

    def way_out(self, log: Path, /) -> str:
        """Where to look when a worker does not get ready here; ``log`` is its own."""

    def take(self) -> None:
        """Keeps this process to it, before a library is loaded that counts cores or looks for GPUs."""


@dataclass(frozen=True)
class Place:
    """A place on this machine; with none of these, wherever its runtime finds a device."""

    gpu: int | None = None
    """A GPU's number, as the CUDA driver counts those that this process may use."""
    cores: frozenset[int] | None = None
    """The cores that it keeps to; None takes all that it may use."""
    threads: int | None = None
    """Cores that it may use at a time, where these are fewer than ``cores``."""
    shared: bool = False
    """Several workers have such a place, each with cores of its own, and their runtime decides on the device."""

    @property
    def optional(self) -> bool:
        """Whether it is one of several that share a device."""
        return self.shared

    @property
    def device(self) -> str | None:
        """``cuda`` or ``cpu``; None where the runtime decides."""
        if self.gpu is not None:
            return "cuda"
        return None if self.cores is None or self.shared else "cpu"

    def __str__(self) -> str:
        device = {"cuda": f"GPU {self.gpu}", "cpu": "", None: AUTO}[self.device]
        cores = "" if self.cores is None else f"CPU cores {_ranges(self.cores)}"
        return ", ".join(part for part in (device, cores) if part)

    def way_out(self, log: Path) -> str:
        """For who waits in vain for a worker here."""
        return f"see {log}, look at the GPU and the disk"

    def take(self) -> None:
        """Keeps this process to its place, before it loads a library that counts cores or looks for GPUs."""
        if self.cores is not None:
            os.sched_setaffinity(0, self.cores)
        if self.threads is not None:
            os.environ[CORES] = str(self.threads)
        if self.device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""


def places_of(devices: str, most: int = 1) -> list[Place]:
    """The places of ``--devices``, a worker each.

    Workers on the CPU, and several on GPUs, share out the usable cores: disjoint sets of neighbours.

    Parameters
    ----------
    devices
        ``auto``; ``all`` GPUs; GPUs by number, as ``0,2``, once for each worker; or ``cpu``, as ``cpu,cpu``, likewise.
    most
        Workers that may share GPUs with ``auto`` and ``all``, as far as there are cores and memory for them; where they
        do not, a GPU has one.

    Raises
    ------
    UsageError
        It is none of these, or this machine has not got that.
    """
    most = min(most, usable_cores() // CORES_A_WORKER)
    if most > 1 and (free := memory()["available_bytes"]) is not None:
        most = min(most, free // HOST_BYTES_A_WORKER)
    if devices == AUTO:
        workers = _sharing(0, most)
        if workers == 1:
            return [Place()]
        # A quota says how many cores at a time, and not which: others may have the same.
        cores, usable = sorted(os.sched_getaffinity(0)), usable_cores()
        threads = usable // workers if usable < len(cores) else None
        return [Place(cores=share, threads=threads, shared=True) for share in _parts(cores, workers)]
    names = [name.strip() for name in devices.split(",")]
    if set(names) == {CPU}:
        if len(names) > usable_cores():
            raise UsageError(f"--devices: {len(names)} workers on {usable_cores()} usable cores; name cpu less often")
        # One worker alone keeps its run of the machine, as far as affinity and quota go.
        shares = _shares(len(names)) if len(names) > 1 else [frozenset(os.sched_getaffinity(0))]
        return [Place(cores=share) for share in shares]
    gpus = _gpus(devices, names)
    if devices == ALL:
        gpus = [gpu for gpu in gpus for _ in range(_sharing(gpu, most // len(gpus)))]
    shared = 1 < len(gpus) <= usable_cores()
    return [
        Place(gpu, cores) for gpu, cores in zip(gpus, _shares(len(gpus)) if shared else [None] * len(gpus), strict=True)
    ]


def _sharing(gpu: int, most: int) -> int:
    """How many workers share a GPU, 1 or more: so many at the most, as far as its memory goes."""
    most = min(most, MOST_WORKERS)
    return max(1, min(most, room(gpu) // GPU_BYTES_A_WORKER)) if most > 1 else 1


def _gpus(devices: str, names: list[str]) -> list[int]:
    """The numbers of GPUs that are all there."""
    if CPU in names:
        raise UsageError(f"--devices {devices}: results of one run come from one kind of device, GPUs or the CPU")
    if devices != ALL and not all(name.isdecimal() for name in names):
        raise UsageError(f"--devices {devices}: give auto, all, GPUs by number, as 0,1, or cpu, once for each worker")
    there = cuda_device_count()
    if there == 0:
        raise UsageError(f"--devices {devices}: the NVIDIA driver knows of no GPU here; leave it out, or give cpu")
    gpus = list(range(there)) if devices == ALL else [int(name) for name in names]
    for gpu in gpus:
        if gpu >= there:
            raise UsageError(f"--devices {devices}: no GPU {gpu} here; there are {there}, counted from 0")
    return gpus


def _shares(workers: int) -> list[frozenset[int]]:
    """The usable cores in so many sets of neighbours."""
    return _parts(sorted(os.sched_getaffinity(0))[: usable_cores()], workers)


def _parts(cores: list[int], workers: int) -> list[frozenset[int]]:
    """Cores in so many sets of neighbours, which mostly share caches and memory."""
    return [
        frozenset(cores[start:stop])
        for start, stop in pairwise(worker * len(cores) // workers for worker in range(workers + 1))
    ]


def _ranges(numbers: frozenset[int]) -> str:
    """``0-3,8``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)

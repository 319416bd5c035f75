"""What each worker of a cluster takes of its nodes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mura_trt.cores import CORES
from mura_trt.errors import UsageError


@dataclass(frozen=True)
class Node:
    """What a machine of the cluster gives to workers."""

    cpus: int
    gpus: int


@dataclass(frozen=True)
class Share:
    """A place for one worker, on whichever node has room for it."""

    number: int
    """Among the run's workers, from 1."""
    cpus: int
    gpus: float = 0
    """1, or a part of one that several share; 0 has none."""
    optional: ClassVar[bool] = False

    @property
    def gpu(self) -> int | None:
        """The first: Ray lets a worker see its own only."""
        return 0 if self.gpus else None

    @property
    def device(self) -> str:
        """``cuda`` or ``cpu``."""
        return "cuda" if self.gpus else "cpu"

    def __str__(self) -> str:
        gpu = f"{self.gpus:.3g} GPU and " if self.gpus else ""
        return f"place {self.number} of the cluster ({gpu}{self.cpus} CPU{'s' if self.cpus > 1 else ''})"

    def way_out(self, _log: Path) -> str:
        """For who waits in vain for a worker here; an actor's log is Ray's."""
        return "look whether the cluster has room for it, and into Ray's logs on its nodes"

    def take(self) -> None:
        """Keeps this process to as many cores as it was given: Ray counts them, and holds nobody to it."""
        os.environ[CORES] = str(self.cpus)
        if not self.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""


def shares_of(
    nodes: Sequence[Node], workers: int | None, device: str | None, mixed: bool = False, per_gpu: int = 1
) -> list[Share]:
    """A share for each worker, with as many CPUs as there can be for all alike.

    Parameters
    ----------
    nodes
        The cluster's.
    workers
        How many; None takes ``per_gpu`` for each GPU, or where there is none one for each node with CPUs.
    device
        ``cuda`` or ``cpu``; None takes GPUs where there are any.
    mixed
        All GPUs get their workers, and nodes without one get the others: one each, where ``workers`` is None.
    per_gpu
        How many workers share a GPU.

    Raises
    ------
    UsageError
        The cluster has no room for them.
    """
    on_gpus = per_gpu * sum(node.gpus for node in nodes)
    if device == "cuda" and not on_gpus:
        raise UsageError("--devices all: the cluster has no GPU; leave it out, or give cpu")
    if mixed:
        others = [node for node in nodes if node.cpus and not node.gpus]
        with_gpu = min(on_gpus, workers or on_gpus)
        found = _shares(nodes, with_gpu, per_gpu) if with_gpu else []
        without = len(others) if workers is None else workers - with_gpu
        found += _shares(others, without, 0) if without or not found else []
    else:
        on_gpu = on_gpus > 0 and device != "cpu"
        wanted = workers or (on_gpus if on_gpu else sum(node.cpus > 0 for node in nodes))
        found = _shares(nodes, wanted, per_gpu if on_gpu else 0)
    return [Share(number, cpus, gpus) for number, (cpus, gpus) in enumerate(found, 1)]


def _shares(nodes: Sequence[Node], workers: int, per_gpu: int) -> list[tuple[int, float]]:
    """CPUs and GPUs of each of so many, of which ``per_gpu`` share a GPU; with 0 they have none."""

    def room(cpus: int) -> int:
        return sum(min(node.cpus // cpus, node.gpus * per_gpu if per_gpu else node.cpus) for node in nodes)

    most = max((node.cpus for node in nodes), default=0)
    cpus = next((cpus for cpus in range(most, 0, -1) if room(cpus) >= max(workers, 1)), 0)
    if not cpus:
        gpu = f"1/{per_gpu} GPU" if per_gpu > 1 else "a GPU"
        kind = f"with {gpu} and a CPU each" if per_gpu else "with a CPU each"
        raise UsageError(
            f"the cluster has room for {room(1)} workers {kind}, on {len(nodes)} nodes, and {max(workers, 1)} are"
            " wanted; give fewer --workers, or add nodes first"
        )
    return [(cpus, 1 / per_gpu if per_gpu else 0)] * workers

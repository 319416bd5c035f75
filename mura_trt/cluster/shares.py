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
    """1, or less where several workers share a GPU; 0 has none."""
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


def shares_of(nodes: Sequence[Node], workers: int | None, device: str | None, mixed: bool = False) -> list[Share]:
    """A share for each worker, with as many CPUs as there can be for all alike.

    Parameters
    ----------
    nodes
        The cluster's.
    workers
        How many, which share GPUs where there are fewer of these; None takes one for each GPU, or where there is none
        one for each node with CPUs.
    device
        ``cuda`` or ``cpu``; None takes GPUs where there are any.
    mixed
        All GPUs get a worker, and nodes without one get the other workers: one each, where ``workers`` is None.

    Raises
    ------
    UsageError
        The cluster has no room for them.
    """
    gpus = sum(node.gpus for node in nodes)
    if device == "cuda" and not gpus:
        raise UsageError("--devices all: the cluster has no GPU; leave it out, or give cpu")
    if mixed:
        others = [node for node in nodes if node.cpus and not node.gpus]
        with_gpu = min(gpus, workers or gpus)
        found = _shares(nodes, with_gpu, True) if with_gpu else []
        without = len(others) if workers is None else workers - with_gpu
        found += _shares(others, without, False) if without or not found else []
    else:
        on_gpu = gpus > 0 and device != "cpu"
        found = _shares(nodes, workers or (gpus if on_gpu else sum(node.cpus > 0 for node in nodes)), on_gpu)
    return [Share(number, cpus, gpus) for number, (cpus, gpus) in enumerate(found, 1)]


def _shares(nodes: Sequence[Node], workers: int, on_gpu: bool) -> list[tuple[int, float]]:
    """CPUs and GPUs of each of so many."""
    wanted = max(workers, 1)

    def room(cpus: int, a_gpu: int) -> int:
        return sum(min(node.cpus // cpus, node.gpus * a_gpu if on_gpu else node.cpus) for node in nodes)

    # As few on a GPU as will do: one, but where more are wanted than there are GPUs.
    most_a_gpu = wanted if wanted > sum(node.gpus for node in nodes) else 1
    a_gpu = next((several for several in range(1, most_a_gpu) if room(1, several) >= wanted), most_a_gpu)
    most = max((node.cpus for node in nodes), default=0)
    cpus = next((cpus for cpus in range(most, 0, -1) if room(cpus, a_gpu) >= wanted), 0)
    if not cpus:
        each = "with a GPU and a CPU each" if a_gpu == 1 else "with a CPU each beside a GPU"
        kind = each if on_gpu else "with a CPU each"
        raise UsageError(
            f"the cluster has room for {room(1, a_gpu)} workers {kind}, on {len(nodes)} nodes, and {wanted} are"
            " wanted; give fewer --workers, or add nodes first"
        )
    return [(cpus, 1 / a_gpu if on_gpu else 0)] * workers

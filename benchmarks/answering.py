"""The actor of :mod:`benchmarks.cluster`, in a module that nodes can import."""

from __future__ import annotations

from benchmarks.played import answer
from benchmarks.scale import BATCH, rows_at_once
from mura_trt.cluster.actor import END, WorkerActor
from mura_trt.cluster.sight import Sight
from mura_trt.worker import WorkerConfig


class AnsweringActor(WorkerActor):
    """In place of a worker: gives rows at once."""

    def work(self, _config: WorkerConfig, _sight: Sight) -> None:
        """Ends where it is told to stop."""
        answer(self._line, rows_at_once, BATCH)
        self._line.from_worker.put(END)

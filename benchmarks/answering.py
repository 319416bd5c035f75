"""The actor of :mod:`benchmarks.cluster`, in a module that nodes can import."""

from __future__ import annotations

import time

from benchmarks.scale import BATCH, rows_of
from mura_trt.cluster.actor import END, WorkerActor
from mura_trt.cluster.sight import Sight
from mura_trt.worker import Assignment, Done, Ready, WorkerConfig


class AnsweringActor(WorkerActor):
    """In place of a worker: gives rows at once."""

    def work(self, _config: WorkerConfig, _sight: Sight) -> None:
        """Ends where it is told to stop."""
        self._line.send(Ready("null", "cpu", BATCH, []))
        while isinstance(message := self._line.recv(), Assignment):
            began = time.monotonic()
            self._line.send(Done(rows_of(message.task), time.monotonic() - began, {}))
        self._line.from_worker.put(END)

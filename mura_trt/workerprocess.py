"""A worker in a process of this machine."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from mura_trt import worker
from mura_trt.worker import Stop

logger = logging.getLogger(__name__)

END_SECONDS = 10.0  # for a process that is to end, by itself or killed


class Config(Protocol):
    """What a worker works with: whatever its target takes, and a log."""

    @property
    def log(self) -> Path:
        """File that takes what it and the libraries in it print."""


Target = Callable[[Connection, Any, int], None]
"""What runs in the process: takes its end of the connection, its config and this process's id; ends at ``Stop``."""


class WorkerProcess:
    """A :class:`~mura_trt.crew.Handle` of a process, which is started with it.

    Parameters
    ----------
    config
        What the worker works with.
    inbox
        Takes this handle with each message of the worker, and with None when it has died.
    target
        What the worker is: one that scores, if nothing else is said.
    """

    def __init__(self, config: Config, inbox: SimpleQueue[tuple[Any, Any]], target: Target = worker.main) -> None:
        self._log = config.log
        context = multiprocessing.get_context("spawn")  # DALI and CUDA do not survive a fork
        ours, theirs = context.Pipe()
        arguments = (theirs, config, os.getpid())
        self._process = context.Process(target=target, args=arguments, name="mura-trt-worker", daemon=True)
        self._process.start()
        theirs.close()  # or the end of the process would not end the connection
        # A process that hangs neither takes nor gives: threads wait for it, so that nobody else has to.
        self._outbox: SimpleQueue[object] = SimpleQueue()
        threading.Thread(target=self._take, args=(ours, inbox), name="from worker", daemon=True).start()
        threading.Thread(target=_give, args=(ours, self._outbox), name="to worker", daemon=True).start()

    def _take(self, connection: Connection, inbox: SimpleQueue[tuple[Any, Any]]) -> None:
        """Puts into the inbox what the worker says, and None when it has died."""
        try:
            while True:
                inbox.put((self, connection.recv()))
        except (EOFError, OSError):  # OSError where it died in the middle of a message
            inbox.put((self, None))

    def send(self, message: object) -> None:
        """Gives the worker a message; where it has died, the inbox will tell."""
        self._outbox.put(message)

    def last_words(self) -> str:
        """How the process ended, and the last line that it or a library in it printed."""
        self._process.join(timeout=END_SECONDS)
        lines = self._log.read_text(errors="replace").split("\n") if self._log.exists() else []
        last = next((line for line in reversed(lines) if line.strip()), "no word in its log")
        return f"exit code {self._process.exitcode}, {self._log}: {last.strip()}"

    def stop(self, graceful: bool) -> None:
        """Ends the process, by a word or at once, and waits for that; once only."""
        if not graceful:
            self._process.kill()
        self.send(Stop())  # which ends the thread that gives it, too
        self._process.join(timeout=END_SECONDS)
        if self._process.exitcode is None and graceful:
            self._process.kill()
            self._process.join(timeout=END_SECONDS)
        if self._process.exitcode is None:  # it waits for a disk or a device in the kernel, where no signal reaches
            logger.warning("process %d does not end; it will once the kernel lets go of it", self._process.pid)
        else:
            self._process.close()


def _give(connection: Connection, outbox: SimpleQueue[object]) -> None:
    """Gives the worker what is put into the outbox; where it has died, the inbox will tell."""
    with contextlib.suppress(OSError):
        while not isinstance(message := outbox.get(), Stop):
            connection.send(message)
        connection.send(message)

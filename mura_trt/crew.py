"""The workers of a run: started together, told apart, and watched for who is lost."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

from mura_trt.errors import EnvironmentProblem, MuraTrtError
from mura_trt.places import AUTO, AnyPlace
from mura_trt.runtimes import AUTO as IN_ORDER
from mura_trt.runtimes import MIXED
from mura_trt.worker import Assignment, Done, Fatal, Flush, Hungry, Pulse, Ready, Stop, WorkerConfig

logger = logging.getLogger(__name__)

# Seconds after which a worker is taken to hang, by what it is at. A read or a batch's decoding takes a second where
# disk and machine are slow; a batch on a slow engine may take minutes.
PATIENCE = {"read": 45.0, "decode": 45.0, "engine": 600.0}
SILENCE_SECONDS = 45.0  # without any message, of which there is one a second
STARTS = 3  # of each worker at the beginning; what kills one, as a lack of memory, may be over with the next
START_SECONDS = 900.0  # to load libraries and the engine, whose kernels may be compiled for the GPU at first

Message = Ready | Done | Hungry | Pulse | Fatal


class Handle(Protocol):
    """A worker that was started, as its crew sees it: a process of this machine, or whatever else does as much.

    It puts itself and each message of the worker into the crew's inbox, and itself and None when the worker has died.
    None of its methods waits for a worker that hangs.
    """

    def send(self, message: Assignment | Flush | Stop) -> None:
        """Gives the worker a message; where it has died, the inbox will tell."""

    def last_words(self) -> str:
        """How a worker that has died ended, and the last that it said."""

    def stop(self, graceful: bool) -> None:
        """Ends the worker: by ``Stop``, or at once."""


Inbox = SimpleQueue[tuple[Handle, Message | None]]
Hire = Callable[[WorkerConfig, Inbox], Handle]
"""Starts a worker."""


@dataclass(frozen=True)
class Lost:
    """In place of a message: there is no worker any more to count on."""

    hangs: str = ""
    """What it did not come to an end with; empty where it has died."""

    @property
    def blame(self) -> tuple[str, str]:
        """Code and message for the one view that it was lost on."""
        company = "again and again, the last time with no other view at work"
        if self.hangs:
            return "STALLED", f"the worker process hung on this view {company} ({self.hangs})"
        return "DECODER_CRASH", f"the worker process died on this view {company}"


@dataclass
class _Member:
    """A place and who works there just now."""

    number: int
    config: WorkerConfig
    handle: Handle | None = None
    ready: Ready | None = None
    """What it, or whom it replaces, found at its place."""
    starting: bool = False
    due: float = 0.0
    """When patience with it ends: seconds of the monotonic clock."""


class Crew:
    """A worker at each place; a context manager that leaves none behind.

    Parameters
    ----------
    hire
        What starts a worker.
    config
        What each works with, but for its place and its log.
    places
        One for each worker, which is known by its number among them.
    device
        ``cpu`` or ``cuda``, which all must work on; None takes what the first finds.
    mixed
        Each works with the runtime that it finds at its place.
    """

    def __init__(
        self,
        hire: Hire,
        config: WorkerConfig,
        places: Sequence[AnyPlace],
        device: str | None = None,
        mixed: bool = False,
    ) -> None:
        self._hire, self._device = hire, device
        self.mixed = mixed
        self._inbox: Inbox = SimpleQueue()
        self._members = [
            _Member(number, dataclasses.replace(config, place=place, log=_log(config.log, number)))
            for number, place in enumerate(places)
        ]

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exception: object) -> None:
        graceful = exception[0] is None
        with ThreadPoolExecutor(len(self._members)) as threads:  # side by side, for each may take its time
            ends = threads.map(lambda member: self.stop(member.number, graceful and not member.starting), self._members)
        list(ends)  # raises what they raised

    def __len__(self) -> int:
        return len(self._members)

    @property
    def running(self) -> bool:
        """Whether there is any worker; it may have died."""
        return any(member.handle for member in self._members)

    def works(self, number: int) -> bool:
        """Whether a worker can take tasks, as far as is known."""
        member = self._members[number]
        return member.handle is not None and not member.starting

    def ready(self, number: int) -> Ready | None:
        """What a worker, or the one it replaces, found at its place; None where none ever could take tasks."""
        return self._members[number].ready

    def place(self, number: int) -> AnyPlace:
        """Where a worker works."""
        return self._members[number].config.place

    def name(self, number: int) -> str:
        """A worker's name in messages."""
        place, ready = self.place(number), self.ready(number)
        where = f"{place}, node {ready.node}" if ready and ready.node else str(place)
        return "the worker process" if where == AUTO else f"the worker process on {where}"

    def start(self) -> Ready:
        """Starts all workers, waits until they can take tasks, and tells what the best runtime is that one has found.

        Whoever replaces one later works with the same runtime and batch: rows of another runtime must not slip in.
        Where they are mixed, it is told what holds for all: runtime and device ``mixed``, and the largest batch.

        Raises
        ------
        MuraTrtError
            One cannot work at its place, for the reason given, or it died while it started, and did so again; where
            places are optional, all of them.
        """
        self._start(self._members)
        found = [member.ready for member in self._members if member.ready]
        if self.mixed:
            for member, ready in zip(self._members, found, strict=True):
                member.config = dataclasses.replace(member.config, runtime=ready.runtime, batch=ready.batch)
            passed_over = dict.fromkeys(reason for ready in found for reason in ready.passed_over)
            return Ready(MIXED, MIXED, max(ready.batch for ready in found), list(passed_over))
        # Who has found less than others on a device that they share has found no memory left: it says so in the end.
        first = min(found, key=lambda ready: [*IN_ORDER, ready.runtime].index(ready.runtime))
        self._device = first.device
        others = [
            member
            for member in self._members
            if member.ready and (member.ready.runtime, member.ready.batch) != (first.runtime, first.batch)
        ]
        for member in self._members:
            member.config = dataclasses.replace(member.config, runtime=first.runtime, batch=first.batch)
        for member in others:
            self.stop(member.number, graceful=True)
        self._start(others)
        return first

    def _start(self, members: Sequence[_Member]) -> None:
        tries = [0] * len(self._members)
        for member in members:
            self.launch(member.number)
        while any(member.starting for member in self._members):
            number, message = self.receive()
            if isinstance(message, Fatal):
                self._do_without(number, message.error)
            if isinstance(message, Lost):
                how = f"hangs: {message.hangs}" if message.hangs else f"died while starting ({self.last_words(number)})"
                logger.warning("%s %s", self.name(number), how)
                self.stop(number, graceful=False)
                tries[number] += 1
                if tries[number] == STARTS:
                    self._do_without(number, EnvironmentProblem(f"{self.name(number)} {how}"))
                else:
                    self.launch(number)

    def _do_without(self, number: int, problem: MuraTrtError) -> None:
        """Goes on without a worker that cannot start, where its place is optional and there are others; else raises."""
        self.stop(number, graceful=False)
        if not self.place(number).optional or not self.running:
            raise problem
        self._members[number].ready = None  # what it found at first is not what it was to work with
        logger.warning("%s cannot start: %s; the run goes on without it", self.name(number), problem)

    def launch(self, number: int) -> None:
        """Starts a worker; ``receive`` gives its ``Ready``, or that it died first, or why it cannot work."""
        member = self._members[number]
        member.handle = self._hire(member.config, self._inbox)
        member.starting, member.due = True, time.monotonic() + START_SECONDS

    def receive(self) -> tuple[int, Message | Lost]:
        """The next message of any worker, with its number, or that it is lost: it died, or nothing came for long."""
        while True:
            member = min((member for member in self._members if member.handle), key=lambda member: member.due)
            try:
                handle, message = self._inbox.get(timeout=max(0.0, member.due - time.monotonic()))
            except Empty:
                return member.number, self._silent(member)
            for member in self._members:
                if member.handle is handle:  # or it is of one that was replaced
                    member.due = time.monotonic() + SILENCE_SECONDS
                    return member.number, self._understood(member, message)

    def _silent(self, member: _Member) -> Fatal | Lost:
        if not member.starting:
            return Lost(hangs=f"no sign of life for {SILENCE_SECONDS:.0f} s")
        return Fatal(
            EnvironmentProblem(
                f"{self.name(member.number)} did not get ready within {START_SECONDS:.0f} s;"
                f" {member.config.place.way_out(member.config.log)}, then run again with --resume"
            )
        )

    def _understood(self, member: _Member, message: Message | None) -> Message | Lost:
        match message:
            case None:
                return Lost()
            case Pulse(_, stage, seconds) if seconds > PATIENCE.get(stage, float("inf")):
                return Lost(hangs=f"{stage} takes more than {PATIENCE[stage]:.0f} s")
            case Fatal(error) if member.config.place.device:
                return Fatal(type(error)(f"{member.config.place}: {error}"))
            case Ready() as ready:
                if refusal := self._refusal(member.config.place, ready):
                    return Fatal(refusal)
                member.ready, member.starting = ready, False
        return message

    def _refusal(self, place: AnyPlace, ready: Ready) -> MuraTrtError | None:
        """What is wrong with the device that a worker has found."""
        if place.device == "cuda" and ready.device != "cuda":
            passed_over = "".join(f"; {reason}" for reason in ready.passed_over)
            return EnvironmentProblem(f"{place}: {ready.runtime} works on the CPU; give --devices cpu{passed_over}")
        if self._device not in (None, ready.device):
            return EnvironmentProblem(
                f"the run began on {self._device} and its worker now finds only {ready.device}: look at the GPU, then"
                " run again with --resume"
            )
        return None

    def send(self, number: int, message: Assignment | Flush) -> None:
        """Gives a worker a message; where it has died, ``receive`` will tell."""
        handle = self._members[number].handle
        assert handle is not None
        handle.send(message)

    def last_words(self, number: int) -> str:
        """How a worker that has died ended, and the last that it said."""
        handle = self._members[number].handle
        assert handle is not None
        return handle.last_words()

    def stop(self, number: int, graceful: bool) -> None:
        """Ends a worker, where there is one: by a word, or at once."""
        member = self._members[number]
        if member.handle:
            member.handle.stop(graceful)
        member.handle, member.starting = None, False


def _log(first: Path, number: int) -> Path:
    """A log for each, so that a worker's last words are its own: ``worker.log``, ``worker-1.log`` and so on."""
    return first.with_stem(f"{first.stem}-{number}") if number else first

"""Ours and all peers in turns: what is missing is told, each is tuned; then rounds with warm files and with cold."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.catalogue import Choice, Peer
from benchmarks.peers.page_cache import cached_share, evict
from benchmarks.peers.runs import CHECKOUT, Reference, Run, RunFailed, Weights, run_ours, run_peer
from benchmarks.peers.script import views_of
from benchmarks.peers.tuning import Sweep, tune
from mura_trt.bench.spread import spread

GROUP = 3  # peers between one run of ours and the next
# Prints which of the modules named are missing; what lies above one may be missing, too.
MISSING = """
import importlib.util, sys
for name in sys.argv[1:]:
    try:
        missing = importlib.util.find_spec(name) is None
    except ModuleNotFoundError:
        missing = True
    if missing:
        print(name, end=" ")
"""
CUDA = "import torch; print(int(torch.cuda.is_available()))"


def not_there(peer: Peer, python: str = sys.executable) -> str | None:
    """Why a peer cannot run in that environment, and the way out; None where it can."""

    def told(code: str, *words: str) -> str:
        command = [python, "-c", code, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=CHECKOUT).stdout.strip()

    if missing := told(MISSING, *peer.needs):
        return f"not installed ({missing}): pip install -r benchmarks/peers/{peer.requirements}"
    if peer.gpu and told(CUDA) != "1":
        return "needs an NVIDIA GPU that PyTorch sees"
    return None


@dataclass(frozen=True)
class Course:
    """What everybody runs on."""

    short: Path
    """Folder for tuning, some of the views."""
    full: Path
    """Folder for the rounds."""
    weights: Weights
    reference: Reference
    """Of all views."""
    pythons: dict[str, str] = field(default_factory=dict)
    """By peer: the interpreter of an environment of its own."""

    def python(self, peer: Peer) -> str:
        """The peer's interpreter."""
        return self.pythons.get(peer.name, sys.executable)

    def peer(self, peer: Peer, options: Choice, folder: Path) -> Run:
        """One run of a peer."""
        return run_peer(peer, options, folder, self.weights, self.reference, self.python(peer))

    def ours(self) -> Run:
        """One run of ours."""
        return run_ours(self.full, self.weights, self.reference)


@dataclass
class Entry:
    """A peer that takes part."""

    peer: Peer
    sweep: Sweep
    options: Choice
    runs: list[Run] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    """Our rate around each of the runs: the mean of the run before and the one behind."""
    ours_wall: list[float] = field(default_factory=list)
    failed: str = ""

    def record(self) -> dict[str, Any]:
        """For the result; a peer whose scores were off once has no times."""
        told = {"told": self.peer.told, "options": " ".join((*self.peer.base, *self.options))}
        if self.failed:
            return {**told, "failed": self.failed}
        return {**told, **compared(self.ours, self.ours_wall, self.runs)}


def compared(ours: Sequence[float], ours_wall: Sequence[float], runs: Sequence[Run]) -> dict[str, Any]:
    """How many times as fast as a peer's runs ours was around them."""
    return {
        "ours_to_peer": spread([rate / run.views_per_s for rate, run in zip(ours, runs, strict=True)]),
        "ours_to_peer_whole_command": spread([run.wall_s / wall for wall, run in zip(ours_wall, runs, strict=True)]),
        **told_of(runs),
    }


def told_of(runs: Sequence[Run]) -> dict[str, Any]:
    """Rates, whole commands, memory and error of one side's runs."""
    return {
        "views_per_s": spread([run.views_per_s for run in runs]),
        "wall_s": spread([run.wall_s for run in runs]),
        "peak_gb": round(max(run.peak_gb for run in runs), 3),
        "dp_max": float(f"{max(run.dp_max for run in runs):.2g}"),
        "runs": [run.record() for run in runs],
    }


def a_round(course: Course, entries: Sequence[Entry], before_each: Callable[[], None]) -> Iterator[Run]:
    """Every peer once, ours before and behind each group of them; gives our runs.

    Raises
    ------
    RunFailed
        Ours fails. A peer that does is marked, and takes part no more.
    """
    running = [entry for entry in entries if not entry.failed]
    before_each()
    before = course.ours()
    yield before
    for at in range(0, len(running), GROUP):
        group = running[at : at + GROUP]
        for entry in group:
            before_each()
            try:
                entry.runs.append(course.peer(entry.peer, entry.options, course.full))
            except RunFailed as error:
                entry.failed = str(error)
        before_each()
        after = course.ours()
        yield after
        for entry in group:
            if not entry.failed:
                entry.ours.append((before.views_per_s + after.views_per_s) / 2)
                entry.ours_wall.append((before.wall_s + after.wall_s) / 2)
        before = after


def contest(
    course: Course,
    peers: Sequence[Peer],
    rounds: int,
    cold_rounds: int = 0,
    choices: int | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures all of it.

    Parameters
    ----------
    course
        Files, weights and reference.
    peers
        Who takes part.
    rounds, cold_rounds
        How many, with the files in the page cache and out of it.
    choices
        So many of each axis are tried in tuning at the most; None for all.
    report
        Told what came of each step.

    Returns
    -------
    dict
        ``ours``, ``peers`` (by name; with ``not_run`` or ``failed`` in place of times), ``cold`` and ``sweeps``.

    Raises
    ------
    RunFailed
        Ours fails, or its scores are off.
    """
    absent: dict[str, dict[str, Any]] = {}
    entries: list[Entry] = []
    for peer in peers:
        if why := not_there(peer, course.python(peer)):
            absent[peer.name] = {"told": peer.told, "not_run": why}
            continue
        sweep = tune(peer, lambda options, peer=peer: course.peer(peer, options, course.short), choices)  # type: ignore[misc]
        best = sweep.best
        failed = "" if best else next(iter(sweep.failed.values()))
        told = (
            f"{best.views_per_s:.2f} views/s with {' '.join(best.options)}, of {len(sweep.tried)}" if best else failed
        )
        report(f"tuned {peer.name}: {told}")
        entries.append(Entry(peer, sweep, best.options if best else (), failed=failed))
    ours = []
    for number in range(rounds):
        ours += list(a_round(course, entries, lambda: None))
        report(f"round {number + 1} of {rounds}: {_rates(ours, entries)}")
    cold = _cold(course, entries, cold_rounds, report)
    return {
        "ours": told_of(ours) if ours else None,
        "peers": {**{entry.peer.name: entry.record() for entry in entries}, **absent},
        "cold": cold,
        "sweeps": {entry.peer.name: entry.sweep.record() for entry in entries},
    }


def _rates(ours: Sequence[Run], entries: Sequence[Entry]) -> str:
    """Views/s of the last round, in words."""
    rates = {entry.peer.name: "failed" if entry.failed else f"{entry.runs[-1].views_per_s:.2f}" for entry in entries}
    return ", ".join(f"{name} {rate}" for name, rate in {"ours": f"{ours[-1].views_per_s:.2f}", **rates}.items())


def _cold(
    course: Course, entries: Sequence[Entry], rounds: int, report: Callable[[str], None]
) -> dict[str, Any] | None:
    """Rounds before each run of which the files are put out of the page cache."""
    if not rounds:
        return None
    files = views_of(course.full)
    shares: list[float] = []

    def chill() -> None:
        evict(files)
        shares.append(cached_share(files))

    again = [Entry(entry.peer, entry.sweep, entry.options) for entry in entries if not entry.failed]
    ours = []
    for number in range(rounds):
        ours += list(a_round(course, again, chill))
        report(f"cold round {number + 1} of {rounds}: {_rates(ours, again)}")
    return {
        "cached_share_before_a_run": round(max(shares, default=0.0), 4),
        "ours": told_of(ours) if ours else None,
        "peers": {entry.peer.name: entry.record() for entry in again},
    }

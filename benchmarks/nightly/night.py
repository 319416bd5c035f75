"""One night: measures, compares with the nights before, and adds itself to the history."""

from __future__ import annotations

import math
import platform
import statistics
import subprocess
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.nightly import history, parts
from benchmarks.nightly.judge import FASTER, LEARNING, SLOWER, Rule, Verdict, judged, learnt, summary
from benchmarks.nightly.quick import Effort, measure
from mura_trt.bench.machine import machine
from mura_trt.bundle import Bundle
from mura_trt.cores import processor_name, usable_cores
from mura_trt.cuda_devices import cuda_device_count, gpu_kind
from mura_trt.errors import UsageError

SEEN = 0.1  # a slow-down that a night should find: where it would not, it says so


@dataclass(frozen=True)
class NightOptions:
    """What to measure, and what to compare it with."""

    archive: Path
    """Folder of PNG files, as made by ``mura-trt demo``."""
    engine: Path
    """Bundle; the same one every night."""
    history: Path
    """File of the nights before; this one is added to it."""
    quick: bool = False
    """Speed alone."""
    checkpoint: Path | None = None
    """That the bundle was built from: what parity compares with."""
    effort: Effort = field(default_factory=Effort)
    rule: Rule = field(default_factory=Rule)

    def __post_init__(self) -> None:
        if not self.quick and self.checkpoint is None:
            raise UsageError("a whole night compares with PyTorch: add --checkpoint, or --quick for speed alone")
        if not self.archive.is_dir() or next(self.archive.rglob("*.png"), None) is None:
            raise UsageError(f"{self.archive}: no folder with PNG files; make one with: mura-trt demo {self.archive}")
        if not self.history.parent.is_dir():
            raise UsageError(f"{self.history.parent} is no folder; make it, or name another file for the history")

    @property
    def mode(self) -> str:
        """``full`` or ``quick``."""
        return "quick" if self.quick else "full"


def key_of(options: NightOptions) -> dict[str, Any]:
    """What nights must have in common to be compared: machine, what the fixed work runs on, bundle, images and mode."""
    gpu = gpu_kind(0) if cuda_device_count() else None
    sizes = [path.stat().st_size for path in options.archive.rglob("*.png")]
    return {
        "cpu": processor_name(),
        "cores": usable_cores(),
        "gpu": gpu.name if gpu else None,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
        "bundle": Bundle.open(options.engine).sha256,
        "images": [len(sizes), sum(sizes)],
        "mode": options.mode,
    }


def at_once(name: str) -> bool:
    """Whether a figure is an alarm on the first night that it is slower, and not only on the second in a row.

    What a processor works does not hang on what else the machine does as much as how long one waits for it.
    """
    return name.endswith((" cpu", " memory"))


def night(options: NightOptions, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measures one; the record that was added to the history.

    Raises
    ------
    UsageError, BundleError
        What was named cannot be used.
    RuntimeError
        Scoring fails, so that there is nothing to measure.
    """
    began = time.monotonic()
    key = key_of(options)
    records, damaged = history.read(options.history)
    for line in damaged:
        say(line)
    before = history.alike(records, key)
    say("speed ...")
    measured = measure(options.archive, options.engine, options.effort)
    figures, rates = dict(measured.figures), dict(measured.rates)
    others: dict[str, parts.Part] = {}
    if not options.quick:
        assert options.checkpoint is not None
        steps: dict[str, Callable[[], parts.Part]] = {
            "bench": lambda: parts.bench(options.archive, options.engine),
            "parity": lambda: parts.parity(options.archive, options.engine, options.checkpoint or Path()),
            "soak": lambda: parts.soak(options.engine),
        }
        for name, step in steps.items():
            say(f"{name} ...")
            others[name] = step()
            figures |= others[name].figures
            rates |= others[name].rates
    found = {name: summary(rounds) for name, rounds in figures.items()}
    verdicts = judged(found, learnt(before, options.rule), options.rule)
    failures = [part.failure for part in others.values() if part.failure]
    at = _commit()
    failures += alarms(verdicts, before, at)
    record = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": at,
        "key": key,
        "machine": machine(),
        "seconds": round(time.monotonic() - began, 1),
        "failures": failures,
        "figures": {
            name: {
                "value": found[name][0],
                "error": found[name][1],
                **asdict(verdict),
                "rounds": [round(ratio, 6) for ratio in figures[name]],
            }
            for name, verdict in verdicts.items()
        },
        "rates": {name: round(statistics.median(values), 2) for name, values in rates.items()},
        "parts": {
            name: {"seconds": part.seconds, "failure": part.failure, **part.told} for name, part in others.items()
        },
    }
    history.append(options.history, record)
    return record


def alarms(verdicts: Mapping[str, Verdict], before: list[dict[str, Any]], at: str) -> list[str]:
    """In words, the figures that are slower and alarms."""
    last = before[-1] if before else None
    found = []
    for name, verdict in verdicts.items():
        again = last is not None and not last.get("accepted") and last["figures"].get(name, {}).get("state") == SLOWER
        if verdict.state == SLOWER and (at_once(name) or again):
            found.append(f"{slower(name, verdict)}; {commits(name, before, at)}")
    return found


def slower(name: str, verdict: Verdict) -> str:
    """How far a figure is off, against what, and the noise that was seen."""
    assert verdict.noise is not None
    assert verdict.bound is not None
    return (
        f"{name}: {100 * verdict.slowdown:.1f} % slower than the median of {verdict.nights} nights; the noise of a"
        f" night is {100 * verdict.noise:.1f} %, and up to {100 * math.expm1(verdict.bound):.1f} % would be no alarm"
    )


def commits(name: str, before: list[dict[str, Any]], at: str) -> str:
    """Between which commits it happened."""
    good = [
        record
        for record in before
        if record.get("accepted") or (not record["failures"] and record["figures"].get(name, {}).get("state") != SLOWER)
    ]
    then = f"last good {good[-1]['commit'] or 'unknown'} of {good[-1]['date'][:10]}" if good else "no good one before"
    return f"{then}, this one {at or 'unknown'}"


def outcome(record: Mapping[str, Any]) -> list[str]:
    """What a night has to say, a line each: the first is the verdict."""
    verdicts = {
        name: Verdict(**{one: said[one] for one in Verdict.__dataclass_fields__})
        for name, said in record["figures"].items()
    }
    told = {failure.partition(":")[0] for failure in record["failures"]}
    notes = []
    for name, verdict in verdicts.items():
        if verdict.state == SLOWER and name not in told:
            notes.append(f"suspected, an alarm if the next night finds it, too: {slower(name, verdict)}")
        elif verdict.state == FASTER:
            notes.append(f"{name}: {-100 * verdict.slowdown:.1f} % less time; three such nights are the new level")
        elif verdict.bound is not None and verdict.bound > math.log1p(SEEN):
            allowed = 100 * math.expm1(verdict.bound)
            notes.append(f"{name}: so noisy that up to {allowed:.0f} % slower would be no alarm")
    learning = [verdict.nights for verdict in verdicts.values() if verdict.state == LEARNING]
    if record["failures"]:
        head = f"ALARM: {len(record['failures'])} of this night's findings"
    elif learning:
        head = f"learning: {min(learning) + 1} nights are kept; with {Rule().nights} before it, a night is judged"
    else:
        head = "good: nothing is an alarm"
    return [head, *record["failures"], *notes]


def _commit() -> str:
    """What the checkout is at, with a plus where files differ from it; empty where it is none."""

    def git(*arguments: str) -> str:
        where = Path(__file__).parent
        return subprocess.run(
            ["git", *arguments], cwd=where, capture_output=True, text=True, check=False
        ).stdout.strip()

    return git("rev-parse", "HEAD")[:12] + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")

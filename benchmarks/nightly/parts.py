"""What a whole night does besides :mod:`benchmarks.nightly.quick`: bench, parity and a short soak, all commands."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mura_trt.errors import EXIT_DISAGREES

LIMIT_SECONDS = 900  # then it hangs: several times what each takes on two cores with nothing else to do
PARITY_STUDIES = 16
SOAK = ("--only", "power_cuts", "--only", "kills", "--kills", "8", "--views", "2000")


@dataclass(frozen=True)
class Part:
    """How a part of the night ended."""

    failure: str | None
    """What is wrong, in words; None where nothing is."""
    seconds: float
    figures: dict[str, list[float]] = field(default_factory=dict)
    """By name, ratios to what was measured in the same rounds; more is better."""
    rates: dict[str, list[float]] = field(default_factory=dict)
    """By name, views a second."""
    told: dict[str, Any] = field(default_factory=dict)
    """What else is kept of it."""


def bench(archive: Path, engine: Path) -> Part:
    """``mura-trt bench``, without its sweep."""
    options = ("--no-sweep", "--rounds", "5", "--json")
    found, failure, seconds = _told(
        "bench", ["mura_trt", "bench", str(archive), "--engine", str(engine), *options], LIMIT_SECONDS
    )
    if failure:
        return Part(failure, seconds)
    figures, rates = figures_of(found)
    return Part(None, seconds, figures, rates, {"reference": found.get("reference")})


def figures_of(found: Mapping[str, Any]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Of what ``bench`` tells: the ratios that are judged, and rates to be shown.

    Memory is judged as views a byte of the peak, so that more is better here, too.
    """
    figures: dict[str, list[float]] = {}
    rates = {"decode only": found["decode_only"]["views_per_s"]["rounds"]}
    for runtime, said in found["model_only"].items():
        rates[f"{runtime} model only"] = said["views_per_s"]["rounds"]
        if said.get("sgemm_share"):  # a GPU has none
            figures[f"{runtime} model to sgemm"] = said["sgemm_share"]["rounds"]
    for runtime, said in found["end_to_end"].items():
        rates[f"{runtime} end to end"] = said["views_per_s"]["rounds"]
        alone = "to_decode_only" if runtime == "null" else "to_model_only"
        if said.get(alone):
            figures[f"{runtime} end to end {alone.replace('_', ' ')}"] = said[alone]["rounds"]
        if said.get("peak_memory_bytes"):
            figures[f"{runtime} memory"] = [1e9 / said["peak_memory_bytes"]]
    return figures, rates


def parity(archive: Path, engine: Path, checkpoint: Path) -> Part:
    """``mura-trt parity`` on some studies; the bundle's bounds decide."""
    options = ("--checkpoint", str(checkpoint), "--studies", str(PARITY_STUDIES), "--json")
    found, failure, seconds = _told(
        "parity", ["mura_trt", "parity", str(engine), str(archive), *options], LIMIT_SECONDS, (0, EXIT_DISAGREES)
    )
    if failure:
        return Part(failure, seconds)
    missed = [
        f"{figure['level']}.{figure['name']} is {figure['value']}, and its bound {figure['bound']}"
        for figure in found["figures"]
        if figure.get("kept") is False
    ]
    return Part("parity: " + "; ".join(missed) if missed else None, seconds, told={"figures": found["figures"]})


def soak(engine: Path) -> Part:
    """Some kills and power cuts of ``python -m benchmarks.soak``."""
    with tempfile.TemporaryDirectory() as work:
        command = ["benchmarks.soak", work, "--engine", str(engine), *SOAK]
        found, failure, seconds = _told("soak", command, LIMIT_SECONDS)
    found.pop("machine", None)
    return Part(failure, seconds, told=found)


def _told(
    part: str, module: Sequence[str], limit: float, well: Sequence[int] = (0,)
) -> tuple[dict[str, Any], str | None, float]:
    """The JSON that a module prints, what is wrong with how it ended, and how long it took."""
    began = time.monotonic()
    found: dict[str, Any] = {}
    command = [sys.executable, "-m", *module]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        failure: str | None = f"{part}: did not end within {limit} s"
    else:
        failure = None
        if done.returncode not in well:
            words = done.stderr.strip() or done.stdout.strip()
            failure = f"{part}: ended with exit code {done.returncode}: {words[-500:]}"
        else:
            found = json.loads(done.stdout)
    return found, failure, round(time.monotonic() - began, 1)

"""The batch that a GPU is fastest with: plans of several sizes, built, measured in turns, and one of them chosen."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from mura_trt.bundle import FILES, Bundle, Manifest
from mura_trt.contract import InputContract
from mura_trt.errors import EnvironmentProblem, RuntimeUnavailable
from mura_trt.plan import BUILDERS
from mura_trt.runtimes import Pixels, Session, SessionOptions, open_session

BATCHES = (16, 32, 64, 128, 256)
WITHIN = 0.02  # of the best rate; a smaller batch takes less memory and makes its first views wait less
ROUNDS = 7
VIEWS = 1024  # a timing takes batches enough for so many

logger = logging.getLogger(__name__)

Rates = Mapping[int, float | None]
"""Batch -> views per second; None where it does not fit on the GPU."""


class Swept(NamedTuple):
    """The plan that a sweep chose."""

    plan: Path
    built: dict[str, Any]
    """The manifest's ``builder`` entry, with all that was measured as ``sweep``."""


def chosen(rates: Rates, within: float = WITHIN) -> int:
    """The smallest batch whose rate is within a share of the best one.

    Raises
    ------
    EnvironmentProblem
        No batch has a rate.
    """
    measured = {batch: rate for batch, rate in rates.items() if rate is not None}
    if not measured:
        raise EnvironmentProblem(f"none of the plans for batches of {', '.join(map(str, rates))} runs on this GPU")
    least = (1 - within) * max(measured.values())
    return min(batch for batch, rate in measured.items() if rate >= least)


def sweep(
    build: Callable[[int, Path], dict[str, Any]],
    manifest: Manifest,
    scratch: Path,
    measure: Callable[[Sequence[Bundle]], Rates] | None = None,
) -> Swept:
    """Builds a plan for each of ``BATCHES``, measures them, and takes one.

    Parameters
    ----------
    build
        Takes views in a batch and a plan's path; writes the plan and returns the manifest's ``builder`` entry.
    manifest
        Of the bundle that the plan is for.
    scratch
        A folder for the plans.
    measure
        Takes bundles that hold a plan and nothing else; without it, they are measured on the GPU.

    Raises
    ------
    EnvironmentProblem
        A plan could not be built, or none runs.
    """
    bundles = {}
    for batch in BATCHES:
        folder = scratch / f"batch-{batch}"
        folder.mkdir()
        built = build(batch, folder / FILES["plan"])
        bundles[batch] = Bundle(folder, replace(manifest, builder=built), "")
    rates = (measure or measured_rates)(list(bundles.values()))
    best = chosen(rates)
    told = ", ".join(f"{batch}: {'does not run' if rate is None else f'{rate:.0f}'}" for batch, rate in rates.items())
    logger.info("views per second by batch: %s; taken: %d", told, best)
    entry = {str(batch): None if rate is None else round(rate, 1) for batch, rate in rates.items()}
    return Swept(bundles[best].path("plan"), {**(bundles[best].manifest.builder or {}), "sweep": entry})


def measured_rates(bundles: Sequence[Bundle]) -> Rates:
    """Views per second of each bundle's session on this machine's GPU, by its batch."""
    rates: dict[int, float | None] = {}
    sessions: list[Session] = []
    try:
        for bundle in bundles:
            built = bundle.manifest.builder or {}
            rates[built["batch"][1]] = None
            try:
                sessions.append(open_session(BUILDERS[built["name"]], bundle, SessionOptions())[0])
            except RuntimeUnavailable as error:
                logger.warning("a batch of %d is left out: %s", built["batch"][1], error)
        rates |= {
            session.batch: rate for session, rate in zip(sessions, timed(sessions, bundles[0].contract), strict=True)
        }
    finally:
        for session in reversed(sessions):  # a GPU's context is a stack
            session.close()
    return rates


def timed(
    sessions: Sequence[Session], contract: InputContract, rounds: int = ROUNDS, views: int = VIEWS
) -> list[float]:
    """Views per second of each session, kept busy, copies to and from the device included: the median of some rounds.

    The sessions take turns, so that a clock or a neighbour that changes in between does so for all of them.
    """
    noise = np.random.default_rng(0)
    shape = contract.height, contract.width, contract.channels
    pixels = [noise.integers(0, 256, (session.batch, *shape), np.uint8) for session in sessions]
    seconds: list[list[float]] = [[] for _ in sessions]
    for number in range(rounds + 1):  # the first round warms up
        for session, images, times in zip(sessions, pixels, seconds, strict=True):
            repeats = math.ceil(views / session.batch)
            taken = busy_seconds(session, images, repeats)
            if number:
                times.append(taken / (repeats * session.batch))
    return [1 / median(times) for times in seconds]


def busy_seconds(session: Session, images: Pixels, batches: int) -> float:
    """How long a session takes for so many batches of the same pixels, with as many pending as it may have."""
    started = time.perf_counter()
    for _ in range(batches):
        if not session.room:
            session.collect()
        session.submit(images)
    while session.pending:
        session.collect()
    return time.perf_counter() - started

"""Batches and threads tried in turns, for the model alone and for decoding alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from mura_trt.bench.alone import ModelRate
from mura_trt.bench.rounds import DECODE_BATCH, Report, Subject
from mura_trt.bench.spread import spread
from mura_trt.cores import usable_cores
from mura_trt.errors import MuraTrtError

ROUNDS = 3
SHARE = 0.2  # of the seconds of a run of score
CPU_BATCHES, GPU_BATCHES, DECODE_BATCHES = (1, 2, 4, 8, 16), (16, 32, 64, 128, 256), (16, 64, 256)


class Way(NamedTuple):
    """One setting of what is tried."""

    subject: str | None
    """A runtime; None is decoding."""
    setting: dict[str, int]
    """As JSON has it."""
    take: Callable[[], float]
    """Measures views/s once."""


def sweep(subject: Subject, report: Report) -> dict[str, Any]:
    """Tries batches with all cores, and numbers of cores with the usual batch, all in turns.

    Returns
    -------
    ``model_only`` by runtime and ``decode_only``, each ``best`` (the setting of the highest median) and ``tried``: a
    list of settings, each with ``views_per_s`` or, where it does not work, the ``problem``.
    """
    ways = [way for model in subject.models for way in _of_model(subject, model)] + list(_of_decoding(subject))
    rates: list[list[float]] = [[] for _ in ways]
    problems: dict[int, str] = {}
    for turn in range(1, ROUNDS + 1):
        for number, way in enumerate(ways):
            if number in problems:
                continue
            report(f"sweep, round {turn} of {ROUNDS}: {_told(way)}")
            try:
                rates[number].append(way.take())
            except MuraTrtError as error:  # no memory for the batch, or a plan that is for others
                problems[number] = str(error)
    tried: dict[str | None, list[dict[str, Any]]] = {}
    for number, way in enumerate(ways):
        found = {"problem": problems[number]} if number in problems else {"views_per_s": spread(rates[number])}
        tried.setdefault(way.subject, []).append({**way.setting, **found})
    return {
        "rounds": ROUNDS,
        "model_only": {model.runtime: _summed(tried[model.runtime]) for model in subject.models},
        "decode_only": _summed(tried[None]),
    }


def _of_model(subject: Subject, model: ModelRate) -> Iterator[Way]:
    seconds = SHARE * subject.options.seconds
    if model.device == "cpu":
        for cores, batch in _crossed(CPU_BATCHES, model.batch):
            # Nothing keeps it to cores where it may have all.
            few = cores if cores < usable_cores() else None
            take = partial(subject.model, model, seconds, batch, few)
            yield Way(model.runtime, {"cores": cores, "batch": batch}, take)
    else:
        for batch in sorted({*GPU_BATCHES, model.batch}):
            yield Way(model.runtime, {"batch": batch}, partial(subject.model, model, seconds, batch))


def _of_decoding(subject: Subject) -> Iterator[Way]:
    for threads, batch in _crossed(DECODE_BATCHES, DECODE_BATCH):
        take = partial(subject.decode, SHARE * subject.options.seconds, threads, batch)
        yield Way(None, {"threads": threads, "batch": batch}, take)


def _crossed(batches: tuple[int, ...], usual: int) -> Iterator[tuple[int, int]]:
    """Cores and batch: fewer cores by powers of two with the usual batch, then all cores with each batch."""
    cores = 1
    while cores < usable_cores():
        yield cores, usual
        cores *= 2
    for batch in sorted({*batches, usual}):
        yield usable_cores(), batch


def _summed(tried: list[dict[str, Any]]) -> dict[str, Any]:
    worked = [one for one in tried if "views_per_s" in one]
    best = max(worked, key=lambda one: one["views_per_s"]["median"], default={})
    return {"best": {name: value for name, value in best.items() if name != "views_per_s"}, "tried": tried}


def _told(way: Way) -> str:
    setting = ", ".join(f"{name} {value}" for name, value in way.setting.items())
    return f"{way.subject or 'decoding'} with {setting}"

"""``mura-trt evaluate``: predictions against labels, overall and for every body part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mura_trt.errors import UsageError
from mura_trt.evaluation import published
from mura_trt.evaluation.cohort import Cohort, matched
from mura_trt.evaluation.figures import Figure, calibration, figures, kappa_difference
from mura_trt.evaluation.files import (
    Predictions,
    labels_of_names,
    names_hashed,
    read_labels,
    read_predictions,
    read_readers,
)
from mura_trt.evaluation.finished import own_files
from mura_trt.evaluation.tell import METHODS, NAMES
from mura_trt.evaluation.threshold import choose_threshold, write_threshold
from mura_trt.files import check_target
from mura_trt.metrics import Counts, cohen_kappa

Report = Callable[[str], None]
OVERALL = "overall"  # in messages, beside names of body parts


@dataclass(frozen=True)
class EvaluateOptions:
    """What to evaluate; the fields are the options of ``mura-trt evaluate``."""

    predictions: Path
    """An output folder of ``score``, its table of studies, or the challenge's ``STUDY/,0|1`` file."""
    labels: Path | None = None
    """``STUDY/,0|1``, or three readers' columns; None takes the labels in the studies' names."""
    readers: Path | None = None
    """Decisions of readers who are not the gold standard: ``STUDY/,0|1,...``."""
    threshold: float | None = None
    """Abnormal is a probability strictly above; None keeps the decisions that were made."""
    rule: str | None = None
    """By which a threshold is chosen on these studies, instead."""
    threshold_file: Path | None = None
    """Where the one chosen is kept."""
    partial: bool = False
    """Leave out studies that are on one side only, or have no score."""
    resamples: int = 2000
    """Of the bootstrap over patients."""
    uid_salt_file: Path | None = None
    """Where the run hashed DICOM files' UIDs: what with; labels may then be by UID. None takes the user's own."""

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UsageError(f"--threshold {self.threshold}: a probability, 0 to 1")
        if self.threshold is not None and self.rule is not None:
            raise UsageError("--threshold and --choose-threshold: give one")
        if self.threshold_file is not None and self.rule is None:
            raise UsageError("--threshold-file is for a threshold that --choose-threshold chooses")
        if self.resamples < 1:
            raise UsageError(f"--resamples {self.resamples}: give 1 or more")


def evaluate(options: EvaluateOptions, report: Report = lambda _: None) -> dict[str, Any]:
    """Judges decisions by a gold standard.

    Parameters
    ----------
    options
        What to evaluate.
    report
        Told how far it is.

    Returns
    -------
    dict
        As JSON has it, NaN as None: ``predictions``, ``labels``, ``threshold`` (a number, or None for decisions as they
        were made), ``chosen`` (of a chosen threshold its rule, sensitivity and specificity), ``notes`` (all that was
        unusual), ``resamples``, ``overall`` and ``body_parts`` by name (each with ``studies``, ``patients``,
        ``abnormal``, ``counts``, ``figures`` with value, intervals and how many resamples define it, and
        ``calibration`` bins), ``readers`` (each one's kappa, ``overall`` and by body part, and by how much the
        decisions' is above), and ``published`` (the paper's figures).

    Raises
    ------
    UsageError
        A file cannot be used, studies do not match, or the threshold would be written over an input.
    """
    return evaluated(options, report)[0]


def evaluated(options: EvaluateOptions, report: Report = lambda _: None) -> tuple[dict[str, Any], Cohort]:
    """As :func:`evaluate`, with the studies that were judged."""
    if options.threshold_file is not None:
        given = [path for path in (options.labels, options.readers, options.uid_salt_file) if path]
        check_target(options.threshold_file, [*own_files(options.predictions), *given], "the threshold")
    predictions, cohort = _read(options)
    notes = cohort.notes
    chosen = None
    if options.rule is not None:
        assert cohort.probability is not None  # or it could not have been read with a threshold
        choice = choose_threshold(cohort.truth, cohort.probability, options.rule)
        chosen = {"rule": options.rule, **choice._asdict()}
        cohort.decided = (cohort.probability > choice.threshold).astype(np.int64)
        notes.append("the threshold was chosen on these studies, which flatters the decisions on them")
        if options.threshold_file is not None:
            bundle = (predictions.run or {}).get("bundle", {})
            origin = {"rule": options.rule, "studies": len(cohort), "bundle_sha256": bundle.get("sha256")}
            write_threshold(options.threshold_file, choice, **origin)
    if cohort.probability is None:
        notes.append("decisions only: AUROC, average precision, Brier score and calibration need probabilities")
    parts = cohort.by_body_part()
    overall = _told(OVERALL, cohort, options.resamples, notes, report)
    by_part = {part: _told(part, group, options.resamples, notes, report) for part, group in parts.items()}
    threshold = options.threshold if chosen is None else chosen["threshold"]
    if threshold is None and predictions.run is not None:
        threshold = predictions.run["threshold"]
    found = {
        "predictions": str(options.predictions),
        "labels": "names of studies" if options.labels is None else str(options.labels),
        "threshold": threshold,
        "chosen": chosen,
        "notes": notes,
        "resamples": options.resamples,
        "overall": overall,
        "body_parts": by_part,
        "readers": _readers(cohort, parts, options.resamples),
        "published": {
            "warning": published.WARNING,
            "model": published.MODEL,
            "radiologists": list(published.RADIOLOGISTS),
            "overall": published.OVERALL._asdict(),
            "body_parts": {part: kappas._asdict() for part, kappas in published.BY_BODY_PART.items()},
        },
    }
    return found, cohort


def _read(options: EvaluateOptions) -> tuple[Predictions, Cohort]:
    # A rule decides anew, so that there need be no decisions; any threshold will do until then.
    predictions = read_predictions(options.predictions, 0.5 if options.rule else options.threshold)
    labels = labels_of_names(predictions.names) if options.labels is None else read_labels(options.labels)
    labels = names_hashed(labels, predictions, options.uid_salt_file)
    readers = None
    if options.readers is not None:
        readers = names_hashed(read_readers(options.readers), predictions, options.uid_salt_file)
    return predictions, matched(predictions, labels, readers, options.partial)


def _told(name: str, cohort: Cohort, resamples: int, notes: list[str], report: Report) -> dict[str, Any]:
    counts = Counts.of(cohort.truth, cohort.decided)
    through = 0

    def done(count: int) -> None:
        nonlocal through
        through += count
        report(f"{name}: {through:,} of {resamples:,} resamples of {cohort.patient_count:,} patients")

    found = figures(cohort, resamples, done=done)
    notes += [f"{name}: {remark}" for remark in _remarks(cohort, found, resamples)]
    return {
        "studies": len(cohort),
        "patients": cohort.patient_count,
        "abnormal": int(cohort.truth.sum()),
        "counts": {kind: int(count) for kind, count in counts._asdict().items()},
        "figures": {key: _as_json(figure) for key, figure in found.items()},
        "calibration": None
        if cohort.probability is None
        else [found._asdict() for found in calibration(cohort.truth, cohort.probability)],
    }


def _remarks(cohort: Cohort, found: dict[str, Figure], resamples: int) -> Iterator[str]:
    """What intervals are not to be had, or not to be relied on, and why."""
    if len(set(cohort.truth.tolist())) < 2:
        yield "one class only; kappa, AUROC and what else needs both is not defined"
    if cohort.patient_count < 2:
        yield "one patient only; there are none to resample, and no bootstrap intervals"
    else:
        few = [
            f"{NAMES[key]} by {figure.defined:,}"
            for key, figure in found.items()
            if figure.defined is not None
            and math.isfinite(figure.value)
            and math.isnan(figure.intervals["bootstrap"][0])
        ]
        if few:
            yield f"of {resamples:,} resamples too few define a figure for an interval: {', '.join(few)}"
    without = [
        f"{NAMES[key]} ({', '.join(METHODS[method] for method in methods)})"
        for key, figure in found.items()
        if (methods := [method for method in figure.without_width if method != "challenge"])
    ]
    if without:
        yield f"studies too few or too much alike for the width of an interval: {', '.join(without)}"


def _readers(cohort: Cohort, parts: dict[str, Cohort], resamples: int) -> list[dict[str, Any]]:
    if cohort.readers is None:
        return []
    return [
        {
            "overall": _reader_kappa(cohort, reader),
            "body_parts": {part: _reader_kappa(group, reader) for part, group in parts.items()},
            "model_less_reader": _as_json(kappa_difference(cohort, reader, resamples)),
        }
        for reader in range(cohort.readers.shape[1])
    ]


def _reader_kappa(cohort: Cohort, reader: int) -> dict[str, Any]:
    assert cohort.readers is not None
    kappa = cohen_kappa(cohort.truth, cohort.readers[:, reader])
    return _as_json(Figure(kappa.value, {"fleiss_cohen_everitt": (kappa.low, kappa.high)}))


def _as_json(figure: Figure) -> dict[str, Any]:
    found = {
        "value": _number(figure.value),
        "intervals": {name: [_number(low), _number(high)] for name, (low, high) in figure.intervals.items()},
    }
    return found if figure.defined is None else {**found, "defined_resamples": figure.defined}


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if math.isfinite(value) else None

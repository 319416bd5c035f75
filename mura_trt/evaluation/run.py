"""``mura-trt evaluate``: predictions against labels, overall and for every body part."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mura_trt.errors import UsageError
from mura_trt.evaluation import published
from mura_trt.evaluation.cohort import Cohort, matched
from mura_trt.evaluation.figures import Figure, calibration, figures, kappa_difference
from mura_trt.evaluation.files import Predictions, labels_of_names, read_labels, read_predictions, read_readers
from mura_trt.evaluation.threshold import choose_threshold, write_threshold
from mura_trt.metrics import Counts, cohen_kappa

ALL = "all"


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

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UsageError(f"--threshold {self.threshold}: a probability, 0 to 1")
        if self.threshold is not None and self.rule is not None:
            raise UsageError("--threshold and --choose-threshold: give one")
        if self.threshold_file is not None and self.rule is None:
            raise UsageError("--threshold-file is for a threshold that --choose-threshold chooses")
        if self.resamples < 1:
            raise UsageError(f"--resamples {self.resamples}: give 1 or more")


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """Judges decisions by a gold standard.

    Returns
    -------
    dict
        As JSON has it, NaN as None: ``predictions``, ``labels``, ``threshold`` (a number, or None for decisions as they
        were made), ``chosen`` (of a chosen threshold its rule, sensitivity and specificity), ``notes`` (all that was
        unusual), ``groups`` (``all`` and each body part: ``studies``, ``abnormal``, ``counts``, ``figures`` with value
        and intervals, ``calibration`` bins), ``readers`` (each one's kappa by group, and by how much the decisions'
        is above), and ``published`` (the paper's figures).

    Raises
    ------
    UsageError
        A file cannot be used, or studies do not match.
    """
    predictions, cohort = cohort_of(options)
    chosen = None
    if options.rule is not None:
        assert cohort.probability is not None  # or it could not have been read with a threshold
        choice = choose_threshold(cohort.truth, cohort.probability, options.rule)
        chosen = {"rule": options.rule, **choice._asdict()}
        cohort.decided = (cohort.probability > choice.threshold).astype(np.int64)
        cohort.notes.append("the threshold was chosen on these studies, which flatters the decisions on them")
        if options.threshold_file is not None:
            bundle = (predictions.run or {}).get("bundle", {})
            origin = {"rule": options.rule, "studies": len(cohort), "bundle_sha256": bundle.get("sha256")}
            write_threshold(options.threshold_file, choice, **origin)
    if cohort.probability is None:
        cohort.notes.append("decisions only: AUROC, average precision, Brier score and calibration need probabilities")
    parts = sorted({part for part in cohort.body_parts if part})
    groups = {ALL: cohort, **{part: cohort.part(part) for part in parts}}
    for name, group in groups.items():
        if len(set(group.truth.tolist())) < 2:
            cohort.notes.append(f"{name}: one class only; AUROC and what else needs both is not defined")
    told = {name: _told(group, options.resamples) for name, group in groups.items()}
    threshold = options.threshold if chosen is None else chosen["threshold"]
    if threshold is None and predictions.run is not None:
        threshold = predictions.run.get("threshold")
    return {
        "predictions": str(options.predictions),
        "labels": "names of studies" if options.labels is None else str(options.labels),
        "threshold": threshold,
        "chosen": chosen,
        "notes": cohort.notes,
        "resamples": options.resamples,
        "groups": told,
        "readers": _readers(groups, options.resamples),
        "published": {
            "warning": published.WARNING,
            "model": published.MODEL,
            "radiologists": list(published.RADIOLOGISTS),
            "body_parts": {part: kappas._asdict() for part, kappas in published.BY_BODY_PART.items()},
        },
    }


def cohort_of(options: EvaluateOptions) -> tuple[Predictions, Cohort]:
    """The predictions, and the studies of theirs whose truth is known; raises UsageError as :func:`evaluate`."""
    # A rule decides anew, so that there need be no decisions; any threshold will do until then.
    predictions = read_predictions(options.predictions, 0.5 if options.rule else options.threshold)
    labels = labels_of_names(predictions.names) if options.labels is None else read_labels(options.labels)
    readers = None if options.readers is None else read_readers(options.readers)
    return predictions, matched(predictions, labels, readers, options.partial)


def _told(cohort: Cohort, resamples: int) -> dict[str, Any]:
    counts = Counts.of(cohort.truth, cohort.decided)
    return {
        "studies": len(cohort),
        "patients": int(cohort.patients.max()) + 1,
        "abnormal": int(cohort.truth.sum()),
        "counts": {name: int(count) for name, count in counts._asdict().items()},
        "figures": {name: _as_json(figure) for name, figure in figures(cohort, resamples).items()},
        "calibration": None
        if cohort.probability is None
        else [found._asdict() for found in calibration(cohort.truth, cohort.probability)],
    }


def _readers(groups: dict[str, Cohort], resamples: int) -> list[dict[str, Any]]:
    everyone = groups[ALL].readers
    if everyone is None:
        return []
    found = []
    for reader in range(everyone.shape[1]):
        kappas = {}
        for name, group in groups.items():
            assert group.readers is not None
            kappa = cohen_kappa(group.truth, group.readers[:, reader])
            kappas[name] = _as_json(Figure(kappa.value, {"fleiss_cohen_everitt": (kappa.low, kappa.high)}))
        found.append({"kappa": kappas, "model_less_reader": _as_json(kappa_difference(groups[ALL], reader, resamples))})
    return found


def _as_json(figure: Figure) -> dict[str, Any]:
    return {
        "value": _number(figure.value),
        "intervals": {name: [_number(low), _number(high)] for name, (low, high) in figure.intervals.items()},
    }


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if math.isfinite(value) else None

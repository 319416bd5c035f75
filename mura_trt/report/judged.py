"""The run against labels: what ``evaluate`` finds, each study's truth, and the curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mura_trt.errors import UsageError
from mura_trt.evaluation.cohort import Cohort
from mura_trt.evaluation.run import EvaluateOptions, Report, evaluated

CURVE_POINTS = 300  # of a curve, so many are drawn
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Judged:
    """A run whose studies have labels.

    Attributes
    ----------
    found
        As :func:`mura_trt.evaluation.run.evaluate` returns it.
    truth
        1 for abnormal, by the study's name as :func:`mura_trt.evaluation.files.study_name` has it.
    roc
        False positive rate and sensitivity; empty where there is one class only.
    precision_recall
        Recall and precision; likewise.
    """

    found: dict[str, Any]
    truth: dict[str, int]
    roc: Points
    precision_recall: Points


def judged(options: EvaluateOptions, report: Report) -> Judged | str:
    """The run's figures; where it has no labels and none were asked for, the reason.

    Raises
    ------
    UsageError
        The labels or readers that were named cannot be used.
    """
    try:
        found, cohort = evaluated(options, report)
    except UsageError as error:
        if options.labels is not None or options.readers is not None:
            raise
        return str(error)
    except ImportError as error:
        if options.labels is not None or options.readers is not None:
            raise
        return f"{error}: pip install 'mura-trt[evaluate]'"
    return Judged(found, dict(zip(cohort.names, cohort.truth.tolist(), strict=True)), *_curves(cohort))


def _curves(cohort: Cohort) -> tuple[Points, Points]:
    from sklearn.metrics import precision_recall_curve, roc_curve

    if cohort.probability is None or len(set(cohort.truth.tolist())) < 2:
        return [], []
    wrong, right, _ = roc_curve(cohort.truth, cohort.probability)
    precision, recall, _ = precision_recall_curve(cohort.truth, cohort.probability)
    return _thinned(wrong, right), _thinned(recall[::-1], precision[::-1])


def _thinned(x: ArrayLike, y: ArrayLike) -> Points:
    """So many of the points, evenly by number, the first and the last among them."""
    points = np.column_stack([x, y])
    rows = np.unique(np.linspace(0, len(points) - 1, CURVE_POINTS).round().astype(np.int64))
    return [(float(across), float(up)) for across, up in points[rows]]

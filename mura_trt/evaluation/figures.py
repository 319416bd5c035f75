"""Figures of agreement with the gold standard, each with its 95 % intervals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mura_trt.evaluation.bootstrap import (
    CALIBRATION_BINS,
    NOTHING,
    Bootstrapped,
    Done,
    Interval,
    bins_of,
    bootstrapped,
    bootstrapped_difference,
)
from mura_trt.evaluation.cohort import Cohort
from mura_trt.evaluation.tell import NO_WIDTH
from mura_trt.metrics import Z95, Counts, auroc, cohen_kappa


class Figure(NamedTuple):
    """A value with its intervals by method, the main one first; NaN where the studies do not define it."""

    value: float
    intervals: dict[str, Interval]
    defined: int | None = None
    """How many of the bootstrap's resamples define it; None where it has no such interval."""

    @property
    def without_width(self) -> list[str]:
        """Methods whose interval has none: the studies are too few or too much alike for them to tell one."""
        return [method for method, (low, high) in self.intervals.items() if high - low < NO_WIDTH]


class Bin(NamedTuple):
    """Of the studies whose probability lies in a bin: how many, their mean probability, and the share of abnormal."""

    studies: int
    probability: float
    abnormal: float


def figures(cohort: Cohort, resamples: int, done: Done = lambda _: None) -> dict[str, Figure]:
    """Everything that the cohort's decisions, and its probabilities where known, can be judged by.

    Cohen's kappa has three intervals: from the standard error of Fleiss, Cohen and Everitt (1969); by a bootstrap over
    patients (Efron and Tibshirani 1993, percentiles); and ``challenge``, as the MURA challenge has published it, which
    takes the variance for the standard error and is too narrow. AUROC's is DeLong's; shares' are Wilson's (1927); those
    of F1, average precision, Brier score and calibration error are bootstrapped over patients. A bootstrap gives none
    where there is one patient only, or where more than a tenth of the resamples do not define the figure.

    Parameters
    ----------
    cohort
        One study or more.
    resamples
        Of the bootstrap.
    done
        Told how many more resamples are done.
    """
    counts = Counts.of(cohort.truth, cohort.decided)
    kappa = cohen_kappa(cohort.truth, cohort.decided)
    published = Z95 * counts.kappa_error() ** 2
    drawn = bootstrapped(cohort, resamples, done)
    of_kappa = drawn.get("kappa", NOTHING)
    intervals = {
        "fleiss_cohen_everitt": (kappa.low, kappa.high),
        "bootstrap": of_kappa.interval,
        "challenge": (kappa.value - published, kappa.value + published),
    }
    found = {"kappa": Figure(kappa.value, intervals, of_kappa.defined)}
    if cohort.probability is not None:
        area = auroc(cohort.truth, cohort.probability)
        found["auroc"] = Figure(area.value, {"delong": (area.low, area.high)})
        value = average_precision(cohort.truth, cohort.probability)
        found["average_precision"] = _with(value, drawn.get("average_precision", NOTHING))
    true_positive, missed, false_alarm, true_negative = (int(count) for count in counts)
    for name, hits, all_of_them in (
        ("accuracy", true_positive + true_negative, len(cohort)),
        ("sensitivity", true_positive, true_positive + missed),
        ("specificity", true_negative, true_negative + false_alarm),
        ("ppv", true_positive, true_positive + false_alarm),
        ("npv", true_negative, true_negative + missed),
    ):
        found[name] = share(hits, all_of_them)
    found["f1"] = _with(counts.f1(), drawn.get("f1", NOTHING))
    if cohort.probability is not None:
        found["brier"] = _with(brier(cohort.truth, cohort.probability), drawn.get("brier", NOTHING))
        value = calibration_error(cohort.truth, cohort.probability)
        found["calibration_error"] = _with(value, drawn.get("calibration_error", NOTHING))
    return found


def share(hits: int, of: int) -> Figure:
    """A proportion and its Wilson interval."""
    from scipy.stats import binomtest

    if of == 0:
        return Figure(np.nan, {"wilson": (np.nan, np.nan)})
    found = binomtest(hits, of).proportion_ci(0.95, method="wilson")
    return Figure(hits / of, {"wilson": (float(found.low), float(found.high))})


def average_precision(truth: ArrayLike, probability: ArrayLike) -> float:
    """The precision averaged over the steps of recall, of (n,) each; NaN without abnormal studies."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(truth, probability)) if np.any(truth) else np.nan


def brier(truth: ArrayLike, probability: ArrayLike) -> float:
    """The mean square of probability less truth (Brier 1950, over one of the two classes)."""
    return float(np.square(np.subtract(probability, truth)).mean())


def calibration(truth: ArrayLike, probability: ArrayLike) -> list[Bin]:
    """The bins of equal width that hold a study; the last one holds a probability of 1, too."""
    truth, probability = np.asarray(truth), np.asarray(probability, np.float64)
    at = bins_of(probability)
    return [
        Bin(int((at == number).sum()), float(probability[at == number].mean()), float(truth[at == number].mean()))
        for number in np.unique(at)
    ]


def calibration_error(truth: ArrayLike, probability: ArrayLike) -> float:
    """How far mean probability and share of abnormal studies are apart, averaged over the studies of all bins.

    The expected calibration error of Naeini et al. (2015), for the probability of being abnormal.
    """
    probability = np.asarray(probability, np.float64)
    apart = np.bincount(bins_of(probability), probability - truth, CALIBRATION_BINS)
    return float(np.abs(apart).sum() / len(probability))


def kappa_difference(cohort: Cohort, reader: int, resamples: int) -> Figure:
    """Kappa of the decisions less that of a reader, both with the gold standard; paired, bootstrapped over patients."""
    assert cohort.readers is not None
    ours = Counts.of(cohort.truth, cohort.decided).kappa()
    theirs = Counts.of(cohort.truth, cohort.readers[:, reader]).kappa()
    return _with(ours - theirs, bootstrapped_difference(cohort, reader, resamples))


def _with(value: float, drawn: Bootstrapped) -> Figure:
    return Figure(value, {"bootstrap": drawn.interval}, drawn.defined)

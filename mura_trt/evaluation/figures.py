"""Figures of agreement with the gold standard, each with its 95 % intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mura_trt.evaluation.cohort import Cohort
from mura_trt.metrics import Z95, Counts, auroc, cohen_kappa

CALIBRATION_BINS = 10  # of equal width, from 0 to 1
Interval = tuple[float, float]
Weights = NDArray[np.int64]


class Figure(NamedTuple):
    """A value with its intervals by method, the main one first; NaN where the studies do not define it."""

    value: float
    intervals: dict[str, Interval]


class Bin(NamedTuple):
    """Of the studies whose probability lies in a bin: how many, their mean probability, and the share of abnormal."""

    studies: int
    probability: float
    abnormal: float


def figures(cohort: Cohort, resamples: int, seed: int = 0) -> dict[str, Figure]:
    """Everything that the cohort's decisions, and its probabilities where known, can be judged by.

    Cohen's kappa has three intervals: from the standard error of Fleiss, Cohen and Everitt (1969); by a bootstrap over
    patients (Efron and Tibshirani 1993, percentiles); and ``challenge``, as the MURA challenge has published it, which
    takes the variance for the standard error and is too narrow. AUROC's is DeLong's; shares' are Wilson's (1927); those
    of F1, average precision, Brier score and calibration error are bootstrapped over patients.

    Parameters
    ----------
    cohort
        One study or more.
    resamples
        Of the bootstrap.
    seed
        The same seed draws the same resamples.
    """
    counts = Counts.of(cohort.truth, cohort.decided)
    kappa = cohen_kappa(cohort.truth, cohort.decided)
    published = Z95 * counts.kappa_error() ** 2
    drawn = bootstrapped(cohort, resamples, seed)
    intervals = {
        "fleiss_cohen_everitt": (kappa.low, kappa.high),
        "bootstrap": drawn["kappa"],
        "challenge": (kappa.value - published, kappa.value + published),
    }
    found = {"kappa": Figure(kappa.value, intervals)}
    if cohort.probability is not None:
        area = auroc(cohort.truth, cohort.probability)
        found["auroc"] = Figure(area.value, {"delong": (area.low, area.high)})
        found["average_precision"] = Figure(
            average_precision(cohort.truth, cohort.probability), {"bootstrap": drawn["average_precision"]}
        )
    true_positive, missed, false_alarm, true_negative = (int(count) for count in counts)
    for name, hits, all_of_them in (
        ("accuracy", true_positive + true_negative, len(cohort)),
        ("sensitivity", true_positive, true_positive + missed),
        ("specificity", true_negative, true_negative + false_alarm),
        ("ppv", true_positive, true_positive + false_alarm),
        ("npv", true_negative, true_negative + missed),
    ):
        found[name] = share(hits, all_of_them)
    found["f1"] = Figure(counts.f1(), {"bootstrap": drawn["f1"]})
    if cohort.probability is not None:
        found["brier"] = Figure(brier(cohort.truth, cohort.probability), {"bootstrap": drawn["brier"]})
        found["calibration_error"] = Figure(
            calibration_error(cohort.truth, cohort.probability), {"bootstrap": drawn["calibration_error"]}
        )
    return found


def share(hits: int, of: int) -> Figure:
    """A proportion and its Wilson interval."""
    from scipy.stats import binomtest

    if of == 0:
        return Figure(np.nan, {"wilson": (np.nan, np.nan)})
    found = binomtest(hits, of).proportion_ci(0.95, method="wilson")
    return Figure(hits / of, {"wilson": (float(found.low), float(found.high))})


def average_precision(truth: ArrayLike, probability: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The precision averaged over the steps of recall; NaN without abnormal studies.

    Parameters
    ----------
    truth, probability, weights
        (n,) each; weights are how many times a study counts.
    """
    from sklearn.metrics import average_precision_score

    truth = np.asarray(truth)
    if not (truth if weights is None else truth * np.asarray(weights)).any():
        return np.nan
    return float(average_precision_score(truth, probability, sample_weight=weights))


def brier(truth: ArrayLike, probability: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The mean square of probability less truth (Brier 1950, over one of the two classes)."""
    squares = np.square(np.subtract(probability, truth))
    return float(squares.mean() if weights is None else np.average(squares, weights=np.asarray(weights)))


def calibration(truth: ArrayLike, probability: ArrayLike) -> list[Bin]:
    """The bins of equal width that hold a study; the last one holds a probability of 1, too."""
    truth, probability = np.asarray(truth), np.asarray(probability, np.float64)
    at = _bins(probability)
    return [
        Bin(int((at == number).sum()), float(probability[at == number].mean()), float(truth[at == number].mean()))
        for number in np.unique(at)
    ]


def calibration_error(truth: ArrayLike, probability: ArrayLike, weights: ArrayLike | None = None) -> float:
    """How far mean probability and share of abnormal studies are apart, averaged over the studies of all bins.

    The expected calibration error of Naeini et al. (2015), for the probability of being abnormal.
    """
    probability = np.asarray(probability, np.float64)
    weights = np.ones(len(probability)) if weights is None else np.asarray(weights, np.float64)
    apart = np.bincount(_bins(probability), (probability - truth) * weights, CALIBRATION_BINS)
    return float(np.abs(apart).sum() / weights.sum())


def bootstrapped(cohort: Cohort, resamples: int, seed: int) -> dict[str, Interval]:
    """Intervals between the 2.5 and 97.5 % points of figures of patients drawn with replacement.

    A resample in which a figure is not defined is left out of that one's interval.
    """
    truth, decided = cohort.truth, cohort.decided
    measures: dict[str, Callable[[Weights], float]] = {
        "kappa": lambda weights: Counts.of(truth, decided, weights).kappa(),
        "f1": lambda weights: Counts.of(truth, decided, weights).f1(),
    }
    if (probability := cohort.probability) is not None:
        measures |= {
            "average_precision": lambda weights: average_precision(truth, probability, weights),
            "brier": lambda weights: brier(truth, probability, weights),
            "calibration_error": lambda weights: calibration_error(truth, probability, weights),
        }
    return {name: _middle(values) for name, values in resampled(cohort, measures, resamples, seed).items()}


def resampled(
    cohort: Cohort, measures: dict[str, Callable[[Weights], float]], resamples: int, seed: int
) -> dict[str, list[float]]:
    """Each measure of each resample, given how many times every study is in it."""
    values: dict[str, list[float]] = {name: [] for name in measures}
    for weights in _draws(cohort.patients, resamples, seed):
        for name, measure in measures.items():
            values[name].append(measure(weights))
    return values


def kappa_difference(cohort: Cohort, reader: int, resamples: int, seed: int = 0) -> Figure:
    """Kappa of the decisions less that of a reader, both with the gold standard; paired, bootstrapped over patients."""
    assert cohort.readers is not None
    truth, ours, theirs = cohort.truth, cohort.decided, cohort.readers[:, reader]

    def difference(weights: Weights | None) -> float:
        return Counts.of(truth, ours, weights).kappa() - Counts.of(truth, theirs, weights).kappa()

    values = resampled(cohort, {"difference": difference}, resamples, seed)["difference"]
    return Figure(difference(None), {"bootstrap": _middle(values)})


def _draws(patients: NDArray[np.int64], resamples: int, seed: int) -> Iterator[Weights]:
    rng = np.random.default_rng(seed)
    count = int(patients.max()) + 1
    for _ in range(resamples):
        yield np.bincount(rng.integers(0, count, count), minlength=count)[patients]


def _middle(values: list[float]) -> Interval:
    defined = [value for value in values if not np.isnan(value)]
    if not defined:
        return np.nan, np.nan
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def _bins(probability: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.minimum((probability * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)

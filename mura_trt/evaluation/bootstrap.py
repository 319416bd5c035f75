"""Figures of patients drawn with replacement, from sums over each patient's studies, and intervals between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mura_trt.evaluation.cohort import Cohort
from mura_trt.metrics import Counts

Interval = tuple[float, float]
Values = NDArray[np.float64]
Done = Callable[[int], None]
CALIBRATION_BINS = 10  # of equal width, from 0 to 1
ENOUGH = 0.9  # of the resamples define a figure, or it gets no interval
_AT_ONCE = 1 << 22  # patients drawn in memory
SEED = 0  # the same resamples every time


class Bootstrapped(NamedTuple):
    """The points of 2.5 and 97.5 % of resamples, NaN where there is no interval, and how many define the figure."""

    interval: Interval
    defined: int


def bootstrapped(cohort: Cohort, resamples: int, done: Done = lambda _: None) -> dict[str, Bootstrapped]:
    """Intervals of kappa, F1 and, where there are probabilities, of average precision, Brier and calibration error.

    Parameters
    ----------
    cohort
        Of one patient alone there are no intervals.
    resamples
        How often as many patients as there are, are drawn from them.
    done
        Told how many more resamples are done.
    """
    values = _several(cohort, resamples, done) if cohort.patient_count > 1 else {}
    return {name: _middle(np.concatenate(found)) for name, found in values.items()}


def bootstrapped_difference(cohort: Cohort, reader: int, resamples: int) -> Bootstrapped:
    """Of kappa of the decisions less that of a reader; paired: both are of the same resamples."""
    if cohort.patient_count < 2:
        return NOTHING
    assert cohort.readers is not None
    theirs = _counts(cohort.truth, cohort.readers[:, reader], cohort.patients)
    ours = _counts(cohort.truth, cohort.decided, cohort.patients)
    values = [_kappas(draws @ ours) - _kappas(draws @ theirs) for draws in _draws(cohort.patient_count, resamples)]
    return _middle(np.concatenate(values))


NOTHING = Bootstrapped((np.nan, np.nan), 0)


def bins_of(probability: Values) -> NDArray[np.int64]:
    """The bin of each probability; the last one holds a probability of 1, too."""
    return np.minimum((probability * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def _several(cohort: Cohort, resamples: int, done: Done) -> dict[str, list[Values]]:
    resampler = Resampler(cohort)
    values: dict[str, list[Values]] = {}
    for draws in _draws(cohort.patient_count, resamples):
        for name, found in resampler.figures(draws).items():
            values.setdefault(name, []).append(found)
        done(len(draws))
    return values


class Resampler:
    """What figures need of each patient, so that a resample costs a pass over patients and none over studies."""

    def __init__(self, cohort: Cohort) -> None:
        patients = cohort.patients
        self._sums = _counts(cohort.truth, cohort.decided, patients)
        self._ranking: _Ranking | None = None
        if cohort.probability is not None:
            apart = cohort.probability - cohort.truth
            count = cohort.patient_count
            squares = np.bincount(patients, np.square(apart), count)[:, None]
            binned = patients * CALIBRATION_BINS + bins_of(cohort.probability)
            bins = np.bincount(binned, apart, count * CALIBRATION_BINS).reshape(count, CALIBRATION_BINS)
            self._sums = np.concatenate([self._sums, squares, bins], axis=1)
            self._ranking = _Ranking(cohort.truth, cohort.probability, patients)

    def figures(self, draws: Values) -> dict[str, Values]:
        """Each figure of k resamples, float64 (k,); NaN where a resample does not define it.

        ``draws``, float64 (k, p), has how many times each of p patients is in each.
        """
        sums = draws @ self._sums
        found = {"kappa": _kappas(sums), "f1": np.array([Counts(*row).f1() for row in sums[:, :4].tolist()])}
        if self._ranking is not None:
            studies = sums[:, :4].sum(1)
            found["average_precision"] = np.array([self._ranking.average_precision(drawn) for drawn in draws])
            found["brier"] = sums[:, 4] / studies
            found["calibration_error"] = np.abs(sums[:, 5:]).sum(1) / studies
        return found


class _Ranking:
    """Studies by falling probability, sorted once for all resamples."""

    def __init__(self, truth: NDArray[np.int64], probability: Values, patients: NDArray[np.int64]) -> None:
        order = np.argsort(-probability, kind="stable")
        ordered = probability[order]
        self._patients = patients[order]
        self._abnormal = np.flatnonzero(truth[order])
        # Precision counts all studies that are as probable as an abnormal one; at others recall makes no step.
        self._last = np.searchsorted(-ordered, -ordered[self._abnormal], "right") - 1
        self._last_abnormal = np.searchsorted(self._abnormal, self._last, "right") - 1

    def average_precision(self, drawn: Values) -> float:
        """Of a resample with so many of each patient; NaN where it holds no abnormal study."""
        times = drawn.take(self._patients)
        found = times.take(self._abnormal)
        caught = np.cumsum(found)
        if not caught.size or not caught[-1]:
            return np.nan
        called = np.cumsum(times).take(self._last)
        # Where none of so many is drawn, precision counts nothing.
        precision = caught.take(self._last_abnormal) / np.maximum(called, 1)
        return float((found * precision).sum() / caught[-1])


def _counts(truth: NDArray[np.int64], decided: NDArray[np.int64], patients: NDArray[np.int64]) -> Values:
    """float64 (p, 4): the fields of :class:`Counts` for each patient."""
    kinds = np.bincount(4 * patients + 2 * truth + decided, minlength=4 * (int(patients.max()) + 1))
    return kinds.reshape(-1, 4)[:, ::-1].astype(np.float64)


def _kappas(sums: Values) -> Values:
    return np.array([Counts(*row).kappa() for row in sums[:, :4].tolist()])


def _draws(patients: int, resamples: int) -> Iterator[Values]:
    """float64 (k, patients), until there are as many as asked for."""
    rng = np.random.default_rng(SEED)
    at_once = max(1, _AT_ONCE // patients)
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        drawn = [np.bincount(rng.integers(0, patients, patients), minlength=patients) for _ in range(count)]
        yield np.stack(drawn).astype(np.float64)


def _middle(values: Values) -> Bootstrapped:
    defined = values[~np.isnan(values)]
    if len(defined) < ENOUGH * len(values):
        return Bootstrapped((np.nan, np.nan), len(defined))
    low, high = np.quantile(defined, [0.025, 0.975])
    return Bootstrapped((float(low), float(high)), len(defined))

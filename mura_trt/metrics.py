"""How well scores agree with labels: AUROC and Cohen's kappa, each with its 95 % confidence interval."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z95 = 1.959963984540054  # the normal distribution's 97.5 % point


class Estimate(NamedTuple):
    """A value and the limits of its 95 % confidence interval; NaN where the data do not define it."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


UNDEFINED = Estimate(np.nan, np.nan, np.nan)


def auroc(labels: ArrayLike, scores: ArrayLike) -> Estimate:
    """Area under the receiver operating characteristic: how often an abnormal study scores above a normal one.

    The interval is that of DeLong, DeLong and Clarke-Pearson (1988), cut to 0..1; at an area of 0 or 1 it has no width.

    Parameters
    ----------
    labels
        (n,), 1 for abnormal and 0 for normal.
    scores
        (n,), higher for abnormal; ties count half.

    Raises
    ------
    ValueError
        The lengths differ, a label is neither 0 nor 1, or a score is NaN.
    """
    truth, values = _binary(labels), np.asarray(scores, np.float64)
    if truth.shape != values.shape or np.isnan(values).any():
        raise ValueError("labels and scores must be equally many, and no score NaN")
    abnormal, normal = np.sort(values[truth]), np.sort(values[~truth])
    if len(abnormal) == 0 or len(normal) == 0:
        return UNDEFINED
    # The share of the other class that each score beats.
    above = _share_below(normal, abnormal)
    below = 1 - _share_below(abnormal, normal)
    area = float(above.mean())
    if len(abnormal) == 1 or len(normal) == 1:
        return Estimate(area, 0.0, 1.0)
    error = float(np.sqrt(above.var(ddof=1) / len(abnormal) + below.var(ddof=1) / len(normal)))
    return Estimate(area, max(0.0, area - Z95 * error), min(1.0, area + Z95 * error))


def cohen_kappa(labels: ArrayLike, decisions: ArrayLike) -> Estimate:
    """Cohen's kappa: agreement beyond chance, 1 at best.

    The interval uses the standard error of Fleiss, Cohen and Everitt (1969, formula 13), cut to -1..1; it has no width
    where all or none agree, or where all decisions are the same. Not defined where the labels are of one class only.

    Parameters
    ----------
    labels, decisions
        (n,) each, 1 for abnormal and 0 for normal.

    Raises
    ------
    ValueError
        The lengths differ, or a value is neither 0 nor 1.
    """
    counts = Counts.of(labels, decisions)
    kappa, error = counts.kappa(), counts.kappa_error()
    low, high = np.clip([kappa - Z95 * error, kappa + Z95 * error], -1, 1).tolist()  # of NaN, NaN
    return Estimate(kappa, low, high)


class Counts(NamedTuple):
    """Studies by truth and decision."""

    true_positive: float
    false_negative: float
    false_positive: float
    true_negative: float

    @classmethod
    def of(cls, labels: ArrayLike, decisions: ArrayLike) -> Counts:
        """Counts of labels and decisions, (n,) each and 0 or 1.

        Raises
        ------
        ValueError
            The lengths differ, or a value is neither 0 nor 1.
        """
        truth, decided = _binary(labels), _binary(decisions)
        if truth.shape != decided.shape:
            raise ValueError("labels and decisions must be equally many")
        found = np.bincount(2 * truth + decided, minlength=4)
        return cls(*(float(found[kind]) for kind in (3, 2, 1, 0)))

    def kappa(self) -> float:
        """Cohen's (1960); NaN where the labels are of one class only, for then it is 0 whatever was decided."""
        share, expected = self._shares()
        return float((np.trace(share) - expected) / (1 - expected))

    def kappa_error(self) -> float:
        """Kappa's standard error (Fleiss, Cohen and Everitt 1969, formula 13); NaN where kappa is."""
        share, expected = self._shares()
        if np.isnan(expected):
            return np.nan
        kappa = self.kappa()
        rows, columns = share.sum(1), share.sum(0)
        agreed = np.diag(share) * (1 - (rows + columns) * (1 - kappa)) ** 2
        # p_ij goes with the marginals the other way about: column i and row j.
        crossed = share * (columns[:, None] + rows[None, :]) ** 2
        missed = (1 - kappa) ** 2 * (crossed.sum() - np.trace(crossed))
        variance = (agreed.sum() + missed - (kappa - expected * (1 - kappa)) ** 2) / (sum(self) * (1 - expected) ** 2)
        return float(np.sqrt(max(variance, 0)))

    def f1(self) -> float:
        """The harmonic mean of precision and recall; NaN where nothing is abnormal and nothing was called so."""
        either = 2 * self.true_positive + self.false_positive + self.false_negative
        return 2 * self.true_positive / either if either else np.nan

    def _shares(self) -> tuple[NDArray[np.float64], float]:
        """The table, truth by decision, as parts of all, and by how much both would agree by chance.

        NaN where not both classes are there; else there is less than full agreement by chance.
        """
        table = np.array([[self.true_negative, self.false_positive], [self.false_negative, self.true_positive]])
        if not table.any(axis=1).all():
            return table, np.nan
        share = table / table.sum()
        return share, float(share.sum(1) @ share.sum(0))


def _binary(values: ArrayLike) -> NDArray[np.bool_]:
    numbers = np.asarray(values)
    if not np.isin(numbers, (0, 1)).all():
        raise ValueError("labels and decisions are 0 or 1")
    return numbers.astype(bool)


def _share_below(ordered: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each value, the share of the ordered ones that lie below it; equal ones count half."""
    left, right = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return np.asarray((left + right) / (2 * len(ordered)), np.float64)

"""AUROC and kappa against scikit-learn, a published table, and plain recomputations of their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from mura_trt.metrics import Z95, Estimate, auroc, cohen_kappa

Numbers = NDArray[np.float64]


def scored(rng: np.random.Generator, n: int) -> tuple[NDArray[np.int64], Numbers]:
    """Labels of both classes, and scores that follow them a little and have ties."""
    labels = np.r_[0, 0, 1, 1, rng.integers(0, 2, n - 4)]
    return labels, np.round(rng.normal(labels, 1.0), 1)


def half_width(estimate: Estimate) -> float:
    return (estimate.high - estimate.low) / 2


@pytest.mark.parametrize("n", [5, 30, 500])
def test_values_equal_scikit_learns_also_with_ties(n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(20):
        labels, scores = scored(rng, n)
        assert auroc(labels, scores).value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        decisions = scores > 0.5
        assert cohen_kappa(labels, decisions).value == pytest.approx(cohen_kappa_score(labels, decisions), abs=1e-12)


def test_kappa_of_the_published_table() -> None:
    # TP 75, FN 17, FP 13, TN 102: kappa 0.705, standard error 0.0496835.
    labels = np.repeat([1, 1, 0, 0], [75, 17, 13, 102])
    decisions = np.repeat([1, 0, 1, 0], [75, 17, 13, 102])
    kappa = cohen_kappa(labels, decisions)
    assert kappa.value == pytest.approx(0.705, abs=5e-4)
    assert half_width(kappa) / Z95 == pytest.approx(0.0496835, abs=5e-7)
    assert (kappa.low, kappa.high) == pytest.approx((0.608, 0.803), abs=5e-4)
    assert str(kappa) == "0.705 (0.608 to 0.803)"


def delong_error(labels: NDArray[np.int64], scores: Numbers) -> float:
    """DeLong's standard error by all pairs, from the paper's formulas and nothing shared with the package."""
    abnormal, normal = scores[labels == 1].tolist(), scores[labels == 0].tolist()
    psi = [[1.0 if x > y else 0.5 if x == y else 0.0 for y in normal] for x in abnormal]
    area = sum(map(sum, psi)) / (len(abnormal) * len(normal))
    of_abnormal = [sum(row) / len(normal) for row in psi]
    of_normal = [sum(column) / len(abnormal) for column in zip(*psi, strict=True)]
    s10 = sum((value - area) ** 2 for value in of_abnormal) / (len(abnormal) - 1)
    s01 = sum((value - area) ** 2 for value in of_normal) / (len(normal) - 1)
    return math.sqrt(s10 / len(abnormal) + s01 / len(normal))


def test_delongs_interval_equals_a_plain_computation() -> None:
    rng = np.random.default_rng(7)
    for _ in range(20):
        labels, scores = scored(rng, 80)
        found, error = auroc(labels, scores), delong_error(labels, scores)
        assert found.low == pytest.approx(found.value - Z95 * error, abs=1e-12)
        assert found.high == pytest.approx(min(1, found.value + Z95 * error), abs=1e-12)


def coverage(true: float, draw: Callable[[], Estimate]) -> float:
    estimates = [draw() for _ in range(400)]
    return float(np.mean([estimate.low <= true <= estimate.high for estimate in estimates]))


def test_delongs_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    labels = np.repeat([0, 1], [120, 80])
    true = 0.5 * (1 + math.erf(1.0 / 2))  # of two normal distributions one standard deviation apart
    assert coverage(true, lambda: auroc(labels, rng.normal(labels, 1.0))) == pytest.approx(0.95, abs=0.03)


def test_kappas_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(12)
    # Shares of (label, decision) = 00, 01, 10, 11: agreement 0.8, by chance 0.58 * 0.6 + 0.42 * 0.4.
    share, expected = [0.49, 0.09, 0.11, 0.31], 0.58 * 0.6 + 0.42 * 0.4

    def draw() -> Estimate:
        cells = rng.choice(4, 300, p=share)
        return cohen_kappa(cells // 2, cells % 2)

    assert coverage((0.8 - expected) / (1 - expected), draw) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_defines_nothing(label: int) -> None:
    assert all(map(math.isnan, auroc([label] * 4, [0.1, 0.2, 0.3, 0.4])))
    assert all(map(math.isnan, cohen_kappa([label] * 4, [label] * 4)))
    assert all(map(math.isnan, cohen_kappa([label] * 4, [0, 1, 0, 1])))  # it would be 0 with no width, whatever is said
    assert cohen_kappa([0, 1, 0, 1], [label] * 4) == (0, 0, 0)


def test_nothing_defines_nothing() -> None:
    assert all(map(math.isnan, auroc([], [])))
    assert all(map(math.isnan, cohen_kappa([], [])))


@pytest.mark.parametrize(
    ("scores", "area"), [([0.1, 0.2, 0.8, 0.9], 1), ([0.8, 0.9, 0.1, 0.2], 0), ([3, 3, 3, 3], 0.5)]
)
def test_extreme_areas(scores: list[float], area: float) -> None:
    found = auroc([0, 0, 1, 1], scores)
    assert found == (area, area, area)


def test_perfect_agreement_and_disagreement() -> None:
    assert cohen_kappa([0, 1, 0, 1], [0, 1, 0, 1]) == (1, 1, 1)
    assert cohen_kappa([0, 1, 0, 1], [1, 0, 1, 0]).value == -1


def test_intervals_stay_within_the_scale() -> None:
    area = auroc([0, 0, 0, 1, 1, 1], [1, 2, 4, 3, 5, 6])
    assert area.value == pytest.approx(8 / 9) and area.high == 1
    kappa = cohen_kappa([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1])
    assert kappa.value == pytest.approx(2 / 3) and kappa.high == 1


@pytest.mark.parametrize("flip", [False, True])
def test_of_a_single_study_of_a_class_the_interval_says_nothing(flip: bool) -> None:
    labels = np.array([0, 0, 1, 0, 0])
    scores = np.array([0.1, 0.9, 0.6, 0.6, 0.2])
    if flip:
        labels, scores = 1 - labels, -scores
    assert auroc(labels, scores) == (2.5 / 4, 0, 1)


@pytest.mark.parametrize("measure", [auroc, cohen_kappa])
@pytest.mark.parametrize("labels", [[0, 2], [0, -1], [0, 0.5], [0, math.nan]])
def test_labels_are_0_or_1(measure: Callable[[ArrayLike, ArrayLike], Estimate], labels: list[float]) -> None:
    with pytest.raises(ValueError, match="0 or 1"):
        measure(labels, [0, 1])


def test_bad_scores_and_decisions_are_refused() -> None:
    with pytest.raises(ValueError, match="no score NaN"):
        auroc([0, 1], [0.5, math.nan])
    with pytest.raises(ValueError, match="equally many"):
        auroc([0, 1], [0.5, 0.6, 0.7])
    with pytest.raises(ValueError, match="equally many"):
        cohen_kappa([0, 1], [0, 1, 1])
    with pytest.raises(ValueError, match="0 or 1"):
        cohen_kappa([0, 1], [0.2, 0.7])


def test_infinite_scores_have_their_order() -> None:
    assert auroc([0, 0, 1, 1], [-math.inf, 0, 1, math.inf]).value == 1

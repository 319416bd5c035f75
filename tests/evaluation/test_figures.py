"""Figures and intervals against scikit-learn, statsmodels and numbers that were published."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, brier_score_loss, cohen_kappa_score, f1_score, roc_auc_score
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

from mura_trt.evaluation.bootstrap import Resampler
from mura_trt.evaluation.cohort import Cohort
from mura_trt.evaluation.figures import calibration, calibration_error, figures, kappa_difference
from mura_trt.metrics import Counts

EXACT = 1e-9
TABLES = [tuple(np.random.default_rng(seed).integers(0, 80, 4).tolist()) for seed in range(200)]


def cohort_of(tp: int, fn: int, tn: int, fp: int, each: int = 1) -> Cohort:
    """Studies with those counts, so many of them of each patient."""
    kinds = [(1, 1)] * tp + [(1, 0)] * fn + [(0, 0)] * tn + [(0, 1)] * fp
    truth, decided = np.array(kinds, np.int64).T
    return Cohort(truth, decided, None, None, np.arange(len(truth)) // each, [""] * len(truth))


def scored(n: int, seed: int) -> Cohort:
    rng = np.random.default_rng(seed)
    truth = np.r_[0, 1, rng.integers(0, 2, n - 2)]
    probability = np.round(1 / (1 + np.exp(-rng.normal(2 * truth - 1, 1.5))), 2)  # with ties
    return Cohort(truth, (probability > 0.5).astype(np.int64), probability, None, np.arange(n) // 2, ["HAND"] * n)


def test_the_published_table_has_its_kappa_and_both_intervals() -> None:
    kappa = figures(cohort_of(tp=75, fn=17, tn=102, fp=13), 200)["kappa"]
    assert kappa.value == pytest.approx(0.7052401746724891, abs=1e-15)
    assert kappa.intervals["fleiss_cohen_everitt"] == pytest.approx((0.608, 0.803), abs=5e-4)
    assert kappa.intervals["challenge"] == pytest.approx((0.700, 0.710), abs=5e-4)
    assert next(iter(kappa.intervals)) == "fleiss_cohen_everitt"


@pytest.mark.parametrize("counts", TABLES, ids=str)
def test_closed_forms_equal_other_implementations(counts: tuple[int, int, int, int]) -> None:
    tp, fn, tn, fp = counts
    cohort = cohort_of(*counts)
    found = figures(cohort, 1)
    assert found["kappa"].value == pytest.approx(cohen_kappa_score(cohort.truth, cohort.decided), abs=EXACT)
    theirs = cohens_kappa(np.array([[tn, fp], [fn, tp]]))
    low, high = found["kappa"].intervals["fleiss_cohen_everitt"]
    assert (low, high) == pytest.approx((max(-1, theirs.kappa_low), min(1, theirs.kappa_upp)), abs=EXACT)
    assert Counts(tp, fn, fp, tn).kappa_error() == pytest.approx(theirs.std_kappa, abs=EXACT)
    assert found["f1"].value == pytest.approx(f1_score(cohort.truth, cohort.decided), abs=EXACT)
    for name, hits, of in (
        ("accuracy", tp + tn, tp + tn + fp + fn),
        ("sensitivity", tp, tp + fn),
        ("specificity", tn, tn + fp),
        ("ppv", tp, tp + fp),
        ("npv", tn, tn + fn),
    ):
        assert found[name].value == pytest.approx(hits / of, abs=EXACT)
        theirs = proportion_confint(hits, of, 0.05, "wilson")
        assert found[name].intervals["wilson"] == pytest.approx(theirs, abs=EXACT)


@pytest.mark.parametrize("seed", range(20))
def test_figures_of_probabilities_equal_scikit_learns(seed: int) -> None:
    cohort = scored(150, seed)
    assert cohort.probability is not None
    found = figures(cohort, 1)
    assert found["auroc"].value == pytest.approx(roc_auc_score(cohort.truth, cohort.probability), abs=EXACT)
    theirs = average_precision_score(cohort.truth, cohort.probability)
    assert found["average_precision"].value == pytest.approx(theirs, abs=EXACT)
    assert found["brier"].value == pytest.approx(brier_score_loss(cohort.truth, cohort.probability), abs=EXACT)


def test_calibration_error_of_bins_by_hand() -> None:
    truth = [0, 1, 1, 1, 0]
    probability = [0.05, 0.05, 0.95, 1.0, 0.3]
    # Of two in the first bin half are abnormal, of two in the last both, and the one in the fourth is not.
    assert calibration_error(truth, probability) == pytest.approx((2 * 0.45 + 2 * 0.025 + 0.3) / 5)
    assert np.allclose(calibration(truth, probability), [(2, 0.05, 0.5), (1, 0.3, 0.0), (2, 0.975, 1.0)])


@pytest.mark.parametrize("seed", range(20))
def test_a_resample_has_the_figures_of_its_patients_studies(seed: int) -> None:
    """By repeating each study as often as its patient is drawn; ties, and resamples of one class, among them."""
    rng = np.random.default_rng(seed)
    cohort = scored(int(rng.integers(4, 60)), seed)
    assert cohort.probability is not None
    draws = rng.multinomial(cohort.patient_count, np.full(cohort.patient_count, 1 / cohort.patient_count), 10)
    found = Resampler(cohort).figures(draws.astype(np.float64))
    assert set(found) == {"kappa", "f1", "average_precision", "brier", "calibration_error"}
    for number, drawn in enumerate(draws):
        times = drawn[cohort.patients]
        truth, decided = np.repeat(cohort.truth, times), np.repeat(cohort.decided, times)
        probability = np.repeat(cohort.probability, times)
        again = figures(Cohort(truth, decided, probability, None, np.zeros(len(truth), int), [""] * len(truth)), 1)
        for name, values in found.items():
            assert values[number] == pytest.approx(again[name].value, abs=1e-12, nan_ok=True), name


def test_a_bootstrap_is_the_same_by_its_seed_and_agrees_with_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort, found = cohort_of(75, 17, 102, 13), []
    for seed in (0, 0, 1):
        monkeypatch.setattr("mura_trt.evaluation.bootstrap.SEED", seed)
        found.append(figures(cohort, 2000)["kappa"].intervals["bootstrap"])
    first, second, other = found
    assert first == second
    assert first != other
    # The Monte Carlo error of a 2.5 % point of 2,000 draws is about 0.003 here; five of them.
    assert first == pytest.approx(other, abs=0.015)
    assert first == pytest.approx((0.608, 0.803), abs=0.02)


def test_the_bootstrap_draws_patients_and_not_studies() -> None:
    """Four studies of each patient that are decided alike make the interval twice as wide."""
    one = cohort_of(200, 40, 240, 40)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(one))
    alike = Cohort(one.truth, one.decided, None, None, np.arange(len(one)) // 4, one.body_parts)
    scattered = Cohort(one.truth[order], one.decided[order], None, None, np.arange(len(one)) // 4, one.body_parts)

    def width(cohort: Cohort) -> float:
        low, high = figures(cohort, 1000)["kappa"].intervals["bootstrap"]
        return high - low

    assert width(alike) == pytest.approx(2 * width(scattered), rel=0.15)


def test_a_part_keeps_its_patients_numbered_without_gaps() -> None:
    cohort = cohort_of(3, 3, 3, 3)
    cohort.body_parts = ["HAND", "WRIST"] * 6
    part = cohort.by_body_part()["WRIST"]
    assert part.patients.tolist() == [0, 1, 2, 3, 4, 5]
    assert len(part) == 6


@pytest.mark.parametrize("truth", [0, 1])
def test_one_class_leaves_undefined_what_needs_both(truth: int) -> None:
    values: NDArray[np.float64] = np.array([0.2, 0.7, 0.9])
    cohort = Cohort(np.full(3, truth), (values > 0.5).astype(np.int64), values, None, np.arange(3), [""] * 3)
    found = figures(cohort, 20)
    assert np.isnan(found["auroc"].value)
    assert np.isnan(found["average_precision"].value) == (truth == 0)
    assert np.isnan(found["specificity" if truth else "sensitivity"].value)
    assert np.isnan(found["kappa"].value)
    assert np.isnan(list(found["kappa"].intervals.values())).all()
    same = Cohort(np.ones(3, np.int64), np.ones(3, np.int64), None, None, np.arange(3), [""] * 3)
    assert np.isnan(figures(same, 20)["kappa"].value)
    assert np.isnan(figures(same, 20)["kappa"].intervals["bootstrap"]).all()


def test_readers_are_compared_on_the_same_resamples() -> None:
    cohort = cohort_of(75, 17, 102, 13)
    cohort.readers = np.stack([cohort.decided, cohort.truth], 1)
    same = kappa_difference(cohort, 0, 100)
    assert (same.value, same.intervals["bootstrap"]) == (0.0, (0.0, 0.0))
    better = kappa_difference(cohort, 1, 500)
    assert better.value == pytest.approx(0.7052401746724891 - 1)
    assert better.intervals["bootstrap"][1] < -0.15

"""What was measured, as figures in four levels and two of arithmetic, each with the bound that it must keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mura_trt.archives.keys import label
from mura_trt.archives.listing import Listing
from mura_trt.metrics import auroc, cohen_kappa
from mura_trt.parity.bounds import Bounds
from mura_trt.parity.measure import Measured
from mura_trt.studies import study_means

RESAMPLES = 2000  # of the paired bootstrap (Efron and Tibshirani 1993, chapter 13: percentile interval)
WORST = 5  # views that are named


class Figure(NamedTuple):
    """One number; ``bound`` is None where it is only told, and ``interval`` its 95 % one where it has one."""

    level: str
    name: str
    value: float
    bound: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def kept(self) -> bool:
        """Whether it is within its bound; NaN is not."""
        return self.bound is None or abs(self.value) <= self.bound


class Studies(NamedTuple):
    """Of the studies with a score, float64 (m,): the runtime's mean and the reference's, and labels where known."""

    names: list[str]
    probability: NDArray[np.float64]
    reference: NDArray[np.float64]
    label: NDArray[np.int64] | None


class Judgement(NamedTuple):
    """Figures in the order of their levels, the studies, and the views that differ most, worst first, with |dp|.

    Where nothing but pixels is out of bounds, they are those whose pixels differ most.
    """

    figures: list[Figure]
    studies: Studies
    worst: list[tuple[str, float]]
    views: int
    failed: int

    @property
    def missed(self) -> list[Figure]:
        """What is out of its bound."""
        return [figure for figure in self.figures if not figure.kept]

    def value(self, level: str, name: str) -> float:
        """One figure's value; raises KeyError."""
        return {(figure.level, figure.name): figure.value for figure in self.figures}[level, name]


def judge(measured: Measured, listing: Listing, bounds: Bounds, threshold: float = 0.5) -> Judgement:
    """Figures of what was measured; views without pixels are in none of them, and what has no bound is only told."""
    studies = _studies(measured, listing)
    figures = [
        *_pixels(measured, bounds),
        *_model(measured, bounds),
        *_arithmetic(measured, bounds),
        *_decisions(studies, bounds, threshold),
        *(_clinical(studies, bounds, threshold) if studies.label is not None else ()),
    ]
    difference = np.nan_to_num(np.abs(measured.probability - measured.true_probability), nan=np.inf)
    only_pixels = {figure.level for figure in figures if not figure.kept} == {"pixels"}
    order = np.argsort(-(measured.inside if only_pixels else difference), kind="stable")[:WORST]
    keys = [listing.keys(row, row + 1)[0] for row in measured.rows[order].tolist()]
    return Judgement(
        figures,
        studies,
        [(name, float(difference[at])) for name, at in zip(listing.view_names(keys), order, strict=True)],
        len(measured.rows),
        len(measured.failures),
    )


def _pixels(measured: Measured, bounds: Bounds) -> Iterator[Figure]:
    yield Figure("pixels", "inside", _largest(measured.inside, ~measured.colored), bounds.get("pixels.inside"))
    yield Figure("pixels", "border", _largest(measured.border, ~measured.colored), bounds.get("pixels.border"))
    if measured.colored.any():
        # Pillow makes red, green and blue of a JPEG and cuts them off before it takes luminance; DALI does not.
        yield Figure("pixels", "inside, in color", _largest(measured.inside, measured.colored))
    unread = int((measured.inside < 0).sum())
    if unread:
        yield Figure("pixels", "views that Pillow cannot read", unread)
    yield Figure("pixels", "effect on p, max", float(measured.pillow_dp.max(initial=0)))


def _largest(values: NDArray[np.int64], which: NDArray[np.bool_]) -> float:
    return float(values[which].max(initial=0))


def _model(measured: Measured, bounds: Bounds) -> Iterator[Figure]:
    for name, ours, theirs in (
        ("dp", measured.probability, measured.true_probability),
        ("dlogit", measured.logit, measured.true_logit),
    ):
        difference = np.abs(ours - theirs)
        yield Figure("model", f"{name}_mean", float(difference.mean()), bounds.get(f"model.{name}_mean"))
        yield Figure("model", f"{name}_p99", float(np.quantile(difference, 0.99)))
        yield Figure("model", f"{name}_max", float(difference.max()), bounds.get(f"model.{name}_max"))


def _arithmetic(measured: Measured, bounds: Bounds) -> Iterator[Figure]:
    yield Figure("batches", "dp_max", measured.company_dp, bounds.get("batches.dp_max"))
    if "half.largest" in bounds:
        layer = max(measured.largest, key=lambda name: measured.largest[name])
        yield Figure("half", f"largest, of {layer}", measured.largest[layer], bounds.get("half.largest"))
        yield Figure("half", "views that it was looked for in", len(measured.rows))
        if len(measured.half_dp):
            yield Figure("half", "dp_max", float(measured.half_dp.max()), bounds.get("half.dp_max"))
            yield Figure("half", "views computed in half precision", len(measured.half_dp))


def _studies(measured: Measured, listing: Listing) -> Studies:
    count = len(listing.studies)
    study_of = listing.study_of[measured.rows]
    means = []
    for probability in (measured.probability, measured.true_probability):
        views, _, mean = study_means(study_of, count, probability)
        # Not the mean over what is a number, as when scoring: where a score is NaN, the study's shall be.
        mean[study_of[np.isnan(probability)]] = np.nan
        means.append(mean)
    ours, theirs = means
    scored = np.flatnonzero(views)
    first = listing.first_views()
    labels = [label(first[number]) for number in scored.tolist()]
    known = [value for value in labels if value is not None]
    return Studies(
        listing.study_names(scored.astype(np.int32)),
        ours[scored],
        theirs[scored],
        np.array(known) if known and len(known) == len(labels) else None,
    )


def _decisions(studies: Studies, bounds: Bounds, threshold: float) -> Iterator[Figure]:
    difference = np.abs(studies.probability - studies.reference)
    flipped = (studies.probability > threshold) != (studies.reference > threshold)
    yield Figure("studies", "dp_mean", float(difference.mean()), bounds.get("studies.dp_mean"))
    yield Figure("studies", "dp_max", float(difference.max()), bounds.get("studies.dp_max"))
    yield Figure("studies", "flip_share", float(flipped.mean()), bounds.get("studies.flip_share"))
    farthest = float(np.abs(studies.reference - threshold)[flipped].max(initial=0))
    yield Figure("studies", "flip_margin", farthest, bounds.get("studies.flip_margin"))


def _clinical(studies: Studies, bounds: Bounds, threshold: float) -> Iterator[Figure]:
    """Differences, runtime less reference, with paired intervals: both are computed from each resample of studies."""
    assert studies.label is not None
    truth = studies.label
    if len(set(truth.tolist())) < 2:
        return
    ours, theirs = studies.probability, studies.reference
    if np.isnan(ours).any() or np.isnan(theirs).any():
        yield Figure("clinical", "auroc, difference", np.nan, bounds.get("clinical.auroc"))
        return
    measures: dict[str, Callable[[NDArray[np.int64], NDArray[np.float64]], float]] = {
        "auroc": lambda labels, scores: auroc(labels, scores).value,
        "kappa": lambda labels, scores: cohen_kappa(labels, scores > threshold).value,
        "sensitivity": lambda labels, scores: float((scores > threshold)[labels == 1].mean()),
        "specificity": lambda labels, scores: float((scores <= threshold)[labels == 0].mean()),
    }
    for name, of in measures.items():
        rng = np.random.default_rng(0)  # the same resamples for each
        draws = (rng.integers(0, len(truth), len(truth)) for _ in range(RESAMPLES))
        resampled = [
            of(truth[draw], ours[draw]) - of(truth[draw], theirs[draw]) for draw in draws if _both(truth[draw])
        ]
        low, high = np.quantile(resampled, [0.025, 0.975])
        yield Figure("clinical", f"{name}, reference", of(truth, theirs))
        yield Figure(
            "clinical",
            f"{name}, difference",
            of(truth, ours) - of(truth, theirs),
            bounds.get(f"clinical.{name}"),
            (float(low), float(high)),
        )


def _both(labels: NDArray[np.int64]) -> bool:
    return 0 < int(labels.sum()) < len(labels)

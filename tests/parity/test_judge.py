"""Figures of agreement, from measurements made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from mura_trt.archives.folder import FolderSource
from mura_trt.archives.listing import Entry, Found, Listing, gather
from mura_trt.parity.bounds import BOUNDS
from mura_trt.parity.judge import Judgement, judge
from mura_trt.parity.measure import Measured
from mura_trt.parity.tell import as_json, picture, table
from mura_trt.rows import Failure

BOUNDS_HERE = BOUNDS["int8"]
STUDIES, VIEWS_EACH = 60, 2


def listing(labelled: bool = True) -> Listing:
    ending = ("_negative", "_positive") if labelled else ("", "")
    keys = [
        f"XR_HAND/patient{study:05d}/study1{ending[study % 2]}/image{view}.png".encode()
        for study in range(STUDIES)
        for view in range(VIEWS_EACH)
    ]
    return gather(Found(FolderSource("nowhere"), map(Entry, keys)), None)


def measured(**changes: Any) -> Measured:
    """Views of a good reference, and a runtime that agrees with it."""
    count = STUDIES * VIEWS_EACH
    rng = np.random.default_rng(0)
    logit = (rng.normal(size=count) + 3 * (np.arange(count) // VIEWS_EACH % 2) - 1.5).astype(np.float32)
    probability = (1 / (1 + np.exp(-logit))).astype(np.float32)
    found = Measured(
        np.arange(count),
        probability.copy(),
        logit.copy(),
        probability,
        logit,
        np.ones(count, np.int64),
        np.full(count, 5),
        np.zeros(count, bool),
        np.full(4, 0.001, np.float32),
        1e-4,
        {"features.conv0": 10.0, "features.norm5": 200.0},
        np.full(4, 0.002, np.float32),
        [],
    )
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def missed(judgement: Judgement) -> set[str]:
    return {f"{figure.level}.{figure.name}" for figure in judgement.missed}


def test_what_agrees_keeps_every_bound() -> None:
    judgement = judge(measured(), listing(), BOUNDS_HERE)
    assert not judgement.missed
    assert (judgement.views, judgement.failed, len(judgement.studies.names)) == (120, 0, 60)
    assert judgement.value("half", "largest, of features.norm5") == 200.0
    assert "MISSED" not in table(judgement)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"inside": np.full(120, 2)}, {"pixels.inside"}),
        ({"inside": np.full(120, 2), "colored": np.ones(120, bool)}, set()),
        ({"border": np.full(120, 13)}, {"pixels.border"}),
        ({"company_dp": 0.03}, {"batches.dp_max"}),
        ({"largest": {"features.conv0": 17_000.0}}, {"half.largest, of features.conv0"}),
        ({"largest": {"features.conv0": float("inf")}}, {"half.largest, of features.conv0"}),
        ({"half_dp": np.array([0.01], np.float32)}, {"half.dp_max"}),
        ({"half_dp": np.array([np.nan], np.float32)}, {"half.dp_max"}),
        ({"half_dp": np.empty(0, np.float32)}, set()),
    ],
)
def test_each_level_misses_its_own_bound(changes: dict[str, Any], names: set[str]) -> None:
    assert missed(judge(measured(**changes), listing(), BOUNDS_HERE)) == names


def test_one_view_far_off_is_named() -> None:
    found = measured()
    found.probability[17] = np.clip(found.probability[17] + 0.06, 0, 1)
    judgement = judge(found, listing(), BOUNDS_HERE)
    assert "model.dp_max" in missed(judgement)
    name, difference = judgement.worst[0]
    assert name == "XR_HAND/patient00008/study1_negative/image1.png"
    assert difference == pytest.approx(0.06, abs=1e-3)
    assert "patient00008" in table(judgement)
    assert judgement.value("studies", "dp_max") == pytest.approx(0.03, abs=1e-3)


def test_nan_keeps_no_bound() -> None:
    found = measured()
    found.probability[3] = np.nan
    judgement = judge(found, listing(), BOUNDS_HERE)
    assert {"model.dp_mean", "model.dp_max", "studies.dp_max"} <= missed(judgement)
    assert judgement.worst[0][0].endswith("patient00001/study1_positive/image1.png")
    assert "nan" in table(judgement)
    json.dumps(as_json(judgement), allow_nan=False)
    found.probability[:] = np.nan
    assert "studies.dp_mean" in missed(judge(found, listing(), BOUNDS_HERE))


def test_decisions_that_turn_count_by_share_and_by_distance() -> None:
    found = measured()
    for view, value in ((0, 0.52), (1, 0.52)):
        found.true_probability[view], found.probability[view] = value, 0.49
    judgement = judge(found, listing(), BOUNDS_HERE)
    assert judgement.value("studies", "flip_share") == pytest.approx(1 / 60)
    assert judgement.value("studies", "flip_margin") == pytest.approx(0.02, abs=1e-6)
    assert missed(judgement) >= {"studies.flip_share"}
    assert "studies.flip_margin" not in missed(judgement)
    found.true_probability[0:2] = 0.57
    assert "studies.flip_margin" in missed(judge(found, listing(), BOUNDS_HERE))


def test_clinical_figures_are_those_of_scikit_learn_and_intervals_are_paired() -> None:
    found = measured()
    rng = np.random.default_rng(1)
    found.probability = np.clip(found.probability + rng.normal(0, 0.1, 120), 0, 1).astype(np.float32)
    judgement = judge(found, listing(), BOUNDS_HERE)
    studies = judgement.studies
    assert studies.label is not None
    for name, of in (
        ("auroc", roc_auc_score),
        ("kappa", lambda labels, scores: cohen_kappa_score(labels, scores > 0.5)),
        ("sensitivity", lambda labels, scores: (scores > 0.5)[labels == 1].mean()),
        ("specificity", lambda labels, scores: (scores <= 0.5)[labels == 0].mean()),
    ):
        ours, theirs = of(studies.label, studies.probability), of(studies.label, studies.reference)
        assert judgement.value("clinical", f"{name}, reference") == pytest.approx(theirs)
        figure = next(one for one in judgement.figures if one.name == f"{name}, difference")
        assert figure.value == pytest.approx(ours - theirs)
        assert figure.interval is not None
        low, high = figure.interval
        assert low <= figure.value <= high
        assert high - low < 0.3  # an unpaired one would be wider than either figure's own


@pytest.mark.parametrize("rows", [np.arange(120), np.arange(0, 120, 4)])
def test_without_labels_of_both_kinds_there_are_no_clinical_figures(rows: np.ndarray) -> None:
    every = listing(labelled=len(rows) < 120)
    some = every.take(np.flatnonzero(np.isin(np.arange(120) // VIEWS_EACH % 2, 0))) if len(rows) < 120 else every
    count = len(some)
    base = measured()
    for name in ("probability", "logit", "true_probability", "true_logit", "inside", "border", "colored"):
        setattr(base, name, getattr(base, name)[:count])
    base.rows = np.arange(count)
    assert not [figure for figure in judge(base, some, BOUNDS_HERE).figures if figure.level == "clinical"]


def test_failed_views_are_counted_and_left_out() -> None:
    found = measured(failures=[Failure(0, "screen", "EMPTY", "no bytes")])
    for name in ("rows", "probability", "logit", "true_probability", "true_logit", "inside", "border", "colored"):
        setattr(found, name, getattr(found, name)[1:])
    judgement = judge(found, listing(), BOUNDS_HERE)
    assert (judgement.views, judgement.failed) == (119, 1)
    assert not judgement.missed


def test_what_has_no_bound_is_only_told(tmp_path: Path) -> None:
    found = measured()
    found.probability[:] = 0.5
    judgement = judge(found, listing(), {})
    assert not judgement.missed
    told = json.loads(json.dumps(as_json(judgement)))
    assert told["kept"] is True
    assert not any("bound" in figure for figure in told["figures"])


def test_json_and_picture_tell_it_all(tmp_path: Path) -> None:
    found = measured()
    found.probability[17] = np.clip(found.probability[17] + 0.06, 0, 1)
    judgement = judge(found, listing(), BOUNDS_HERE)
    told = json.loads(json.dumps(as_json(judgement)))
    assert told["kept"] is False
    assert told["worst_views"][0]["dp"] == pytest.approx(0.06, abs=1e-3)
    assert {"level": "batches", "name": "dp_max", "value": 1e-4, "bound": 0.02, "kept": True} in told["figures"]
    picture(judgement, tmp_path / "p.png", "title", "PyTorch")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")

"""Means and decisions of studies against plain Python."""

from __future__ import annotations

import math
import random

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from mura_trt.archives.folder import FolderSource
from mura_trt.archives.listing import Listing
from mura_trt.studies import DEFAULT_THRESHOLD, study_means, study_tables

NAN = math.nan


def table_of(
    study_of: list[int], probability: list[float], threshold: float = DEFAULT_THRESHOLD, rows_at_once: int = 100
) -> pd.DataFrame:
    keys = [f"XR_HAND/p{study}/{view}.png".encode() for view, study in enumerate(study_of)]
    studies = [f"XR_HAND/p{study}".encode() for study in range(max(study_of) + 1)]
    listing = Listing(
        FolderSource("/"),
        pa.array(keys, pa.large_binary()),
        np.array(study_of, np.int32),
        pa.array(studies, pa.large_binary()),
    )
    return pd.concat(
        study_tables(listing, np.array(probability, np.float32), threshold, rows_at_once), ignore_index=True
    )


def by_hand(study_of: list[int], studies: int, probability: NDArray[np.float32]) -> list[tuple[int, int, float]]:
    """(views, scored, mean) of each study, summed in order."""
    rows = []
    for study in range(studies):
        values = [float(value) for value, of in zip(probability, study_of, strict=True) if of == study]
        total, scored = 0.0, 0
        for value in values:
            if not math.isnan(value):
                total, scored = total + value, scored + 1
        rows.append((len(values), scored, total / scored if scored else NAN))
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_means_equal_plain_python_to_the_last_bit(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr("mura_trt.studies._AT_ONCE", rng.choice([1, 7, 1000]))
    studies = rng.randrange(1, 40)
    # Views of a study need not be neighbours: a list may name them in any order.
    study_of = [*range(studies), *(rng.randrange(studies) for _ in range(rng.randrange(300)))]
    probability = np.array([NAN if rng.random() < 0.3 else rng.random() for _ in study_of], np.float32)
    views, scored, mean = study_means(np.array(study_of, np.int32), studies, probability)
    expected_views, expected_scored, expected_mean = zip(*by_hand(study_of, studies, probability), strict=True)
    assert views.tolist() == list(expected_views) and scored.tolist() == list(expected_scored)
    assert mean.dtype == np.float64
    np.testing.assert_array_equal(mean, expected_mean)


def test_sums_run_in_float64() -> None:
    tiny = np.float32(2**-30)
    probability = np.array([1.0, *[tiny] * 8], np.float32)  # float32 would lose every tiny one
    assert study_means(np.zeros(9, np.int32), 1, probability)[2][0] == (1 + 8 * 2**-30) / 9


@pytest.mark.parametrize(
    ("probability", "threshold", "abnormal"),
    [
        ([0.5], 0.5, 0),
        ([0.25, 0.75], 0.5, 0),
        ([float(np.nextafter(np.float32(0.5), np.float32(1)))], 0.5, 1),
        ([0.0, 1.0, NAN], 0.5, 0),
        ([0.75, NAN], 0.5, 1),
        ([1.0], 1.0, 0),
        ([0.0], 0.0, 0),
        ([1e-9], 0.0, 1),
        ([0.25], 0.125, 1),
    ],
)
def test_abnormal_is_strictly_above_the_threshold(probability: list[float], threshold: float, abnormal: int) -> None:
    assert table_of([0] * len(probability), probability, threshold)["abnormal"].tolist() == [abnormal]


def test_a_study_with_nothing_scored_has_no_probability_and_no_decision() -> None:
    table = table_of([0, 1, 1, 2], [0.75, NAN, NAN, 0.25])
    assert table["abnormal"].isna().tolist() == [False, True, False] == table["probability"].isna().tolist()
    assert table["abnormal"].dropna().tolist() == [1, 0]
    assert table[["views", "scored", "failed"]].to_numpy().tolist() == [[1, 1, 0], [2, 0, 2], [1, 1, 0]]
    assert str(table["abnormal"].dtype) == "Int8"


@pytest.mark.parametrize("rows_at_once", [1, 2, 3, 6, 7])
def test_parts_join_to_the_whole(rows_at_once: int) -> None:
    rng = random.Random(0)
    study_of = [0, 1, 2, 3, 4, 5, 5, 2, 2, 0]
    probability = [rng.random() for _ in study_of]
    pd.testing.assert_frame_equal(
        table_of(study_of, probability, rows_at_once=rows_at_once), table_of(study_of, probability)
    )

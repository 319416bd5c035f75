"""Which views and studies stand for an archive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mura_trt.archives import list_archive
from mura_trt.archives.listing import Listing
from mura_trt.sample import spread_views, whole_studies


def listing(make_png: Callable[[str], Path], root: Path) -> Listing:
    """20 hand studies of 1 to 3 views, 4 wrist studies of 5, one elbow of 2."""
    for number in range(20):
        for view in range(1 + number % 3):
            make_png(f"a/XR_HAND/patient{number:05d}/study1_negative/image{view}.png")
    for number in range(4):
        for view in range(5):
            make_png(f"a/XR_WRIST/patient{number:05d}/study1_positive/image{view}.png")
    for view in range(2):
        make_png(f"a/XR_ELBOW/patient00000/study1_positive/image{view}.png")
    return list_archive(root / "a")


def test_views_come_evenly_from_body_parts_and_studies(make_png: Callable[[str], Path], tmp_path: Path) -> None:
    found = listing(make_png, tmp_path)
    parts = np.array(found.body_parts_of_studies())
    rows = spread_views(found, 9)
    counts = Counter(parts[found.study_of[rows]].tolist())
    assert counts["ELBOW"] == 2  # all there are
    assert {counts["HAND"], counts["WRIST"]} == {3, 4}
    assert np.array_equal(rows, spread_views(found, 9))
    # All 2 and 20 views of elbows and wrists, and of the 39 of hands one from each of the 20 studies.
    studies = Counter(found.study_of[spread_views(found, 42)].tolist())
    assert [count for study, count in studies.items() if parts[study] == "HAND"] == [1] * 20
    assert sorted(spread_views(found, 10_000).tolist()) == list(range(len(found)))


def test_studies_stay_whole(make_png: Callable[[str], Path], tmp_path: Path) -> None:
    found = listing(make_png, tmp_path)
    some = whole_studies(found, 5)
    assert len(some.studies) == 5
    sizes = dict(zip(found.study_names(np.arange(25, dtype=np.int32)), np.bincount(found.study_of), strict=True))
    chosen = dict(zip(some.study_names(np.arange(5, dtype=np.int32)), np.bincount(some.study_of), strict=True))
    assert chosen.items() <= sizes.items()
    assert len(whole_studies(found, 100)) == len(found)

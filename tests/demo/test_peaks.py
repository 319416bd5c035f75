"""How often a map's peak lies in a lesion, on maps and boxes made by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.demo_model import peak_shares, peaks

# Of a view of 640 x 320 pixels: a box in the third column and second row of 10 x 10 positions.
BOX = {"x0": 130, "y0": 34, "x1": 190, "y1": 62, "width": 640, "height": 320}


def map_with_peak(row: int, column: int) -> list[float]:
    values = np.zeros((10, 10))
    values[row, column] = 1
    return values.ravel().tolist()


def table(spots: list[tuple[int, int]]) -> pd.DataFrame:
    maps = pd.DataFrame([map_with_peak(*spot) for spot in spots], columns=[f"m{at}" for at in range(100)])
    return maps.assign(view=[f"v{at}" for at in range(len(spots))])


def drawn(kinds: list[str]) -> pd.DataFrame:
    rows = [{"view": f"v{at}", "study": f"s{at // 2}", "kind": kind, **BOX} for at, kind in enumerate(kinds)]
    return pd.DataFrame(rows)


def test_peaks_in_the_box_count_and_others_do_not() -> None:
    found = peaks(table([(1, 2), (1, 2), (2, 1), (9, 9)]), drawn(["hardware", "hardware", "fracture", "fracture"]))
    assert (found["all"]["views"], found["all"]["touching"]["share"]) == (4, 0.5)
    assert found["all"]["touching"]["chance"] == found["all"]["centre"]["chance"] == 0.01
    assert found["hardware"]["centre"]["share"] == 1.0
    assert found["fracture"]["touching"]["share"] == 0.0
    assert found["hardware"]["touching"]["interval"] == [1.0, 1.0]
    assert found["all"]["touching"]["interval"] == [0.0, 1.0]  # of two studies
    assert found["all"]["touching"]["beyond_chance"] == pytest.approx([-0.01, 0.99])
    assert peaks(table([]), drawn([])) == {}


def test_a_position_that_only_touches_the_box_is_within_the_tolerance() -> None:
    boxes = np.array([[0.25, 0.25, 0.33, 0.33]])  # from the middle of position 2 to a third of position 3
    for spot, touching, centre in (((2, 2), 1.0, 1.0), ((3, 3), 1.0, 0.0), ((2, 3), 1.0, 0.0), ((1, 2), 0.0, 0.0)):
        maps = np.reshape(map_with_peak(*spot), (1, 10, 10)).astype(np.float32)
        found = peak_shares(maps, boxes, np.zeros(1, np.int64))
        assert (found["touching"]["share"], found["centre"]["share"]) == (touching, centre), spot
        assert (found["touching"]["chance"], found["centre"]["chance"]) == (0.04, 0.01)

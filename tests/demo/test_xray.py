from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from mura_trt.demo.anatomy import BODY_PARTS
from mura_trt.demo.xray import LESION_KINDS, Box, draw_view

SIZES = ((512, 300), (256, 512), (108, 89))


def draw(
    seed: int, body_part: str, lesion: str | None, size: tuple[int, int], lesion_seed: int = 0
) -> tuple[NDArray[np.uint8], Box | None]:
    rngs = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1, lesion_seed])
    return draw_view(*rngs, body_part, lesion, size)


@pytest.mark.parametrize("body_part", BODY_PARTS)
def test_view_is_a_deterministic_picture(body_part: str) -> None:
    image, box = draw(3, body_part, None, (300, 220))
    assert image.shape == (300, 220)
    assert image.dtype == np.uint8
    assert box is None
    assert np.percentile(image, 99) - np.percentile(image, 1) > 80
    np.testing.assert_array_equal(image, draw(3, body_part, None, (300, 220))[0])
    assert (image != draw(4, body_part, None, (300, 220))[0]).mean() > 0.5


def test_without_a_lesion_its_stream_does_not_matter() -> None:
    one, other = (draw(5, "WRIST", None, (300, 220), lesion_seed)[0] for lesion_seed in (1, 2))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("body_part", BODY_PARTS)
def test_lesion_changes_the_view_inside_its_box_only(body_part: str) -> None:
    """Outside the box only what is too faint to see may differ: at most 4 gray levels."""
    for seed, (lesion, size) in enumerate(product(LESION_KINDS, SIZES)):
        healthy = draw(seed, body_part, None, size)[0].astype(int)
        hurt, box = draw(seed, body_part, lesion, size)
        assert box is not None
        assert 0 <= box.x0 < box.x1 <= size[1]
        assert 0 <= box.y0 < box.y1 <= size[0]
        difference = np.abs(hurt - healthy)
        inside = np.s_[box.y0 : box.y1, box.x0 : box.x1]
        # A crack is a fraction of a pixel in the smallest image.
        assert difference[inside].max() > (12 if max(size) > 200 else 3), (lesion, size)
        difference[inside] = 0
        assert difference.max() <= 4, (lesion, size)


def test_lesions_are_small_and_fractures_smaller_than_displacements() -> None:
    def median_area(lesion: str) -> float:
        boxes = [draw(seed, "FOREARM", lesion, (256, 120))[1] for seed in range(20)]
        areas = [(box.x1 - box.x0) * (box.y1 - box.y0) for box in boxes if box]
        return float(np.median(areas)) / (256 * 120)

    assert median_area("fracture") < median_area("displaced") < 0.15
    assert median_area("hardware") < 0.15


def test_hardware_is_bright_and_a_fracture_dark() -> None:
    for seed in range(5):
        healthy = draw(seed, "HUMERUS", None, (512, 240))[0].astype(int)
        metal = draw(seed, "HUMERUS", "hardware", (512, 240))[0]
        cracked = draw(seed, "HUMERUS", "fracture", (512, 240))[0]
        assert (metal - healthy).min() >= 0
        assert metal.max() > 200
        assert (cracked - healthy).min() < -12


def test_views_of_a_study_agree_about_the_lesion() -> None:
    """The same stream for the lesion hurts the same bone in every view, so the boxes lie near each other."""
    boxes = []
    for seed in range(6):
        rngs = np.random.default_rng(seed), np.random.default_rng(1)
        box = draw_view(*rngs, "HUMERUS", "fracture", (512, 240))[1]
        assert box is not None
        boxes.append(box)
    assert np.ptp([(box.y0 + box.y1) / 2 for box in boxes]) < 100


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown body part 'KNEE': choose one of ELBOW, "):
        draw(0, "KNEE", None, (200, 200))
    with pytest.raises(ValueError, match="unknown lesion 'cyst': choose one of fracture, "):
        draw(0, "WRIST", "cyst", (200, 200))

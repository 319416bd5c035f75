from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from mura_trt.demo import xray
from mura_trt.demo.anatomy import BODY_PARTS, Bone
from mura_trt.demo.film import Camera, Floats
from mura_trt.demo.lesions import Site, find_site
from mura_trt.demo.overlays import GLYPHS, write_letters
from mura_trt.demo.xray import LESION_KINDS, Drawn, Person, draw_view

SIZES = ((512, 300), (256, 512), (108, 89))
PLAIN = Person()


def draw(
    seed: int, body_part: str, lesion: str | None, size: tuple[int, int], lesion_seed: int = 0, person: Person = PLAIN
) -> Drawn:
    rngs = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1, lesion_seed])
    return draw_view(*rngs, body_part, lesion, size, person)


@pytest.mark.parametrize("body_part", BODY_PARTS)
def test_view_is_a_deterministic_picture(body_part: str) -> None:
    image, box, _ = draw(3, body_part, None, (300, 220))
    assert image.shape == (300, 220)
    assert image.dtype == np.uint8
    assert box is None
    assert np.percentile(image, 99) - np.percentile(image, 1) > 60
    np.testing.assert_array_equal(image, draw(3, body_part, None, (300, 220))[0])
    assert (image != draw(4, body_part, None, (300, 220))[0]).mean() > 0.5


def test_without_a_lesion_its_stream_does_not_matter() -> None:
    one, other = (draw(5, "WRIST", None, (300, 220), lesion_seed)[0] for lesion_seed in (1, 2))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("body_part", BODY_PARTS)
def test_lesion_changes_the_view_inside_its_box_only(body_part: str) -> None:
    """Outside the box only what is too faint to see may differ: at most 4 gray levels."""
    people = (PLAIN, Person(cast=True), Person(degenerative=True, jewellery=True))
    for seed, (lesion, size) in enumerate(product(LESION_KINDS, SIZES)):
        person = people[seed % len(people)]
        healthy = draw(seed, body_part, None, size, person=person)[0].astype(int)
        hurt, box, _ = draw(seed, body_part, lesion, size, person=person)
        assert box is not None
        assert 0 <= box.x0 < box.x1 <= size[1]
        assert 0 <= box.y0 < box.y1 <= size[0]
        difference = np.abs(hurt - healthy)
        inside = np.s_[box.y0 : box.y1, box.x0 : box.x1]
        assert difference[inside].max() > 12, (lesion, size)
        difference[inside] = 0
        assert difference.max() <= 4, (lesion, size)


def _shrunk(gray: NDArray[np.uint8], side: int) -> NDArray[np.float64]:
    from PIL import Image

    return np.asarray(Image.fromarray(gray).resize((side, side), Image.Resampling.BILINEAR), float)


@pytest.mark.parametrize(("side", "share"), [(320, 0.93), (160, 0.85)])
def test_lesions_are_still_there_at_the_networks_size(side: int, share: float) -> None:
    """Resized, the change outdoes the grain by far: it is 12 gray levels or more in 10 pixels or more."""
    seen = []
    for seed, (body_part, lesion) in enumerate(product(BODY_PARTS, LESION_KINDS * 2)):
        twins = [draw(seed, body_part, kind, (512, 280)).gray for kind in (None, lesion)]
        difference = np.abs(_shrunk(twins[1], side) - _shrunk(twins[0], side))
        seen.append((difference > 12).sum() >= 10)
    assert np.mean(seen) >= share, np.mean(seen)


def test_lesions_are_small_and_fractures_smaller_than_displacements() -> None:
    def median_area(lesion: str) -> float:
        boxes = [draw(seed, "FOREARM", lesion, (256, 120)).box for seed in range(20)]
        areas = [(box.x1 - box.x0) * (box.y1 - box.y0) for box in boxes if box]
        return float(np.median(areas)) / (256 * 120)

    assert median_area("fracture") < median_area("displaced") < 0.15
    assert median_area("hardware") < 0.2


def test_hardware_is_bright_and_a_fracture_dark() -> None:
    for seed in range(8):
        healthy = draw(seed, "HUMERUS", None, (512, 240))
        metal = draw(seed, "HUMERUS", "hardware", (512, 240)).gray.astype(int)
        cracked = draw(seed, "HUMERUS", "fracture", (512, 240)).gray.astype(int)
        sign = -1 if "inverted" in healthy.traits else 1
        assert (sign * (metal - healthy.gray)).min() >= 0
        assert (sign * (metal - healthy.gray)).max() > 20
        assert (sign * (cracked - healthy.gray)).min() < -12


def test_views_of_a_study_mostly_agree_about_the_bone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same stream for the lesion hurts the same bone in most views, however they were taken."""
    hurt: list[int] = []

    def watched(rng: np.random.Generator, camera: Camera, bones: list[Bone], kind: str, opened: Floats | None) -> Site:
        site = find_site(rng, camera, bones, kind, opened)
        hurt.append(bones.index(site.bone))
        return site

    monkeypatch.setattr(xray, "find_site", watched)
    for lesion_seed in range(3):
        hurt.clear()
        for seed in range(8):
            draw_view(np.random.default_rng(seed), np.random.default_rng(lesion_seed), "FOREARM", "fracture", (200, 90))
        assert Counter(hurt).most_common(1)[0][1] >= 5


def test_the_lesion_lies_in_what_the_collimator_leaves_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xray, "COLLIMATED", 1.0)
    for seed, body_part in enumerate(BODY_PARTS * 3):
        twins = [draw(seed, body_part, lesion, (320, 200)).gray.astype(int) for lesion in (None, "fracture")]
        assert (np.abs(twins[1] - twins[0]) > 12).sum() >= 5, (seed, body_part)


@pytest.mark.parametrize("trait", Person._fields)
def test_a_persons_traits_show_and_are_told(trait: str) -> None:
    for body_part in BODY_PARTS:
        plain, marked = (draw(6, body_part, None, (300, 220), person=Person(**{trait: has})) for has in (False, True))
        assert marked.traits - plain.traits == {trait}
        assert (np.abs(marked.gray.astype(int) - plain.gray) > 8).any(), body_part


def test_traits_of_the_views_are_as_common_as_they_should_be() -> None:
    views = [draw(seed, "FINGER", None, (80, 64)).traits for seed in range(400)]
    counts = Counter(trait for traits in views for trait in traits)
    for trait, share in {"oblique": 0.3, "lateral": 0.25, "collimated": 0.4, "letters": 0.35, "inverted": 0.04}.items():
        assert abs(counts[trait] / 400 - share) < 4 * np.sqrt(share * (1 - share) / 400), trait


def test_an_inverted_view_is_dark_on_bright_ground(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xray, "LETTERED", 0.0)
    usual = draw(8, "HAND", None, (300, 220)).gray
    monkeypatch.setattr(xray, "INVERTED", 1.0)
    inverted = draw(8, "HAND", None, (300, 220))
    assert "inverted" in inverted.traits
    np.testing.assert_allclose(inverted.gray, 255.0 - usual, atol=1)  # halves round to even


def test_letters_stay_near_the_borders() -> None:
    assert len(GLYPHS) >= 36
    for seed, size in enumerate(SIZES * 20):
        gray = np.full(size, 100, np.float32)
        write_letters(np.random.default_rng(seed), gray)
        ys, xs = (np.abs(at / side - 0.5) for at, side in zip(np.nonzero(gray != 100), size, strict=True))
        assert len(ys) > 10
        assert np.maximum(ys, xs).min() > 0.36


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown body part 'KNEE': choose one of ELBOW, "):
        draw(0, "KNEE", None, (200, 200))
    with pytest.raises(ValueError, match="unknown lesion 'cyst': choose one of fracture, "):
        draw(0, "WRIST", "cyst", (200, 200))

"""What augmentation does to pixels, seen from outside: mirrored or not, turned by how much, black around."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mura_trt.training.augment import augment

SIDE = 32


class Fixed(np.random.Generator):
    """Draws what it is told: a chance for each image, and the same angle for all, as a share of the range."""

    def __init__(self, chance: float, share: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.chance, self.share = chance, share

    def random(self, size: int) -> NDArray[np.float64]:  # type: ignore[override]
        return np.full(size, self.chance)

    def uniform(self, low: float, high: float, size: int) -> NDArray[np.float64]:  # type: ignore[override]
        return np.full(size, low + self.share * (high - low))


STRAIGHT, MIRRORED = 0.9, 0.1  # chances


def noise(n: int, side: int = SIDE) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (n, side, side, 1), np.uint8)


def augmented(images: NDArray[np.uint8], rng: np.random.Generator, degrees: float) -> NDArray[np.float32]:
    result = augment(torch.from_numpy(images), rng, degrees)
    assert result.dtype == torch.float32 and tuple(result.shape) == images.shape
    return np.asarray(result.numpy())


@pytest.mark.parametrize("side", [32, 33, 320])
def test_without_rotation_an_image_is_itself_or_its_mirror_image(side: int) -> None:
    images = noise(64 if side < 100 else 8, side)
    result = augmented(images, np.random.default_rng(5), 0)
    same = np.abs(result - images).max((1, 2, 3)) < 0.02
    mirrored = np.abs(result - images[:, :, ::-1]).max((1, 2, 3)) < 0.02
    assert np.all(same ^ mirrored)
    assert same.any() and mirrored.any()


def test_half_are_mirrored() -> None:
    images = np.zeros((1000, 8, 8, 1), np.uint8)
    images[:, :, :4] = 200
    result = augmented(images, np.random.default_rng(1), 0)
    assert np.mean(result[:, 4, 6, 0] > 100) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("chance", [STRAIGHT, MIRRORED])
def test_a_quarter_turn_equals_numpys(chance: float) -> None:
    images = noise(2)
    turned = [augmented(images, Fixed(chance, share), 90) for share in (0, 1)]
    flipped = images[:, :, ::-1] if chance == MIRRORED else images
    quarters = [np.rot90(flipped, k, (1, 2)) for k in (1, -1)]
    distance = np.array([[np.abs(a.astype(float) - b).max() for b in quarters] for a in turned])
    # One end of the range is a quarter to the left and the other one to the right; which is which does not matter.
    matches = distance < 0.05
    assert matches.sum() == 2 and (matches.sum(0) == 1).all() and (matches.sum(1) == 1).all()


def test_a_half_turn_equals_numpys() -> None:
    images = noise(2)
    assert np.abs(augmented(images, Fixed(STRAIGHT, 1), 180) - np.rot90(images, 2, (1, 2))).max() < 0.05


def angles(degrees: float, n: int, seed: int) -> NDArray[np.float64]:
    """By how much a dot above the middle, where mirroring leaves it, is turned."""
    side = 65
    images = np.zeros((n, side, side, 1), np.uint8)
    images[:, 6:11, 30:35] = 255
    result = augmented(images, np.random.default_rng(seed), degrees)[..., 0].astype(np.float64)
    y, x = np.mgrid[:side, :side] - side // 2
    mass = result.sum((1, 2))
    return np.asarray(np.degrees(np.arctan2((result * x).sum((1, 2)) / mass, -(result * y).sum((1, 2)) / mass)))


@pytest.mark.parametrize("degrees", [10.0, 30.0])
def test_angles_are_uniform_within_their_limits(degrees: float) -> None:
    found = np.sort(angles(degrees, 400, seed=2))
    assert np.abs(found).max() <= degrees + 0.5
    # Kolmogorov and Smirnov's distance; above 0.098 for one uniform sample of 400 in a thousand.
    uniform = (found + degrees) / (2 * degrees)
    assert np.abs(uniform - (np.arange(400) + 0.5) / 400).max() < 0.098


def test_outside_is_black_and_inside_is_not() -> None:
    result = augmented(np.full((4, SIDE, SIDE, 1), 255, np.uint8), Fixed(MIRRORED, 1), 45)[..., 0]
    assert (result[:, [0, 0, -1, -1], [0, -1, 0, -1]] == 0).all()
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    inside = np.hypot(x, y) < SIDE / 2 - 1.5
    assert np.abs(result[:, inside] - 255).max() < 0.02
    assert result.min() >= 0 and result.max() <= 255.01


def test_a_turn_keeps_lengths_also_when_mirrored() -> None:
    side = 65
    image = np.zeros((1, side, side, 1), np.uint8)
    image[0, 31:34, 50:53] = 255
    image[0, 10:13, 31:34] = 255
    for chance in (STRAIGHT, MIRRORED):
        result = augmented(image, Fixed(chance, 0.85), 30)[0, ..., 0].astype(np.float64)
        y, x = np.mgrid[:side, :side] - side // 2
        second = float((result * (x**2 + y**2)).sum() / result.sum())
        expected = float((image[0, ..., 0] * (x**2 + y**2)).sum() / image.sum(dtype=float))
        assert second == pytest.approx(expected, rel=0.02)


def test_the_same_numbers_give_the_same_images_and_others_others() -> None:
    images = noise(8)
    before = images.copy()
    first = augmented(images, np.random.default_rng([0, 1, 2]), 30)
    np.testing.assert_array_equal(first, augmented(images, np.random.default_rng([0, 1, 2]), 30))
    assert not np.array_equal(first, augmented(images, np.random.default_rng([0, 1, 3]), 30))
    np.testing.assert_array_equal(images, before)

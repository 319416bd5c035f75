"""The loss that says where."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mura_trt.training.augment import augment
from mura_trt.training.losses import box_masks, location_loss

NONE = np.full(4, np.nan, np.float32)


def boxes(*rows: tuple[float, ...]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array(rows, np.float32).reshape(-1, 4)


def test_a_mask_covers_every_pixel_that_the_box_touches() -> None:
    masks = box_masks(np.stack([boxes((0.25, 0.5, 0.5, 1.0))[0], NONE, boxes((0.3, 0.0, 0.31, 0.1))[0]]), 64)
    assert masks.shape == (3, 64, 64, 1) and masks.dtype == np.uint8
    expected = np.zeros((64, 64), np.uint8)
    expected[32:64, 16:32] = 255
    np.testing.assert_array_equal(masks[0, ..., 0], expected)
    assert not masks[1].any()
    assert np.argwhere(masks[2, ..., 0]).tolist() == [[row, 19] for row in range(7)]


def masks_of(*places: tuple[float, ...]) -> torch.Tensor:
    return torch.from_numpy(box_masks(boxes(*places), 64)[..., 0]).float()


def test_it_is_minus_the_log_of_the_softmax_within_the_positions_touched() -> None:
    cam = torch.randn(2, 2, 2, generator=torch.manual_seed(1))
    masks = torch.cat([masks_of((0.0, 0.0, 1.0, 0.5)), masks_of((0.6, 0.6, 0.7, 0.7))])
    share = torch.softmax(cam.flatten(1), 1)
    expected = -(torch.log(share[0, 0] + share[0, 1]) + torch.log(share[1, 3])) / 2
    assert float(location_loss(cam, masks)) == pytest.approx(float(expected), rel=1e-6)


def test_an_even_map_costs_the_log_of_the_positions_and_a_sharp_one_nothing() -> None:
    mask = masks_of((0.0, 0.0, 0.1, 0.1))
    assert float(location_loss(torch.zeros(1, 2, 2), mask)) == pytest.approx(np.log(4))
    assert float(location_loss(torch.tensor([[[50.0, 0.0], [0.0, 0.0]]]), mask)) == pytest.approx(0, abs=1e-6)
    # A constant everywhere is the image loss's affair.
    cam = torch.randn(1, 2, 2)
    assert float(location_loss(cam + 7, mask)) == pytest.approx(float(location_loss(cam, mask)), abs=1e-5)


def test_views_without_a_box_cost_nothing_and_have_no_gradient() -> None:
    cam = torch.randn(3, 2, 2, requires_grad=True)
    masks = torch.stack([torch.zeros(64, 64), masks_of((0.0, 0.0, 0.1, 0.1))[0], torch.zeros(64, 64)])
    loss = location_loss(cam, masks)
    loss.backward()  # type: ignore[no-untyped-call]
    assert cam.grad is not None
    assert not cam.grad[[0, 2]].any() and cam.grad[1].any()
    alone = location_loss(cam.detach()[1:2], masks[1:2])
    assert float(loss.detach()) == pytest.approx(float(alone) / 3)
    nothing = location_loss(cam, torch.zeros(3, 64, 64))
    nothing.backward()  # type: ignore[no-untyped-call]
    assert float(nothing.detach()) == 0


def test_a_mask_turns_with_its_image() -> None:
    """The image is its own mask here, so that whatever augmentation does must leave them equal."""
    masks = box_masks(np.tile(boxes((0.2, 0.3, 0.5, 0.4)), (6, 1)), 64)
    turned = augment(torch.from_numpy(np.concatenate([masks, masks], 3)), np.random.default_rng(3), 30)
    assert torch.equal(turned[..., 0], turned[..., 1])
    assert len({float(picture.flatten().dot(torch.arange(64.0 * 64))) for picture in turned[..., 1]}) == 6

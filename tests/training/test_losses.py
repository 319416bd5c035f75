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


def test_a_lesion_competes_with_every_position_that_has_none() -> None:
    """Plainly: of each view with a lesion, its own positions against all others of the batch that are free."""
    cam = torch.randn(3, 2, 2, generator=torch.manual_seed(1))
    masks = torch.cat([masks_of((0.0, 0.0, 1.0, 0.5)), torch.zeros(1, 64, 64), masks_of((0.6, 0.6, 0.7, 0.7))])
    lesions = [[cam[0, 0, 0], cam[0, 0, 1]], [cam[2, 1, 1]]]
    free = [cam[0, 1, 0], cam[0, 1, 1], *cam[1].flatten(), cam[2, 0, 0], cam[2, 0, 1], cam[2, 1, 0]]
    elsewhere = sum(float(one.exp()) for one in free)
    expected = 0.0
    for lesion in lesions:
        inside = sum(float(one.exp()) for one in lesion)
        expected -= float(np.log(inside / (inside + elsewhere))) / 3
    assert float(location_loss(cam, masks)) == pytest.approx(expected, rel=1e-5)


def test_an_even_map_costs_the_log_of_the_positions_and_a_sharp_one_nothing() -> None:
    mask = masks_of((0.0, 0.0, 0.1, 0.1))
    assert float(location_loss(torch.zeros(1, 2, 2), mask)) == pytest.approx(np.log(4))
    assert float(location_loss(torch.tensor([[[50.0, 0.0], [0.0, 0.0]]]), mask)) == pytest.approx(0, abs=1e-6)
    # A constant everywhere is the image loss's affair.
    cam = torch.randn(1, 2, 2)
    assert float(location_loss(cam + 7, mask)) == pytest.approx(float(location_loss(cam, mask)), abs=1e-5)


def test_a_normal_view_is_pushed_down_and_a_lesion_up() -> None:
    cam = torch.zeros(2, 2, 2, requires_grad=True)
    location_loss(cam, torch.cat([masks_of((0.0, 0.0, 0.1, 0.1)), torch.zeros(1, 64, 64)])).backward()  # type: ignore[no-untyped-call]
    assert cam.grad is not None
    assert cam.grad[0, 0, 0] < 0 and (cam.grad.flatten()[1:] > 0).all()


@pytest.mark.parametrize("masks", [torch.zeros(3, 64, 64), torch.full((3, 64, 64), 255.0)], ids=["none", "all"])
def test_where_there_is_nothing_to_tell_apart_it_costs_nothing(masks: torch.Tensor) -> None:
    cam = torch.randn(3, 2, 2, requires_grad=True)
    loss = location_loss(cam, masks)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert cam.grad is not None and not cam.grad.any()


def test_a_mask_turns_with_its_image() -> None:
    """The image is its own mask here, so that whatever augmentation does must leave them equal."""
    masks = box_masks(np.tile(boxes((0.2, 0.3, 0.5, 0.4)), (6, 1)), 64)
    turned = augment(torch.from_numpy(np.concatenate([masks, masks], 3)), np.random.default_rng(3), 30)
    assert torch.equal(turned[..., 0], turned[..., 1])
    assert len({float(picture.flatten().dot(torch.arange(64.0 * 64))) for picture in turned[..., 1]}) == 6

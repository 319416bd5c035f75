"""How far the activation map points beside a lesion whose place is known; driven down beside the image loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


def box_masks(boxes: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """uint8 (N, size, size, 1): 255 inside each view's box, 0 elsewhere and in views without one.

    ``boxes`` is float32 (N, 4), x0, y0, x1, y1 as parts of width and height, or NaN.
    """
    masks = np.zeros((len(boxes), size, size, 1), np.uint8)
    for mask, box in zip(masks, boxes, strict=True):
        if not np.isnan(box).any():
            x0, y0 = np.floor(box[:2] * size).astype(int)
            x1, y1 = np.ceil(box[2:] * size).astype(int)
            mask[y0:y1, x0:x1] = 255
    return masks


def location_loss(cam: Tensor, masks: Tensor) -> Tensor:
    """How little of the activation map's softmax lies in the lesion: -log of its sum over the positions that touch it.

    It compares positions of one view with each other, so it says where without saying how much: that is the image
    loss's part. Views without a lesion cost nothing.

    Parameters
    ----------
    cam : Tensor
        float (N, h, w).
    masks : Tensor
        float (N, S, S), 255 in the lesion and 0 elsewhere; S a multiple of h and of w.

    Returns
    -------
    Tensor
        Scalar: the mean over all N views, in nats.
    """
    from torch.nn import functional as F

    stride = masks.shape[1] // cam.shape[1], masks.shape[2] // cam.shape[2]
    inside = (F.max_pool2d(masks[:, None], stride) > 127).flatten(1)
    shown = inside.any(1)
    log_share = F.log_softmax(cam.float().flatten(1), 1)[shown]
    return -log_share.masked_fill(~inside[shown], -float("inf")).logsumexp(1).sum() / len(cam)

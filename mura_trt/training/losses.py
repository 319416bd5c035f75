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
    """How little the activation map singles out the lesions among all positions of a batch.

    For each view with a lesion, -log of the share that the positions touching it have in a softmax over these and all
    positions without a lesion, of every view: so a lesion must stand out from its own surroundings and from normal
    views alike. It says where without saying how much; that is the image loss's part.

    Parameters
    ----------
    cam : Tensor
        float (N, h, w).
    masks : Tensor
        float (N, S, S), 255 in the lesion and 0 elsewhere; S a multiple of h and of w.

    Returns
    -------
    Tensor
        Scalar: the sum over the views with a lesion, divided by N, in nats.
    """
    from torch.nn import functional as F

    stride = masks.shape[1] // cam.shape[1], masks.shape[2] // cam.shape[2]
    inside = (F.max_pool2d(masks[:, None], stride) > 127).flatten(1)
    if inside.all() or not inside.any():
        return 0 * cam.float().sum()  # nothing to tell apart
    height = cam.float().flatten(1)
    nothing = -float("inf")
    elsewhere = height.masked_fill(inside, nothing).flatten().logsumexp(0)
    lesions = height[inside.any(1)].masked_fill(~inside[inside.any(1)], nothing).logsumexp(1)
    return F.softplus(elsewhere - lesions).sum() / len(cam)

"""Lateral inversion and rotation of whole batches, as one resampling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def augment(images: Tensor, rng: np.random.Generator, degrees: float) -> Tensor:
    """Mirrors each image with a chance of one half and turns it by up to ``degrees`` either way.

    Parameters
    ----------
    images : Tensor
        uint8 (N, S, S, 1), square.
    rng : numpy.random.Generator
        Taken from on the host, so that every device draws the same.
    degrees : float
        The most an image is turned; the angle is uniform between.

    Returns
    -------
    Tensor
        float32 (N, S, S, 1), gray levels 0..255; what comes into view from outside is black.
    """
    import torch
    from torch.nn import functional as F

    side = np.where(rng.random(len(images)) < 0.5, -1.0, 1.0)
    angle = np.radians(rng.uniform(-degrees, degrees, len(images)))
    zero = np.zeros_like(angle)
    # Where each pixel of the result lies in the image: turned, then mirrored.
    to_source = np.array([[side * np.cos(angle), -side * np.sin(angle), zero], [np.sin(angle), np.cos(angle), zero]])
    theta = torch.from_numpy(to_source.transpose(2, 0, 1).astype(np.float32)).to(images.device)
    planes = images.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(theta, list(planes.shape), align_corners=False)
    return F.grid_sample(planes, grid, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)

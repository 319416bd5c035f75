"""A class activation map over its X-ray, and the file of such a picture."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

# A map's values add up to the logit, as parts of it. Below 2 at its peak, where nothing is found, it is drawn paler.
FULL_SCALE = 2.0
OPACITY = 0.6  # of the map at its peak
JPEG_QUALITY = 88


def overlay(gray: NDArray[np.uint8], cam: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A class activation map in color over its X-ray, uint8 (H, W, 3).

    What speaks for abnormal is drawn, from yellow to red, up to the map's peak or to ``FULL_SCALE`` where the peak is
    lower; what speaks against it is left gray.

    Parameters
    ----------
    gray
        uint8 (H, W).
    cam
        float32 (h, w), parts of the logit; bilinear between positions.
    """
    from PIL import Image

    height, width = gray.shape
    strength = np.clip(cam / max(float(cam.max()), FULL_SCALE), 0, 1).astype(np.float32)
    smooth = np.asarray(Image.fromarray(strength).resize((width, height), Image.Resampling.BILINEAR))[..., None]
    color = np.concatenate([np.full_like(smooth, 255), 255 * (1 - smooth) * 0.85, np.zeros_like(smooth)], 2)
    opacity = OPACITY * smooth
    return np.rint(gray[..., None] * (1 - opacity) + color * opacity).astype(np.uint8)


def encoded(picture: NDArray[np.uint8], kind: str = "JPEG") -> bytes:
    """A picture's file: JPEG or PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, quality=JPEG_QUALITY)
    return file.getvalue()

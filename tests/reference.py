"""What mura-trt computes, as plainly as it can be written: Pillow and torch, one image at a time.

Nothing of the package but the network itself. ``same_pixels`` takes the pixels from elsewhere instead of from Pillow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mura_trt.model import MuraNet


def read(path: Path) -> NDArray[np.uint8]:
    """uint8 (320, 320, 1)."""
    with Image.open(path) as image:
        gray = image.convert("L").resize((320, 320), Image.Resampling.BILINEAR)
    return np.array(gray)[..., None]


def score_studies(
    archive: Path, model: MuraNet, same_pixels: Callable[[Path], NDArray[np.uint8]] = read
) -> dict[str, float]:
    """The mean probability of each study, by its folder's path in the archive."""
    views = defaultdict(list)
    for path in sorted(archive.rglob("*.png")):
        image = torch.from_numpy(same_pixels(path)[None])
        with torch.inference_mode():
            probability, _, _ = model(image)
        views[str(path.parent.relative_to(archive))].append(float(probability))
    return {study: sum(probabilities) / len(probabilities) for study, probabilities in views.items()}

"""DenseNet-169 with one output and a sigmoid, as PyTorch users have it: normalised float images in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mura_trt.checkpoint import load_checkpoint


def network(checkpoint: Path) -> Any:
    """A module from float32 (N, 3, 320, 320), normalised, to probabilities, float32 (N,).

    The layers are torchvision's ``densenet169(num_classes=1)`` by name and shape; its forward pass is written out here.
    """
    from torch import nn

    trained = load_checkpoint(checkpoint)
    head = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), trained.classifier, nn.Sigmoid(), nn.Flatten(0))
    return nn.Sequential(trained.features, *head).eval()

"""A network from outside: torchvision's ResNet-18, with weights that are random, fixed and of sound sizes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.oracle import torchvision_models

SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NUMBERS = ("--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD)))


def normalised(pixels: NDArray[np.uint8]) -> Tensor:
    """float32 (n, 3, H, W) of uint8 (n, H, W, 1), step by step."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).repeat(1, 3, 1, 1).float() / 255
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def features(network: nn.Module, pixels: NDArray[np.uint8]) -> Tensor:
    """The last features, float32 (n, 512, 7, 7)."""
    body = nn.Sequential(*list(network.children())[:-2])
    with torch.inference_mode():
        found: Tensor = body(normalised(pixels))
    return found


def resnet18(columns: int, pixels: NDArray[np.uint8]) -> nn.Module:
    """Batch norms know the pixels, uint8 (n, 224, 224, 1), and the logits spread by 1.5 over them."""
    torch.manual_seed(18)
    network: nn.Module = torchvision_models().resnet18(num_classes=columns)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(normalised(pixels))
    network.eval()
    pooled = features(network, pixels).mean((2, 3))
    with torch.no_grad():
        weight = torch.randn(columns, pooled.shape[1])
        logits = pooled @ weight.T
        scale = 1.5 / logits.std(0)
        network.fc.weight.copy_(weight * scale[:, None])  # type: ignore[union-attr, operator]
        network.fc.bias.copy_(-logits.mean(0) * scale)  # type: ignore[union-attr, operator]
    return network


@contextmanager
def quietly() -> Iterator[None]:
    """Torch's exporters say nothing of their own deprecations and of what they do without."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def exported(network: nn.Module, path: Path, size: int = SIZE) -> Path:
    """As docs/networks.md has it."""
    example = (torch.zeros(2, 3, size, size),)
    with quietly():
        batch = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(network, example, str(path), dynamic_shapes=batch, dynamo=True, verbose=False)
    return path

"""DenseNet-169 with one output and a sigmoid, as PyTorch users have it: normalised float images in."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

from mura_trt.checkpoint import load_checkpoint
from mura_trt.model import MuraNet


def load(checkpoint: Path) -> MuraNet:
    """With its layers in the paper's order, and torchvision's: ours pools before a transition's convolution."""
    from torch import nn

    model = load_checkpoint(checkpoint)
    for name, layer in model.features.named_children():
        if name.startswith("transition"):
            ordered = {part: layer.get_submodule(part) for part in ("norm", "relu", "conv", "pool")}
            model.features.add_module(name, nn.Sequential(OrderedDict(ordered)))
    return model


def export(checkpoint: Path, graph: Path) -> None:
    """As an ONNX graph in FP32, which takes raw pixels as ours does."""
    import onnx

    from mura_trt.export import exported

    onnx.save(exported(load(checkpoint)), graph)


def network(checkpoint: Path) -> Any:
    """A module from float32 (N, 3, 320, 320), normalised, to probabilities, float32 (N,).

    The layers are torchvision's ``densenet169(num_classes=1)`` by name and shape; its forward pass is written out here.
    """
    from torch import nn

    trained = load(checkpoint)
    head = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), trained.classifier, nn.Sigmoid(), nn.Flatten(0))
    return nn.Sequential(trained.features, *head).eval()

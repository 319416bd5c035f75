"""What the exported graph takes: the numbers that decode, graph and every runtime share."""

from __future__ import annotations

from dataclasses import dataclass

# torchvision's ImageNet statistics, in units of a 0..1 pixel; the MURA paper normalises with them (section 3.1).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


# Of the network's body; input, normalisation and head are always FP32. What is not INT8 or FP8 beside it is FP16.
PRECISIONS = ("fp32", "fp16", "int8", "fp8")


@dataclass(frozen=True)
class InputContract:
    """What the graph takes and how an image becomes that."""

    height: int = 320
    """Pixels."""
    width: int = 320
    """Pixels."""
    stride: int = 32
    """Pixels of the input per position of the class activation map, in each direction."""
    dtype: str = "uint8"
    layout: str = "NHWC"
    channels: int = 1
    resize: str = "linear, antialiased"
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Subtracted inside the graph, per channel of the network, in units of a 0..1 pixel."""
    std: tuple[float, ...] = IMAGENET_STD
    """Divided by inside the graph, likewise."""

    @property
    def map_shape(self) -> tuple[int, int]:
        """Height and width of the class activation map."""
        return self.height // self.stride, self.width // self.stride

    @property
    def map_size(self) -> int:
        """How many values the map has."""
        height, width = self.map_shape
        return height * width

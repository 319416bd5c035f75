"""What a bundle's graph takes and gives: the numbers that decode, graph and every runtime share."""

from __future__ import annotations

from dataclasses import dataclass

# torchvision's ImageNet statistics, in units of a 0..1 pixel; the MURA paper normalises with them (section 3.1).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


# The paper's network, and what a bundle is of that says nothing of its network.
DENSENET169 = "densenet169"

# Of the network's body; input, normalisation and head are always FP32. What is not INT8 or FP8 beside it is FP16.
NARROW = ("int8", "fp8")  # formats that are calibrated on images
PRECISIONS = ("fp32", "fp16", *NARROW)


@dataclass(frozen=True)
class InputContract:
    """What the graph takes, how an image becomes that, and what comes out."""

    height: int = 320
    """Pixels."""
    width: int = 320
    """Pixels."""
    map_shape: tuple[int, int] | None = (10, 10)
    """Height and width of the class activation map; None of a graph that has no map."""
    dtype: str = "uint8"
    layout: str = "NHWC"
    channels: int = 1
    resize: str = "linear, antialiased"
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Subtracted inside the graph, per channel of the network, in units of a 0..1 pixel."""
    std: tuple[float, ...] = IMAGENET_STD
    """Divided by inside the graph, likewise; of a network that takes pixels of 0..255, a 255th of what it calls so."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.height, self.width

    @property
    def outputs(self) -> tuple[str, ...]:
        """The graph's outputs, in order."""
        return ("probability", "logit") if self.map_shape is None else ("probability", "logit", "cam")

    def output_shape(self, name: str) -> tuple[int, ...]:
        """Of one view."""
        return (self.map_shape or ()) if name == "cam" else ()

    @property
    def map_size(self) -> int:
        """How many values the map has; 0 where there is none."""
        return 0 if self.map_shape is None else self.map_shape[0] * self.map_shape[1]

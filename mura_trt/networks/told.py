"""What a user tells of an ONNX file, and what is known of it in the end."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from mura_trt.errors import UsageError

LAYOUTS = ("NCHW", "NHWC")
# What an output's numbers are; of classes there are two, of which the probability is the softmax.
LOGIT, PROBABILITY, CLASSES = "logit", "probability", "classes"
KINDS = (LOGIT, PROBABILITY, CLASSES)
# The logit of a probability is taken as of one that is so far from 0 and from 1, the step of single precision below 1.
LEAST_PROBABILITY = 2.0**-24
FULL_SCALES = {"0..1": 1, "0..255": 255}


@dataclass(frozen=True)
class Told:
    """The user's word; None where the graph has to say it."""

    model: Path
    """The ONNX file."""
    mean: tuple[float, ...]
    """Subtracted from a pixel of 0..1: one number, or one for each channel of the network."""
    std: tuple[float, ...]
    """What that is divided by, likewise."""
    pixels: str = "0..1"
    """A key of ``FULL_SCALES``; of ``0..255``, all that is multiplied by 255 in the end."""
    size: tuple[int, int] | None = None
    """Height and width of the input, in pixels."""
    layout: str | None = None
    """One of ``LAYOUTS``."""
    output: str | None = None
    """The output's name."""
    scores: str | None = None
    """One of ``KINDS``."""
    abnormal: int | None = None
    """Which of the output's columns is the abnormal class's, from 0."""

    def __post_init__(self) -> None:
        for name, choices in (("layout", LAYOUTS), ("scores", KINDS), ("pixels", tuple(FULL_SCALES))):
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise UsageError(f"--{name} {value}: choose from {', '.join(choices)}")
        if not all(0 < number < math.inf for number in self.std):
            raise UsageError(f"--std {','.join(map(str, self.std))}: numbers above 0")
        if not all(map(math.isfinite, self.mean)):
            raise UsageError(f"--mean {','.join(map(str, self.mean))}: finite numbers")
        if self.abnormal is not None and self.abnormal < 0:
            raise UsageError(f"--abnormal {self.abnormal}: columns are counted from 0")

    def numbers(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, as the contract has them.

        Raises
        ------
        UsageError
            There are neither one nor as many as the network has channels.
        """
        full = FULL_SCALES[self.pixels]
        found = []
        for name, given in (("mean", self.mean), ("std", self.std)):
            if len(given) not in (1, channels):
                raise UsageError(
                    f"--{name} has {len(given)} numbers, and the network's input {channels}"
                    f" channel{'s' if channels > 1 else ''}; give one for all, or one for each"
                )
            found.append(given * channels if len(given) == 1 else given)
        mean, std = found
        return mean, tuple(number / full for number in std)


@dataclass(frozen=True)
class Facts:
    """What is known of an ONNX file's graph; a bundle's manifest keeps it as ``imported``."""

    input: str
    """The input's name."""
    layout: str
    """One of ``LAYOUTS``."""
    batch: int | None
    """Images that it takes at once, and no other number; None where that is free."""
    output: str
    """The output's name."""
    columns: int
    """Numbers that the output has for an image."""
    scores: str
    """One of ``KINDS``."""
    abnormal: int
    """Which of the columns is the abnormal class's, from 0."""

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Self:
        """As a manifest has them."""
        return cls(**described)

    def described(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)


def parsed_size(text: str | None) -> tuple[int, int] | None:
    """Height and width of ``224x256``, or of ``224`` for both; raises UsageError."""
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if not found:
        raise UsageError(f"--size {text}: give height and width in pixels, such as 224x224")
    return int(found[1]), int(found[2] or found[1])


def parsed_numbers(option: str, text: str | None) -> tuple[float, ...]:
    """Numbers of ``0.485,0.456,0.406``; raises UsageError, also where there are none."""
    if text is None:
        raise UsageError(
            f"--{option} is not in the graph and has to be told: what images were normalised with in training, in units"
            " of a 0..1 pixel. torchvision's ImageNet weights: --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225; pixels"
            " as they are: --mean 0 --std 1"
        )
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--{option} {text}: give one number, or one a channel, such as 0.485,0.456,0.406") from error

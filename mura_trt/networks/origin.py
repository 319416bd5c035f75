"""What a bundle is built from, whichever kind it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mura_trt.calibrate import Calibration
from mura_trt.contract import InputContract
from mura_trt.files import sha256_of
from mura_trt.precision import Quantization, lower

if TYPE_CHECKING:
    from onnx import ModelProto

    from mura_trt.engine_recipe import Recipe
    from mura_trt.parity.reference import Reference

Calibrator = Callable[[NDArray[np.uint8], Callable[[str], None]], Calibration]
"""From views, uint8 (n, H, W, 1), and what takes a line on how far it has come."""


class Origin(ABC):
    """A network with all that a bundle needs of it; opened when something is first asked of it.

    Its methods raise UsageError where its files cannot be used.
    """

    @property
    @abstractmethod
    def network(self) -> str:
        """A bundle's ``network``."""

    @property
    @abstractmethod
    def contract(self) -> InputContract:
        """What its graph takes and gives."""

    @property
    @abstractmethod
    def files(self) -> list[Path]:
        """What it consists of, in an order of its own."""

    @property
    @abstractmethod
    def imported(self) -> dict[str, Any] | None:
        """A bundle's ``imported``."""

    @property
    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Of the libraries that make its graph."""

    @abstractmethod
    def graph(self) -> ModelProto:
        """In FP32; takes ``image`` and gives the contract's outputs."""

    @abstractmethod
    def reference(self, ranges: bool) -> Reference:
        """What a bundle of it is judged by; with ``ranges``, it notes how large its values become."""

    @abstractmethod
    def calibrator(self, recipe: Recipe) -> Calibrator:
        """What finds how its convolutions are rounded for a narrow format; refused before any work, where none can."""

    def lowered(self, graph: ModelProto, quantization: Quantization | None) -> ModelProto:
        """Its graph in half precision, or in a narrow format."""
        return lower(graph, quantization)

    @property
    def sha256(self) -> list[str]:
        """Of each file."""
        return [sha256_of(file) for file in self.files]

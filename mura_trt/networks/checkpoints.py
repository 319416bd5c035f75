"""PyTorch checkpoints of our own networks as a bundle's origin."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mura_trt.calibrate import calibrate
from mura_trt.contract import InputContract
from mura_trt.networks.origin import Calibrator, Origin

if TYPE_CHECKING:
    from onnx import ModelProto

    from mura_trt.engine_recipe import Recipe
    from mura_trt.model import Network
    from mura_trt.parity.reference import TorchReference


class Checkpoints(Origin):
    """One network, or the members of an ensemble.

    Parameters
    ----------
    paths
        Files that :func:`mura_trt.checkpoint.load_checkpoint` takes.
    """

    imported = None
    contract = InputContract()

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)

    @cached_property
    def model(self) -> Network:
        """The torch module, FP32, in evaluation mode, on the CPU."""
        from mura_trt.checkpoint import load_network

        return load_network(self._paths)

    @property
    def network(self) -> str:
        """Its architecture, or those of the members."""
        return self.model.title

    @property
    def files(self) -> list[Path]:
        """The checkpoints."""
        return self._paths

    @property
    def versions(self) -> dict[str, str]:
        """Of PyTorch and onnx."""
        import onnx
        import torch

        return {"torch": str(torch.__version__), "onnx": onnx.__version__}

    def graph(self) -> ModelProto:
        """As PyTorch exports it."""
        from mura_trt.export import exported

        return exported(self.model)

    def reference(self, ranges: bool) -> TorchReference:  # noqa: ARG002  it costs nothing to note them
        """PyTorch."""
        from mura_trt.parity.reference import TorchReference

        return TorchReference(self.model)

    def calibrator(self, recipe: Recipe) -> Calibrator:
        """By the ranges and the gradients that PyTorch finds."""
        how = recipe.precision, recipe.calibration_method, recipe.error_budget
        return lambda pixels, report: calibrate(self.model, pixels, *how, report)

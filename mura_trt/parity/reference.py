"""What a bundle is judged by: the network as it was before anything here was done to it, in FP32 on the CPU."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mura_trt.model import Network

BATCH = 8


class Reference(ABC):
    """A network in FP32 on the CPU.

    Attributes
    ----------
    largest
        Layer -> the largest absolute value that came out of it so far, infinite where one was no number; empty where
        nobody asked for that.
    """

    def __init__(self) -> None:
        self.largest: dict[str, float] = {}

    @abstractmethod
    def scores(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Probability and logit, float32 (n,) each, of uint8 (n, H, W, 1)."""

    @abstractmethod
    def half_scores(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The probability where weights and features, but not those of the head, are rounded to half precision.

        Sums are in FP32, as on a GPU's tensor cores.
        """


class TorchReference(Reference):
    """PyTorch in FP32 on the CPU, which notes how large its values become."""

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.model = model.eval()

    def scores(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Probability and logit, float32 (n,) each, of uint8 (n, H, W, 1)."""
        parts = []
        with self._noted():
            for start in range(0, len(pixels), BATCH):
                parts.append(_scored(self.model, pixels[start : start + BATCH]))
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def half_scores(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The probability where weights, and what each layer gives, are rounded to half precision; sums are in FP32.

        PyTorch's own half precision differs from it by no more than the order of its sums, and takes a CPU that has no
        such arithmetic many times as long.
        """
        model = copy.deepcopy(self.model).half_body().float()
        for name, module in model.named_modules():
            if name.endswith("features"):
                module.register_forward_pre_hook(lambda _, inputs: (_in_half(inputs[0]),))
        for _, layer in _layers(model):
            layer.register_forward_hook(lambda _, __, output: _in_half(output))
        return _scored(model, pixels)[0]

    @contextmanager
    def _noted(self) -> Iterator[None]:
        def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            def hook(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
                # NaN must not hide behind max.
                found = float(output.abs().max().nan_to_num(np.inf, np.inf))
                self.largest[name] = max(self.largest.get(name, 0.0), found)

            return hook

        hooks = [layer.register_forward_hook(note(name)) for name, layer in _layers(self.model)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _layers(model: Network) -> Iterator[tuple[str, nn.Module]]:
    """The modules up to the last feature map; what is none (concatenation, most ReLUs) rounds and enlarges nothing."""
    for name, module in model.named_modules():
        if "features" in name and not list(module.children()):
            yield name, module


def _in_half(values: Tensor) -> Tensor:
    return values.half().float()


def _scored(model: Network, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    import torch

    with torch.inference_mode():
        probability, logit, _ = model(torch.from_numpy(pixels.copy()))
    return probability.numpy(), logit.numpy()

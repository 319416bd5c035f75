"""What a network's convolutions take in, measured on views: ranges for rounding, and what rounding each one costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mura_trt.errors import UsageError
from mura_trt.model import MuraNet, Network
from mura_trt.precision import FORMATS, HALF_LEAST, Quantization

if TYPE_CHECKING:
    from torch import Tensor, nn

# Of an input's values, the share that its range covers, by method; `benchmarks.calibrations` compares them.
METHODS = {"percentile": 0.99999, "max": 1.0}
BINS = 8192  # of a histogram, which its largest value fills by more than half
MOST_KEPT = 0.25  # of the convolutions in half precision: with more of them the rest gains little


@dataclass(frozen=True)
class Calibration:
    """What was measured, and what follows from it."""

    quantization: Quantization
    errors: Mapping[str, float]
    """Convolution -> root mean square, over the views, of what rounding it alone does to the probability."""
    predicted: float
    """The same of all that are rounded, as if their errors were independent."""


def calibrate(
    model: Network,
    pixels: NDArray[np.uint8],
    narrow: str,
    method: str,
    budget: float,
    report: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Chooses ranges for every convolution of the body, and which of them stay in half precision.

    Kept are those whose rounding moves the probability most, one by one, until what the rest do together (as the root
    of the sum of their squares) is within the budget, or a quarter of all are kept.

    Parameters
    ----------
    model
        In FP32; it is not changed.
    pixels
        uint8 (n, H, W, 1): views like those that will be scored.
    narrow
        ``int8`` or ``fp8``.
    method
        ``max`` takes the largest value seen for a range, ``percentile`` the one that all but 1 in 100,000 are below.
    budget
        Root mean square of the probability's error that may be left.
    report
        Takes a line on how far it has come.

    Raises
    ------
    UsageError
        No views.
    """
    if not len(pixels):
        raise UsageError("no views to calibrate on")
    ranges = input_ranges(model, pixels, METHODS[method], report)
    errors = rounding_errors(model, pixels, ranges, narrow, report)
    left = math.sqrt(sum(error**2 for error in errors.values()))
    kept: list[str] = []
    for name in sorted(errors, key=lambda name: -errors[name]):
        if left <= budget or len(kept) >= MOST_KEPT * len(errors):
            break
        kept.append(name)
        left = math.sqrt(max(0.0, left**2 - errors[name] ** 2))
    return Calibration(Quantization(narrow, ranges, tuple(kept)), errors, left)


def input_ranges(
    model: Network, pixels: NDArray[np.uint8], share: float, report: Callable[[str], None] = lambda _: None
) -> dict[str, float]:
    """Of each convolution's input, the absolute value that so large a share of its values is not above."""
    import torch

    seen = {name: _Histogram() for name, _ in model.convolutions()}

    def take(name: str, _: nn.Conv2d, inputs: tuple[Tensor, ...]) -> None:
        seen[name].add(inputs[0])

    with _watched(model, take), torch.inference_mode():
        for number, batch in enumerate(_batches(pixels, 8)):
            model(batch)
            report(f"calibrating: {min(8 * (number + 1), len(pixels))} of {len(pixels)} views")
    return {name: histogram.quantile(share) for name, histogram in seen.items()}


def rounding_errors(
    model: Network,
    pixels: NDArray[np.uint8],
    ranges: Mapping[str, float],
    narrow: str,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """What rounding each convolution's input and weight does to the probability, to first order.

    A view's probability moves by the inner product of its gradient at the convolution's output with the change of that
    output; one pass forward and back gives it for all convolutions at once. The root of the mean of the squares over
    the views is returned.
    """
    import torch
    from torch.nn import functional as F

    moved: dict[str, list[Tensor]] = {name: [] for name, _ in model.convolutions()}
    size = max(1, 4 // sum(isinstance(module, MuraNet) for module in model.modules()))  # 1.4 GB a network of four views

    def compare(name: str, layer: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        with torch.no_grad():
            largest = layer.weight.abs().amax((1, 2, 3), keepdim=True)
            weight = rounded(layer.weight, largest, narrow)
            given = rounded(inputs[0], torch.tensor(ranges[name]), narrow)
            change = F.conv2d(given, weight, None, layer.stride, layer.padding) - output
        output = output if output.requires_grad else output.requires_grad_()
        output.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: moved[name].append((gradient * change).sum((1, 2, 3)))
        )
        return output

    frozen = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in frozen:
        parameter.requires_grad_(False)
    try:
        with _watched(model, compare, behind=True), torch.enable_grad():
            for number, batch in enumerate(_batches(pixels, size)):
                model(batch)[0].sum().backward()
                report(f"measuring layers: {min(size * (number + 1), len(pixels))} of {len(pixels)} views")
    finally:
        for parameter, learns in frozen:
            parameter.requires_grad_(learns)
    return {name: float(torch.cat(parts).square().mean().sqrt()) for name, parts in moved.items()}


def rounded(values: Tensor, largest: Tensor, narrow: str) -> Tensor:
    """As the graph rounds: to what the format has, times a scale; float32 of one shape with ``values``.

    Parameters
    ----------
    values
        float32.
    largest
        float32, broadcast over them: beyond it, all are taken for this one.
    narrow
        ``int8`` or ``fp8``.
    """
    import torch

    limit = FORMATS[narrow].largest
    scale = (largest / limit).clamp(min=HALF_LEAST).half().float()
    scaled = (values / scale).clamp(-limit, limit)
    return (scaled.round() if narrow == "int8" else scaled.to(torch.float8_e4m3fn).float()) * scale


def _batches(pixels: NDArray[np.uint8], size: int) -> Iterator[Tensor]:
    import torch

    for start in range(0, len(pixels), size):
        yield torch.from_numpy(pixels[start : start + size].copy())


@contextmanager
def _watched(model: Network, watch: Callable[..., Tensor | None], behind: bool = False) -> Iterator[None]:
    """Calls ``watch`` with name, convolution and inputs before each convolution, or with its output, too, behind it."""

    def of(name: str) -> Callable[..., Tensor | None]:
        return lambda layer, *seen: watch(name, layer, *seen)

    hooks = [
        layer.register_forward_hook(of(name)) if behind else layer.register_forward_pre_hook(of(name))
        for name, layer in model.convolutions()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Histogram:
    """Absolute values counted in equal bins from zero, which are doubled in width as larger values come."""

    def __init__(self) -> None:
        self._counts = np.zeros(BINS)
        self._top = 0.0
        self._largest = 0.0

    def add(self, values: Tensor) -> None:
        import torch

        values = values.detach().abs()
        largest = float(values.max())
        if largest > self._top:
            self._stretch(largest)
        self._largest = max(self._largest, largest)
        if self._top:
            self._counts += torch.histc(values, BINS, 0, self._top).numpy()

    def _stretch(self, largest: float) -> None:
        if not self._top:
            self._top = largest
            return
        doublings = math.ceil(math.log2(largest / self._top))
        merged = 2**doublings
        if merged <= BINS:
            self._counts = np.concatenate([self._counts.reshape(-1, merged).sum(1), np.zeros(BINS - BINS // merged)])
        else:
            self._counts = np.concatenate([[self._counts.sum()], np.zeros(BINS - 1)])
        self._top *= merged

    def quantile(self, share: float) -> float:
        """The upper edge of the bin that so large a share of the values lies up to, and no more than the largest."""
        if share >= 1:
            return self._largest
        at = int(np.searchsorted(np.cumsum(self._counts), share * self._counts.sum()))
        return min(self._largest, (at + 1) * self._top / BINS)

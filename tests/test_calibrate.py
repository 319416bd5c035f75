"""Ranges and errors of convolutions, measured on views."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mura_trt import calibrate as calibrate_module
from mura_trt.calibrate import METHODS, _Histogram, calibrate, input_ranges, rounded, rounding_errors
from mura_trt.errors import UsageError
from mura_trt.model import MuraNet

FIRST = "features.denseblock1.denselayer1.conv1"


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 50.0), (1e-3, 1.0, 1e6), (5.0, 0.1)])
def test_a_histogram_knows_quantiles_whatever_the_order_of_sizes(scales: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    parts = [np.abs(rng.normal(size=20_000)) * scale for scale in scales]
    histogram = _Histogram()
    for part in parts:
        histogram.add(torch.from_numpy(part.astype(np.float32)) * -1)  # signs do not count
    values = np.concatenate(parts).astype(np.float32)
    width = 2 * values.max() / calibrate_module.BINS
    for share in (0.5, 0.9, 0.9999):
        assert abs(histogram.quantile(share) - np.quantile(values, share)) <= 1.5 * width + 0.02 * values.max() * (
            share > 0.999
        )
    assert histogram.quantile(1.0) == values.max()


def test_a_histogram_of_nothing_but_zeros_gives_zero() -> None:
    histogram = _Histogram()
    histogram.add(torch.zeros(100))
    assert histogram.quantile(0.99999) == histogram.quantile(1.0) == 0.0


def test_ranges_cover_what_convolutions_are_given(model: MuraNet, pixels: NDArray[np.uint8]) -> None:
    seen: dict[str, float] = {}

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        seen[FIRST] = max(seen.get(FIRST, 0.0), float(inputs[0].abs().max()))

    watched = dict(model.named_modules())[FIRST].register_forward_pre_hook(note)
    largest = input_ranges(model, pixels[:4], METHODS["max"])
    watched.remove()
    percentile = input_ranges(model, pixels[:4], METHODS["percentile"])
    assert len(largest) == len(percentile) == 168
    assert largest[FIRST] == seen[FIRST]
    assert all(0 < percentile[name] <= largest[name] for name in largest)
    assert percentile[FIRST] < largest[FIRST]


def test_the_estimate_of_a_layers_error_is_what_rounding_it_does(model: MuraNet, pixels: NDArray[np.uint8]) -> None:
    ranges = input_ranges(model, pixels[:4], METHODS["max"])
    estimated = rounding_errors(model, pixels[:4], ranges, "int8")
    images = torch.from_numpy(pixels[:4])
    with torch.inference_mode():
        exact = model(images)[0]
    # To first order: what a late layer does is small, and an early one's is not, in this network of random weights.
    for name, factor in (
        (FIRST, 3.0),
        ("features.transition2.conv", 1.5),
        ("features.denseblock4.denselayer5.conv2", 1.1),
    ):
        changed = copy.deepcopy(model)
        layer = dict(changed.named_modules())[name]
        assert isinstance(layer, torch.nn.Conv2d)
        with torch.no_grad():
            layer.weight.copy_(rounded(layer.weight, layer.weight.abs().amax((1, 2, 3), keepdim=True), "int8"))
        layer.register_forward_pre_hook(lambda _, x, at=ranges[name]: (rounded(x[0], torch.tensor(at), "int8"),))
        with torch.inference_mode():
            found = float((changed(images)[0] - exact).square().mean().sqrt())
        assert estimated[name] / factor < found < estimated[name] * factor, name
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for _, layer in model.convolutions())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_layers_are_kept_by_their_error_until_the_rest_is_within_the_budget(
    monkeypatch: pytest.MonkeyPatch, model: MuraNet, pixels: NDArray[np.uint8]
) -> None:
    errors = {"a": 0.003, "b": 0.004, "c": 0.0001}
    monkeypatch.setattr(calibrate_module, "input_ranges", lambda *_: dict.fromkeys(errors, 1.0))
    monkeypatch.setattr(calibrate_module, "rounding_errors", lambda *_: errors)
    monkeypatch.setattr(calibrate_module, "MOST_KEPT", 1.0)

    def kept(budget: float) -> tuple[str, ...]:
        return tuple(calibrate(model, pixels[:1], "int8", "max", budget).quantization.kept)

    assert kept(0.006) == ()  # 0.005 together
    assert kept(0.0049) == ("b",)
    assert kept(0.001) == ("b", "a")
    assert kept(0.0) == ("b", "a", "c")
    assert calibrate(model, pixels[:1], "int8", "max", 0.0049).predicted == pytest.approx(np.hypot(0.003, 0.0001))


def test_no_views_are_refused(model: MuraNet, pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(UsageError, match="no views"):
        calibrate(model, pixels[:0], "int8", "max", 0.001)

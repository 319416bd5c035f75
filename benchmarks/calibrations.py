"""How ranges, layers in half precision and rounded concatenations change the demo model's probabilities in INT8.

    python -m benchmarks.calibrations WORK [--views 128] [--json FILE]

Every variant is calibrated on 64 views of one synthetic archive and compared with FP32 on views of another, in torch:
inputs and weights are rounded as the graph rounds them, and all else is FP32. Also in the result: every layer's own
error to first order, from which it is chosen what stays in half precision. Where ``nvidia-modelopt`` is installed (with
``requests`` and ``huggingface_hub``, which it imports undeclared), its calibrators stand beside ours. ``WORK`` keeps
the archives.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.demo_model import CALIBRATION_SEED, HELD_OUT_SEED, command
from benchmarks.measuring import finish
from mura_trt.archives import list_archive
from mura_trt.calibrate import METHODS, calibrate, input_ranges, rounded
from mura_trt.checkpoint import load_network
from mura_trt.contract import InputContract
from mura_trt.model import DenseLayer, Network
from mura_trt.pixels import decoded_listing
from mura_trt.precision import Quantization
from mura_trt.sample import spread_views

CALIBRATION_VIEWS = 64
ERROR_BUDGET = 2e-3
BATCH = 8


def rounding(model: Network, quantization: Quantization) -> Network:
    """A copy that rounds inputs and weights of its convolutions as the graph of that quantization does."""
    changed = copy.deepcopy(model)
    narrow = quantization.format
    for name, layer in changed.convolutions():
        if name in quantization.kept:
            continue
        with torch.no_grad():
            layer.weight.copy_(rounded(layer.weight, layer.weight.abs().amax((1, 2, 3), keepdim=True), narrow))
        at = torch.tensor(quantization.ranges[name])
        layer.register_forward_pre_hook(lambda _, inputs, at=at: (rounded(inputs[0], at, narrow),))
    return changed


def rounding_concatenations(model: Network, pixels: NDArray[np.uint8], shared: bool) -> Network:
    """A copy whose dense blocks keep their feature maps in INT8: what goes into a block, and what each layer adds.

    Parameters
    ----------
    model
        It is not changed.
    pixels
        What the ranges are measured on, uint8 (n, H, W, 1); they cover all values.
    shared
        One scale for all that a block concatenates, so that nothing is rounded twice; else each has its own.
    """
    changed = copy.deepcopy(model)
    largest: dict[nn.Module, Tensor] = {}
    groups: list[list[nn.Module]] = []
    for name, block in changed.named_modules():
        if "." not in name.removeprefix("features.") and "denseblock" in name:
            layers = [module for module in block.modules() if isinstance(module, DenseLayer)]
            groups.append([block, *(layer.conv2 for layer in layers)])
    parts = {part for group in groups for part in group}

    def note(module: nn.Module, values: Tensor) -> None:
        largest[module] = torch.maximum(largest.get(module, torch.tensor(0.0)), values.abs().max())

    with torch.inference_mode():
        hooks = [_on(part, note) for part in parts]
        for batch in _batches(pixels):
            changed(batch)
    for hook in hooks:
        hook.remove()
    for group in groups:
        of_block = torch.stack([largest[part] for part in group]).max()
        for part in group:
            _on(part, _rounding_to(of_block if shared else largest[part]))
    return changed


def _rounding_to(largest: Tensor) -> Callable[[nn.Module, Tensor], Tensor]:
    return lambda _, values: rounded(values, largest, "int8")


def _on(part: nn.Module, act: Callable[[nn.Module, Tensor], Tensor | None]) -> torch.utils.hooks.RemovableHandle:
    """On a block's input, or on a convolution's output."""
    if isinstance(part, nn.Conv2d):
        return part.register_forward_hook(lambda module, _, output: act(module, output))
    return part.register_forward_pre_hook(lambda module, inputs: act(module, inputs[0]))


def modelopts(model: Network, pixels: NDArray[np.uint8]) -> Iterator[tuple[str, Network]]:
    """The network as ModelOpt quantizes it, by calibrator; none where it is not installed."""
    try:
        import modelopt.torch.quantization as mtq
    except ImportError as error:
        print(f"no comparison with ModelOpt: {error}", file=sys.stderr)
        return

    def feed(network: nn.Module) -> None:
        with torch.inference_mode():
            for batch in _batches(pixels):
                network(batch)

    plain = copy.deepcopy(mtq.INT8_DEFAULT_CFG)
    yield "modelopt, max", mtq.quantize(copy.deepcopy(model), plain, feed)
    yield "modelopt, mse", mtq.quantize(copy.deepcopy(model), {**plain, "algorithm": "mse"}, feed)


def variants(model: Network, pixels: NDArray[np.uint8], layers: dict[str, Any]) -> Iterator[tuple[str, Network]]:
    """Names and networks; ``layers`` is filled with every layer's range and error."""
    for share in (0.999, 0.9999, *METHODS.values()):
        ranges = input_ranges(model, pixels, share)
        yield f"range of {100 * share:g} % of the values", rounding(model, Quantization("int8", ranges))
    found = calibrate(model, pixels, "int8", "percentile", ERROR_BUDGET)
    kept = set(found.quantization.kept)
    layers |= {
        name: {"range": at, "error": found.errors[name], "in_half_precision": name in kept}
        for name, at in found.quantization.ranges.items()
    }
    ours = rounding(model, found.quantization)
    yield f"as built, {len(kept)} of {len(layers)} layers in half precision", ours
    yield "as built, concatenations rounded with one scale a block", rounding_concatenations(ours, pixels, shared=True)
    yield "as built, concatenations rounded with a scale a layer", rounding_concatenations(ours, pixels, shared=False)
    yield from modelopts(model, pixels)


def _batches(pixels: NDArray[np.uint8]) -> Iterator[Tensor]:
    for start in range(0, len(pixels), BATCH):
        yield torch.from_numpy(pixels[start : start + BATCH])


def _probability(model: Network, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return np.concatenate([model(batch)[0].numpy() for batch in _batches(pixels)])


def _pixels(archive: Path, count: int) -> NDArray[np.uint8]:
    contract = InputContract()
    listing = list_archive(archive)
    listing = listing.take(np.sort(spread_views(listing, count)))
    return np.concatenate([part.pixels.copy() for part in decoded_listing(listing, contract.size)])


def measure(work: Path, checkpoint: Path, views: int) -> dict[str, Any]:
    """|dp| of every variant, and what was measured of every layer."""
    pixels = {}
    for name, seed, count in (("calibration", CALIBRATION_SEED, CALIBRATION_VIEWS), ("held-out", HELD_OUT_SEED, views)):
        folder = work / f"{name}-{count}"
        if not folder.exists():
            command("demo", folder, "--studies", count, "--seed", seed)
        pixels[name] = _pixels(folder, count)
    model = load_network([checkpoint])
    expected = _probability(model, pixels["held-out"])
    layers: dict[str, Any] = {}
    found: dict[str, Mapping[str, float]] = {}
    for name, network in variants(model, pixels["calibration"], layers):
        started = time.monotonic()
        difference = np.abs(_probability(network, pixels["held-out"]) - expected)
        found[name] = {
            "dp_mean": float(difference.mean()),
            "dp_p99": float(np.quantile(difference, 0.99)),
            "dp_max": float(difference.max()),
        }
        figures = ", ".join(f"{figure} {value:.4f}" for figure, value in found[name].items())
        print(f"{name}: {figures} ({time.monotonic() - started:.0f} s)", file=sys.stderr)
    return {"checkpoint": checkpoint.name, "views": len(expected), "variants": found, "layers": layers}


def main(
    work: Annotated[Path, typer.Argument(help="Folder for the archives.")],
    checkpoint: Annotated[Path, typer.Option(help="The demo model.")] = Path("engines/demo/model.safetensors"),
    views: Annotated[int, typer.Option(help="How many views to compare on.")] = 128,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the result.")] = None,
) -> None:
    """Draws, calibrates, compares."""
    work.mkdir(parents=True, exist_ok=True)
    finish(measure(work, checkpoint, views), json_file)


if __name__ == "__main__":
    typer.run(main)

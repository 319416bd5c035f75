"""A DenseNet's forward pass on a GPU by the kernels of :mod:`mura_trt.fused_kernels`, from the torch module's weights.

It takes half the time that ``torch.compile`` does and a quarter of PyTorch's, for it moves less: see benchmarks/NOTES.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from mura_trt import fused_kernels as kernels
from mura_trt.contract import IMAGENET_MEAN, IMAGENET_STD
from mura_trt.model import BOTTLENECK, GROWTH, STEM_CHANNELS, DenseLayer, Ensemble, MuraNet, Network, vote

if TYPE_CHECKING:
    from torch import Tensor, nn

    Forward = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]

TAPS = 64  # the stem's 7 x 7, to the next power of 2


@dataclass(frozen=True)
class Tile:
    """How much of its output one program of a kernel computes, and how."""

    rows: int
    columns: int
    depth: int
    """Channels in, at a time."""
    warps: int
    stages: int
    """Loads under way at a time."""

    @property
    def how(self) -> dict[str, int]:
        """Triton's own options."""
        return {"num_warps": self.warps, "num_stages": self.stages}


@dataclass(frozen=True)
class Tiles:
    """Tiles by kernel and dense block, the fastest of those tried on an H100 (``python -m benchmarks.tiles``).

    Another tile may sum in another order, so that none is chosen by how fast it is here and now.
    """

    pointwise: Sequence[Tile] = (Tile(128, 128, 64, 8, 3),) * 4
    grow: Sequence[Tile] = (Tile(128, 32, 64, 4, 4),) * 4
    halved: Sequence[Tile] = (Tile(64, 128, 32, 4, 3),) * 3
    """Of the transition behind a block."""


def fused(network: Network, tiles: Tiles | None = None) -> Forward:
    """The network's forward pass, fused: uint8 (N, H, W, 1) to ``probability``, ``logit`` and ``cam`` as its own.

    Parameters
    ----------
    network
        In FP32 or with a half body, on a GPU; what it does later to its weights is not seen here.
    tiles
        None takes the usual ones.
    """
    if isinstance(network, Ensemble):
        members = [FusedNet(cast("MuraNet", member), tiles or Tiles()) for member in network.members]
        return lambda image: vote([member(image) for member in members])
    return FusedNet(cast("MuraNet", network), tiles or Tiles())


class FusedNet:
    """One network. It keeps memory for a batch, so that a call must be through before the next one begins.

    Parameters
    ----------
    network, tiles
        As for :func:`fused`.
    """

    def __init__(self, network: MuraNet, tiles: Tiles) -> None:
        import torch

        self._torch, self._tiles = torch, tiles
        parts = dict(network.features.named_children())
        self._stem = self._stem_weights(parts["conv0"], parts["norm0"])
        self._blocks = []
        for number in range(1, 1 + sum(name.startswith("denseblock") for name in parts)):
            layers = [self._layer_weights(layer) for layer in cast("nn.Sequential", parts[f"denseblock{number}"])]
            between = parts.get(f"transition{number}")
            transition = between and (*_affine(between.norm), _half(between.conv.weight[:, :, 0, 0].T))
            self._blocks.append((layers, transition))
        classifier = network.classifier
        self._last = (*_affine(parts["norm5"]), classifier.weight[0].detach().float().contiguous())
        self._bias = classifier.bias.detach().float()
        self._zeros = torch.zeros(classifier.in_features, device=self._bias.device)
        self._memory: dict[Any, Tensor] = {}

    def _stem_weights(self, conv: Any, norm: Any) -> tuple[Tensor, Tensor]:
        torch = self._torch
        scale, shift = _affine(norm)
        weight = conv.weight.detach().double() * scale.double()[:, None, None, None]  # (64, 3, 7, 7)
        mean = torch.tensor(IMAGENET_MEAN, dtype=torch.float64, device=weight.device) * 255
        std = torch.tensor(IMAGENET_STD, dtype=torch.float64, device=weight.device) * 255
        of_gray = (weight / std[:, None, None]).sum(1) * kernels.SPREAD
        of_ones = (weight * ((kernels.CENTRE - mean) / std)[:, None, None]).sum(1)
        both = torch.zeros((2, TAPS, len(weight)), dtype=torch.float64, device=weight.device)
        for at, one in enumerate((of_gray, of_ones)):
            both[at, :49] = one.flatten(1).T
        return _half(both.flatten(0, 1)), shift

    def _layer_weights(self, layer: DenseLayer) -> tuple[Tensor, ...]:
        scale, shift = _affine(layer.norm2)
        first = layer.conv1.weight.detach().float()[:, :, 0, 0] * scale[:, None]
        second = layer.conv2.weight.detach().permute(2, 3, 1, 0).flatten(0, 2)
        return (*_affine(layer.norm1), _half(first.T), shift, _half(second))

    def _kept(self, name: Any, shape: tuple[int, ...], dtype: Any) -> Tensor:
        """The same memory for the same name and shape, call after call, so that a CUDA graph may hold its address."""
        key = (name, shape)
        if key not in self._memory:
            self._memory[key] = self._torch.zeros(shape, dtype=dtype, device=self._bias.device)
        return self._memory[key]

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores views as the network does; the map's memory is used again by the next call."""
        half, tiles = self._torch.float16, self._tiles
        views, height, width = image.shape[:3]
        weight, bias = self._stem
        rows = views * (height // 2) * (width // 2)
        x = self._kept("stem", (rows, STEM_CHANNELS), half)
        kernels.stem[(_over(rows, 64),)](image, weight, bias, x, rows, height, width, TAPS, 64, STEM_CHANNELS)
        height, width, channels = height // 4, width // 4, STEM_CHANNELS
        rows = views * height * width
        bottleneck = BOTTLENECK * GROWTH
        between: tuple[Tensor, ...] | None = None
        for number, (layers, transition) in enumerate(self._blocks):
            stride = channels + GROWTH * len(layers)
            block = self._kept(number, (rows, stride), half)
            if between is None:
                kernels.pool[(_over(rows, 32),)](
                    x, block, rows, 2 * height, 2 * width, stride, STEM_CHANNELS, 32, num_warps=4
                )
            else:
                tile = tiles.halved[number - 1]
                self.pointwise(x, between, self._zeros, block, rows, channels, width, tile, True)
            narrow = self._kept("narrow", (rows, bottleneck), half)
            for scale, shift, first, middle, second in layers:
                weights = (scale, shift, first)
                tile = tiles.pointwise[number]
                self.pointwise(block, weights, middle, narrow, rows, bottleneck, width, tile, False)
                self.grow(narrow, second, block[:, channels:], rows, height, width, stride, tiles.grow[number])
                channels += GROWTH
            x, between = block, transition
            if between is not None:
                height, width, channels = height // 2, width // 2, channels // 2
                rows = views * height * width
        cam = self._kept("cam", (views, height, width), self._torch.float32)
        kernels.weigh[(_over(rows, 16),)](x, *self._last, cam, rows, channels, 16, 128, num_warps=4)
        logit = cam.mean((1, 2)) + self._bias
        return self._torch.sigmoid(logit), logit, cam

    def pointwise(
        self, x: Tensor, weights: Any, bias: Tensor, out: Tensor, rows: int, columns: int, across: int, tile: Tile,
        halved: bool,
    ) -> None:  # fmt: skip
        scale, shift, weight = weights
        grid = (columns // tile.columns, _over(rows, tile.rows))
        kernels.pointwise[grid](
            x, scale, shift, weight, bias, out, rows, len(scale), across, x.stride(0), out.stride(0), columns,
            halved, not halved, tile.rows, tile.columns, tile.depth, **tile.how,
        )  # fmt: skip

    def grow(
        self, x: Tensor, weight: Tensor, out: Tensor, rows: int, height: int, width: int, stride: int, tile: Tile
    ) -> None:
        kernels.grow[(_over(rows, tile.rows),)](
            x, weight, out, rows, height, width, stride, x.shape[1], GROWTH, tile.rows, tile.depth, **tile.how
        )


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """What a batch normalisation multiplies by and adds, float32 (C,)."""
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.detach().double() - norm.running_mean.double() * scale
    return scale.float().contiguous(), shift.float().contiguous()


def _half(weight: Tensor) -> Tensor:
    return weight.detach().half().contiguous()


def _over(rows: int, tile: int) -> int:
    return -(-rows // tile)

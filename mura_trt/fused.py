"""A DenseNet's forward pass on a GPU by the kernels of :mod:`mura_trt.fused_kernels`, from the torch module's weights.

On an H100 it had 1.6 times the rate of ``torch.compile`` and 3.6 times PyTorch's, for it moves less
(benchmarks/NOTES.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from mura_trt import fused_kernels as kernels
from mura_trt.contract import IMAGENET_MEAN, IMAGENET_STD
from mura_trt.model import BOTTLENECK, GROWTH, STEM_CHANNELS, Ensemble, MuraNet, Network, vote

if TYPE_CHECKING:
    from torch import Tensor

    Forward = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    Memory = dict[tuple[str | int, tuple[int, int]], Tensor]

LEAST = (8, 0)  # compute capability; Triton makes no use of the tensor cores of earlier GPUs
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

    pointwise: Sequence[Tile] = (
        Tile(64, 128, 32, 4, 4),
        Tile(64, 128, 64, 4, 3),
        Tile(64, 128, 64, 4, 3),
        Tile(128, 128, 64, 4, 3),
    )
    grow: Sequence[Tile] = (
        Tile(256, 32, 64, 8, 3),
        Tile(256, 32, 64, 8, 3),
        Tile(128, 32, 64, 4, 3),
        Tile(128, 32, 64, 4, 3),
    )
    halved: Sequence[Tile] = (Tile(64, 128, 64, 4, 2), Tile(64, 128, 64, 4, 2), Tile(64, 128, 32, 4, 3))
    """Of the transition behind a block."""


class Pointwise(NamedTuple):
    """What :func:`pointwise` computes with, of C channels in and D out."""

    scale: Tensor
    """float32 (C,): channels in are multiplied by it ..."""
    shift: Tensor
    """... and this is added, float32 (C,)."""
    weight: Tensor
    """float16 (C, D)."""
    bias: Tensor
    """float32 (D,)."""


class Layer(NamedTuple):
    """A dense layer."""

    first: Pointwise
    """Its first normalisation and convolution, and its second normalisation in the weights and the bias."""
    second: Tensor
    """Its second convolution, float16 (9 * 128, 32)."""


def fused(network: Network, tiles: Tiles | None = None) -> Forward:
    """The network's forward pass, fused: uint8 (N, H, W, 1) to ``probability``, ``logit`` and ``cam`` as its own.

    Parameters
    ----------
    network
        In FP32, on a GPU; what is done later to its weights is not seen here.
    tiles
        None takes the usual ones.
    """
    tiles = tiles or Tiles()
    if isinstance(network, Ensemble):
        memory: Memory = {}
        members = [FusedNet(cast("MuraNet", member), tiles, memory) for member in network.members]
        return lambda image: vote([member(image) for member in members])
    return FusedNet(cast("MuraNet", network), tiles, {})


class FusedNet:
    """One network. It keeps memory for a batch, so that a call must be through before the next one begins.

    Parameters
    ----------
    network, tiles
        As for :func:`fused`.
    memory
        What it keeps, by what it is for: 12 MB a view of 320 x 320 pixels. Networks that run one by one share it.
    """

    def __init__(self, network: MuraNet, tiles: Tiles, memory: Memory) -> None:
        import torch

        self._torch, self._tiles, self._memory = torch, tiles, memory
        parts: dict[str, Any] = dict(network.features.named_children())
        self._stem = _stem(parts["conv0"], parts["norm0"])
        blocks = [part for name, part in parts.items() if name.startswith("denseblock")]
        self._blocks = [[_layer(layer) for layer in block] for block in blocks]
        self._transitions = [_transition(part) for name, part in parts.items() if name.startswith("transition")]
        self._last = (*_affine(parts["norm5"]), network.classifier.weight[0].detach().float().contiguous())
        self._bias = network.classifier.bias.detach().float()

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores views as the network does."""
        views, height, width = image.shape[0], image.shape[1] // 2, image.shape[2] // 2
        rows, columns = views * height * width, STEM_CHANNELS
        x = self._kept("stem", (rows, columns))
        kernels.stem[(_over(rows, 64),)](image, *self._stem, x, rows, 2 * height, 2 * width, TAPS, 64, columns)
        for number, layers in enumerate(self._blocks):
            height, width = height // 2, width // 2
            rows = views * height * width
            block = self._kept(number, (rows, columns + GROWTH * len(layers)))
            if number == 0:
                arguments = (rows, 2 * height, 2 * width, block.stride(0), columns)
                kernels.pool[(_over(rows, 32),)](x, block, *arguments, 32, num_warps=4)
            else:
                pointwise(x, self._transitions[number - 1], block, width, self._tiles.halved[number - 1], halved=True)
            narrow = self._kept("narrow", (rows, BOTTLENECK * GROWTH))
            for layer in layers:
                pointwise(block, layer.first, narrow, width, self._tiles.pointwise[number])
                grow(narrow, layer.second, block[:, columns:], height, width, self._tiles.grow[number])
                columns += GROWTH
            x, columns = block, columns // 2
        cam = self._torch.empty((views, height, width), device=image.device)
        kernels.weigh[(_over(rows, 16),)](x, *self._last, cam, rows, x.shape[1], 16, 128, num_warps=4)
        logit = cam.mean((1, 2)) + self._bias
        return self._torch.sigmoid(logit), logit, cam

    def _kept(self, name: str | int, shape: tuple[int, int]) -> Tensor:
        """The same half-precision memory for the same name and shape, call after call."""
        key = (name, shape)
        if key not in self._memory:
            self._memory[key] = self._torch.zeros(shape, dtype=self._torch.float16, device=self._bias.device)
        return self._memory[key]


def pointwise(x: Tensor, weights: Pointwise, out: Tensor, across: int, tile: Tile, halved: bool = False) -> None:
    """Normalisation, ReLU and convolution 1 x 1, by :func:`mura_trt.fused_kernels.pointwise`.

    Parameters
    ----------
    x
        float16 (positions, C or more), of which the first C channels are taken.
    out
        float16 (rows, D or more), of which the first D, a multiple of the tile's columns, are written; with another
        ReLU, but for ``halved``.
    across
        Positions of ``out`` in a line of the picture.
    halved
        The mean of 2 x 2 positions is taken on the way.
    """
    (channels, columns), rows = weights.weight.shape, len(out)
    assert columns % tile.columns == 0, f"{columns} channels in tiles of {tile.columns}"
    kernels.pointwise[(columns // tile.columns * _over(rows, tile.rows),)](
        x, *weights, out, rows, channels, across, x.stride(0), out.stride(0), columns,
        halved, not halved, tile.rows, tile.columns, tile.depth, **tile.how,
    )  # fmt: skip


def grow(x: Tensor, weight: Tensor, out: Tensor, height: int, width: int, tile: Tile) -> None:
    """Convolution 3 x 3 of float16 (N * height * width, 128) to the first 32 channels of ``out``."""
    rows, channels = x.shape
    kernels.grow[(_over(rows, tile.rows),)](
        x, weight, out, rows, height, width, out.stride(0), channels, GROWTH, tile.rows, tile.depth, **tile.how
    )


def _stem(conv: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Weights and bias of :func:`mura_trt.fused_kernels.stem`, input normalisation and batch normalisation in them."""
    import torch

    scale, shift = _affine(norm)
    weight = conv.weight.detach().double() * scale.double()[:, None, None, None]  # (64, 3, 7, 7)
    numbers = {"dtype": torch.float64, "device": weight.device}
    mean, std = (255 * torch.tensor(one, **numbers)[:, None, None] for one in (IMAGENET_MEAN, IMAGENET_STD))
    both = torch.zeros((2, TAPS, len(weight)), **numbers)
    both[0, :49] = (weight * (kernels.SPREAD.value / std)).sum(1).flatten(1).T
    both[1, :49] = (weight * ((kernels.CENTRE.value - mean) / std)).sum(1).flatten(1).T
    return _half(both), shift


def _layer(layer: Any) -> Layer:
    scale, shift = _affine(layer.norm2)
    first = layer.conv1.weight.detach()[:, :, 0, 0].float() * scale[:, None]
    second = layer.conv2.weight.permute(2, 3, 1, 0).flatten(0, 2)
    return Layer(Pointwise(*_affine(layer.norm1), _half(first.T), shift), _half(second))


def _transition(transition: Any) -> Pointwise:
    weight = _half(transition.conv.weight[:, :, 0, 0].T)
    return Pointwise(*_affine(transition.norm), weight, weight.new_zeros(weight.shape[1]).float())


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """What a batch normalisation multiplies by and adds, float32 (C,)."""
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.detach().double() - norm.running_mean.double() * scale
    return scale.float(), shift.float()


def _half(weight: Tensor) -> Tensor:
    return weight.detach().half().contiguous()


def _over(rows: int, tile: int) -> int:
    return -(-rows // tile)

"""What a DenseNet does on a GPU, in five Triton kernels: half precision in memory, FP32 while it is computed on.

A dense layer in PyTorch reads its block's channels for the normalisation, writes them, reads them for the convolution
and copies all of them where it concatenates. Here the normalisation and its ReLU are done on what a convolution has
just loaded, and a convolution writes its channels where the block has them, so that each is read once a layer.

Tensors are NHWC with their positions as rows: a row is a position's channels, one behind the other, and rows lie
``stride`` numbers apart. Every kernel masks its rows; channels in and out are multiples of 32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError:  # the module imports all the same; whoever launches a kernel meets what is missing
    if not TYPE_CHECKING:

        class triton:
            """Stands in for Triton as a decorator."""

            jit = staticmethod(lambda function: function)

        class tl:
            """Stands in for its language where the module is read."""

            constexpr = staticmethod(lambda number: number)


# Gray levels are centred on this and divided by SPREAD, both exact in half precision, before they are multiplied.
CENTRE = tl.constexpr(114)
SPREAD = tl.constexpr(64)


@triton.jit
def relu(x):
    """As PyTorch's: what is no number stays none, so that an overflow is seen in the scores."""
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def stem(
    image, weight, bias, out, rows, height, width, TAPS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """Convolution 7 x 7 in steps of 2 of gray pixels, padded with what normalises to 0.

    The normalisation makes three channels of one, each linear in it inside the picture and 0 outside: the convolution
    of all three is one of the gray levels and one of where the picture is.

    ``image`` uint8 (N, height, width); ``weight`` float16 (2 * TAPS, BN), of gray levels and of ones, rows 7 y + x of
    each; ``bias`` float32 (BN,); ``out`` float16 (rows, BN), rows N * height / 2 * width / 2.
    """
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    tap = tl.arange(0, TAPS)
    there = row < rows
    across = width // 2
    down = height // 2
    x = 2 * (row % across)[:, None] + (tap % 7)[None, :] - 3
    y = 2 * (row // across % down)[:, None] + (tap // 7)[None, :] - 3
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (tap < 49)[None, :] & there[:, None]
    view = (row // (across * down)).to(tl.int64)[:, None] * (height * width)
    level = tl.load(image + view + y * width + x, inside, other=0).to(tl.float32)
    gray = tl.where(inside, (level - CENTRE) / SPREAD, 0.0).to(tl.float16)
    ones = tl.where(inside, 1.0, 0.0).to(tl.float16)
    column = tl.arange(0, BN)
    of_gray = tl.load(weight + tap[:, None] * BN + column[None, :])
    of_ones = tl.load(weight + (TAPS + tap)[:, None] * BN + column[None, :])
    total = tl.dot(gray, of_gray) + tl.dot(ones, of_ones) + tl.load(bias + column)[None, :]
    tl.store(out + row.to(tl.int64)[:, None] * BN + column[None, :], total.to(tl.float16), there[:, None])


@triton.jit
def pool(x, out, rows, height, width, stride, C: tl.constexpr, BM: tl.constexpr):
    """ReLU and the largest of 3 x 3 in steps of 2: float16 (N * height * width, C) to (rows, C), rows a quarter."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    column = tl.arange(0, C)
    there = row < rows
    across = width // 2
    down = height // 2
    left = 2 * (row % across) - 1
    top = 2 * (row // across % down) - 1
    view = (row // (across * down)).to(tl.int64) * (height * width)
    most = tl.zeros((BM, C), tl.float16)  # what ReLU leaves is no less
    for tap in tl.static_range(9):
        at_x = left + tap % 3
        at_y = top + tap // 3
        inside = (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height) & there
        at = (view + at_y * width + at_x) * C
        value = tl.load(x + at[:, None] + column[None, :], inside[:, None], other=0.0)
        most = tl.maximum(most, value, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + row.to(tl.int64)[:, None] * stride + column[None, :], most, there[:, None])


@triton.jit
def pointwise(
    x, scale, shift, weight, bias, out, rows, channels, across, x_stride, out_stride, columns,
    HALVED: tl.constexpr, RELU: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Normalisation, ReLU and convolution 1 x 1; HALVED, with the mean of 2 x 2 between ReLU and convolution.

    ``x`` float16 (positions, channels); ``scale``, ``shift`` float32 (channels,); ``weight`` float16 (channels,
    columns); ``bias`` float32 (columns,); ``out`` float16 (rows, columns). HALVED, ``across`` positions make a line of
    ``out`` and ``x`` has twice as many, in twice as many lines. RELU: ``out`` goes through one, too.
    """
    tiles = columns // BN  # of a row of tiles; the grid has one dimension, for the others end at 65,535
    first = tl.program_id(0) % tiles * BN
    row = tl.program_id(0) // tiles * BM + tl.arange(0, BM)
    column = first + tl.arange(0, BN)
    there = row < rows
    line, place = row // across, row % across
    at = line.to(tl.int64) * (4 * across) + 2 * place if HALVED else row.to(tl.int64)
    start = x + at[:, None] * x_stride
    total = tl.zeros((BM, BN), tl.float32)
    for begin in range(0, channels, BK):
        channel = begin + tl.arange(0, BK)
        known = channel < channels
        times = tl.load(scale + channel, known, other=0.0)[None, :]
        plus = tl.load(shift + channel, known, other=0.0)[None, :]
        wanted = there[:, None] & known[None, :]
        from_here = start + channel[None, :]
        value = relu(tl.load(from_here, wanted, other=0.0) * times + plus)
        if HALVED:
            below = from_here + 2 * across * x_stride
            value += relu(tl.load(from_here + x_stride, wanted, other=0.0) * times + plus)
            value += relu(tl.load(below, wanted, other=0.0) * times + plus)
            value += relu(tl.load(below + x_stride, wanted, other=0.0) * times + plus)
            value *= 0.25
        by = tl.load(weight + channel[:, None] * columns + column[None, :], known[:, None], other=0.0)
        total = tl.dot(value.to(tl.float16), by, total)
    total += tl.load(bias + column)[None, :]
    if RELU:
        total = relu(total)
    tl.store(out + row.to(tl.int64)[:, None] * out_stride + column[None, :], total.to(tl.float16), there[:, None])


@triton.jit
def grow(
    x, weight, out, rows, height, width, out_stride, C: tl.constexpr, NEW: tl.constexpr, BM: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    """Convolution 3 x 3, padded with zeros.

    ``x`` float16 (rows, C); ``weight`` float16 (9 * C, NEW), rows (3 y + x) C + channel; ``out`` float16 (rows, NEW).
    """
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    column = tl.arange(0, NEW)
    there = row < rows
    at_x = row % width
    at_y = row // width % height
    total = tl.zeros((BM, NEW), tl.float32)
    for step in range(9 * C // BK):
        tap = step // (C // BK)
        aside = tap % 3 - 1
        down = tap // 3 - 1
        inside = (at_x + aside >= 0) & (at_x + aside < width) & (at_y + down >= 0) & (at_y + down < height) & there
        channel = step % (C // BK) * BK + tl.arange(0, BK)
        at = (row + down * width + aside).to(tl.int64) * C
        value = tl.load(x + at[:, None] + channel[None, :], inside[:, None], other=0.0)
        by = tl.load(weight + (step * BK + tl.arange(0, BK))[:, None] * NEW + column[None, :])
        total = tl.dot(value, by, total)
    tl.store(out + row.to(tl.int64)[:, None] * out_stride + column[None, :], total.to(tl.float16), there[:, None])


@triton.jit
def weigh(x, scale, shift, weight, out, rows, channels, BM: tl.constexpr, BK: tl.constexpr):
    """Normalisation, ReLU and the weighted sum of channels: float16 (rows, channels) to float32 (rows,)."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    there = row < rows
    total = tl.zeros((BM, BK), tl.float32)
    for begin in range(0, channels, BK):
        channel = begin + tl.arange(0, BK)
        known = channel < channels
        value = tl.load(
            x + row.to(tl.int64)[:, None] * channels + channel[None, :], there[:, None] & known[None, :], other=0.0
        )
        value = value * tl.load(scale + channel, known, other=0.0)[None, :]
        value = relu(value + tl.load(shift + channel, known, other=0.0)[None, :])
        total += value * tl.load(weight + channel, known, other=0.0)[None, :]
    tl.store(out + row, tl.sum(total, 1), there)

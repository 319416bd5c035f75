"""Gray pixels of the network's size straight from a PNG or PGM file: inflated by ISA-L, the rest in C (``_gray.c``).

The C code is built with the package where there is a compiler; where there was none, all files are DALI's to decode.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mura_trt.screen import PNG_MAGIC, compressed_pixels

_PNG_HEADER = struct.Struct(">IIBBBBB")  # of IHDR: width, height, bits a sample, color type, and three methods
_USUAL = (0, 0, 0)  # deflate, the five filters, and no interlacing
_BYTES_A_PIXEL = {0: 1, 2: 3}  # by color type: gray and RGB, of 8 bits
BUILT = Path(__file__).with_name("_gray.abi3.so")
_PGM_START = b"P5\n"
_NO_MEMORY = 1  # of _gray.c
# Sides may differ by so much: a strip takes memory and time by its length, whatever its area.
_MAX_ASPECT = 64


class Layout(NamedTuple):
    """How a file stores its pixels."""

    filtered: bool
    """Whether each row begins with the number of the PNG filter that it went through."""
    width: int
    height: int
    bytes_a_pixel: int
    at: int = 0
    """Where the pixels begin in a PGM."""


@functools.cache
def _library() -> Any:
    """The C function; None where it was not built, or does not load."""
    try:
        function = ctypes.CDLL(str(BUILT)).mura_gray_pixels  # which lets other threads run meanwhile
    except OSError:
        return None
    number = ctypes.c_int
    function.argtypes = (ctypes.c_char_p, number, number, number, number, ctypes.c_void_p, number, number)
    return function


def available() -> bool:
    """Whether this installation has the C code."""
    return _library() is not None


def layout(data: bytes) -> Layout | None:
    """How a file that passed the screen stores its pixels, where that is a way this module reads: else None.

    A PNG of 8 bits, gray or RGB, not interlaced; or a PGM as :func:`mura_trt.convert.binary_pgm` writes it. No strip.
    """
    if data.startswith(PNG_MAGIC):
        width, height, depth, color, *methods = _PNG_HEADER.unpack_from(data, len(PNG_MAGIC) + 8)  # in a chunk
        if depth != 8 or color not in _BYTES_A_PIXEL or tuple(methods) != _USUAL:
            return None
        how = Layout(True, width, height, _BYTES_A_PIXEL[color])
    elif data.startswith(_PGM_START):
        size, full_scale, _ = data[len(_PGM_START) : 64].split(b"\n", 2)
        width, height = map(int, size.split())
        how = Layout(False, width, height, 1, len(_PGM_START) + len(size) + len(full_scale) + 2)
    else:
        return None
    return how if max(width, height) <= _MAX_ASPECT * min(width, height) else None


def draw(data: bytes, how: Layout, pixels: NDArray[np.uint8]) -> bool:
    """Fills in a file's pixels: Pillow's ``convert("L")``, and its antialiased bilinear resize, bit for bit.

    To be exact, of two resizes: first along the rows, then along the columns. Pillow's own order hangs on the sizes and
    on its version; where it is the other one, a pixel differs by 1 of 255 at the most.

    Parameters
    ----------
    data
        A file that passed :func:`mura_trt.screen.screen`.
    how
        Its :func:`layout`.
    pixels
        uint8 (H, W), contiguous.

    Returns
    -------
    False, with nothing said of what is in ``pixels``, where the file is not quite as the PNG specification has it (its
    pixels do not unpack, or are not as many as its header says).

    Raises
    ------
    MemoryError
        There is not enough of it.
    """
    lines = _inflated(data, how) if how.filtered else data[how.at :]
    if lines is None or len(lines) != how.height * (how.filtered + how.width * how.bytes_a_pixel):
        return False
    height, width = pixels.shape
    stored = how.filtered, how.width, how.height, how.bytes_a_pixel
    failed = _library()(lines, *stored, pixels.ctypes.data, width, height)
    if failed == _NO_MEMORY:
        raise MemoryError(f"for an image of {how.width} x {how.height} pixels")
    return not failed


def _inflated(data: bytes, how: Layout) -> bytes | None:
    """A PNG's rows, each behind the number of its filter; None where they do not unpack to the end."""
    from isal import isal_zlib

    parts = compressed_pixels(data)
    inflate = isal_zlib.decompressobj()
    expected = how.height * (1 + how.width * how.bytes_a_pixel)
    try:
        # One byte more than there should be, so that a stream that goes on is seen, and not unpacked.
        lines: bytes = inflate.decompress(parts[0] if len(parts) == 1 else b"".join(parts), expected + 1)
    except isal_zlib.IsalError:  # type: ignore[misc]  # isal types its error as an instance
        return None
    return lines if inflate.eof else None

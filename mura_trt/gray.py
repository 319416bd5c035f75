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

from mura_trt.screen import CHUNK_HEAD, PNG_MAGIC

_PNG_HEADER = struct.Struct(">IIBBxxB")  # of IHDR: width, height, bits a sample, color type, interlacing
_BYTES_A_PIXEL = {0: 1, 2: 3}  # by color type: gray and RGB, of 8 bits
_CRITICAL = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})  # of the PNG specification; no reader may pass over others
_PGM_START = b"P5\n"


class Layout(NamedTuple):
    """How a file stores its pixels."""

    filtered: bool
    """Whether each row begins with the number of the PNG filter that it went through."""
    width: int
    height: int
    bytes_a_pixel: int
    at: int
    """Where the pixels begin in a PGM; of a PNG, where its chunks do."""


@functools.cache
def _library() -> Any:
    """The C function; None where it was not built, or does not load."""
    for path in Path(__file__).parent.glob("_gray*.so"):
        try:
            function = ctypes.CDLL(str(path)).mura_gray_pixels  # which lets other threads run meanwhile
        except (OSError, AttributeError):
            continue
        number = ctypes.c_int
        function.argtypes = (ctypes.c_char_p, number, number, number, number, ctypes.c_void_p, number, number)
        return function
    return None


def available() -> bool:
    """Whether this installation has the C code."""
    return _library() is not None


def layout(data: bytes) -> Layout | None:
    """How a file that passed the screen stores its pixels, where that is a way this module reads: else None.

    A PNG of 8 bits, gray or RGB, not interlaced; or a PGM as :func:`mura_trt.convert.binary_pgm` writes it.
    """
    if data.startswith(PNG_MAGIC):
        width, height, depth, color, interlaced = _PNG_HEADER.unpack_from(data, len(PNG_MAGIC) + 8)  # in a chunk
        if depth == 8 and color in _BYTES_A_PIXEL and not interlaced:
            return Layout(True, width, height, _BYTES_A_PIXEL[color], len(PNG_MAGIC))
    elif data.startswith(_PGM_START):
        size, full_scale, _ = data[len(_PGM_START) : 64].split(b"\n", 2)
        width, height = map(int, size.split())
        return Layout(False, width, height, 1, len(_PGM_START) + len(size) + len(full_scale) + 2)
    return None


def draw(data: bytes, how: Layout, pixels: NDArray[np.uint8]) -> bool:
    """Fills in a file's pixels, resized: Pillow's ``convert("L")`` and antialiased bilinear resize, rows first.

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
    pixels do not unpack, or are not as many as its header says), or where memory is lacking.
    """
    lines = _inflated(data, how) if how.filtered else data[how.at :]
    if lines is None or len(lines) != how.height * (how.filtered + how.width * how.bytes_a_pixel):
        return False
    height, width = pixels.shape
    stored = how.filtered, how.width, how.height, how.bytes_a_pixel
    return bool(_library()(lines, *stored, pixels.ctypes.data, width, height) == 0)


def _inflated(data: bytes, how: Layout) -> bytes | None:
    """A PNG's rows, each behind the number of its filter; None where they do not unpack to the end."""
    from isal import isal_zlib

    parts = _compressed(data, how.at)
    inflate = isal_zlib.decompressobj()
    expected = how.height * (1 + how.width * how.bytes_a_pixel)
    try:
        # One byte more than there should be, so that a stream that goes on is seen, and not unpacked.
        lines: bytes = inflate.decompress(parts[0] if len(parts) == 1 else b"".join(parts), expected + 1)
    except (isal_zlib.IsalError, MemoryError):  # type: ignore[misc]  # isal types its error as an instance
        return None
    return lines if inflate.eof else None


def _compressed(data: bytes, at: int) -> list[memoryview]:
    """The bodies of a PNG's IDAT chunks; none where there is a chunk that a reader must know, and this one does not."""
    view, parts = memoryview(data), []
    while at < len(data):
        length, kind = CHUNK_HEAD.unpack_from(data, at)
        if kind == b"IDAT":
            parts.append(view[at + 8 : at + 8 + length])
        elif kind[:1].isupper() and kind not in _CRITICAL:
            return []
        at += 12 + length
    return parts

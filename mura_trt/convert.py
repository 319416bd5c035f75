"""Files whose pixels the decoder would not take as they are meant, turned into plain 8-bit gray ones that it does."""

from __future__ import annotations

import io
import itertools
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mura_trt.screen import CHUNK_HEAD, Rejected, Screened, compressed_pixels

# Bits that detectors give, of which a 16-bit file often holds fewer: 10 to 14 in computed radiography.
USUAL_BITS = (8, 10, 12, 14, 16)
_INFLATED_AT_ONCE = 1 << 20
_HEADER_END = 33  # of a PNG: its magic number and the IHDR chunk
# Passes of an interlaced PNG (third edition, 8.2): first column and row, and steps between columns and rows.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class Plain(NamedTuple):
    """A file that the decoder takes as it is meant."""

    data: bytes
    color: bool
    """Whether the file stored color, of which luminance is left."""


def plain_gray(data: bytes, screened: Screened) -> bytes:
    """The file itself, or for a gray PNG of 16 bits a binary PGM of 8 bits.

    Black is 0 and white is full scale, 2^bits - 1, for the fewest of 8, 10, 12, 14 and 16 bits that hold the largest
    value; so a 12-bit image in a 16-bit file is not nearly black. A file whose ``sBIT`` chunk says how many bits are
    significant (PNG, third edition, 11.3.2.7) has that many, or, where its values are larger, was scaled to all 16 as
    the specification wants it.

    Parameters
    ----------
    data
        A PNG or JPEG.
    screened
        What :func:`mura_trt.screen.screen` found.

    Raises
    ------
    Rejected
        ``UNDECODABLE``: its pixels are not all there.
    """
    if not screened.gray or screened.depth <= 8:
        return data
    pixels = compressed_pixels(data)
    _check_stream(pixels, screened)
    values = _values(_bare(data[:_HEADER_END], pixels))
    top = int(values.max())
    told = (screened.significant, 16) if screened.significant else USUAL_BITS
    white = (1 << next(bits for bits in told if top < 1 << bits)) - 1
    # A table, for the file may be large and arithmetic takes several times its memory.
    gray = ((np.arange(white + 1) * 255 + white // 2) // white).astype(np.uint8)[values]
    return binary_pgm(gray)


def binary_pgm(gray: NDArray[np.uint8]) -> bytes:
    """Pixels, uint8 (H, W), as a file that the decoder takes as they are."""
    return b"P5\n%d %d\n255\n" % (gray.shape[1], gray.shape[0]) + gray.tobytes()


def _bare(header: bytes, pixels: list[memoryview]) -> bytes:
    """A PNG of pixels alone: Pillow minds what is wrong with the rest, which the 8-bit way does not look at."""
    chunks = (*(_chunk(b"IDAT", body) for body in pixels), _chunk(b"IEND"))
    return b"".join((header, *itertools.chain(*chunks)))


def _chunk(kind: bytes, body: memoryview | bytes = b"") -> tuple[bytes, memoryview | bytes, bytes]:
    return CHUNK_HEAD.pack(len(body), kind), body, zlib.crc32(body, zlib.crc32(kind)).to_bytes(4)


def _values(bare: bytes) -> NDArray[np.uint16]:
    """uint16 (H, W): the gray samples of a 16-bit PNG."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(bare)) as image:
            return np.asarray(image)
    except Exception as error:  # Pillow's plugins raise whatever they meet in broken bytes
        raise Rejected("UNDECODABLE", f"its pixels cannot be decoded: {error}") from error


def _check_stream(pixels: list[memoryview], screened: Screened) -> None:
    """Refuses a PNG whose compressed pixels end early: Pillow would leave the missing rows as they are."""
    inflate = zlib.decompressobj()
    found, expected = 0, _bytes_of_pixels(screened)
    try:
        for part in pixels:
            packed: bytes | memoryview = part
            while packed and found < expected:  # a little at a time, and no more than the header speaks of
                found += len(inflate.decompress(packed, _INFLATED_AT_ONCE))
                packed = inflate.unconsumed_tail
    except zlib.error as error:
        raise Rejected("UNDECODABLE", f"its pixels do not unpack: {error}") from error
    if found < expected:
        raise Rejected("UNDECODABLE", f"it has {found} of the {expected} bytes of its pixels")


def _bytes_of_pixels(screened: Screened) -> int:
    """Of 16-bit gray, unpacked: rows, each behind the number of its filter."""
    passes = _ADAM7 if screened.interlaced else ((0, 0, 1, 1),)
    sizes = ((-(-(screened.width - x) // dx), -(-(screened.height - y) // dy)) for x, y, dx, dy in passes)
    return sum(rows * (1 + 2 * columns) for columns, rows in sizes if columns > 0 and rows > 0)

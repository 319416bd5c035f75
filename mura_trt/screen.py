"""Checks an image file's bytes before the decoder sees them.

DALI 2.4 can take the process down on bytes that are no image, and decodes some files to nonsense without a word. Here a
file costs some 5 us and is either fit to decode or refused with a reason.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
OTHER_MAGICS = {
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"PK\x03\x04": "zip",
}

# 8,192 x 8,192: above any radiograph (the largest detectors give some 18 million pixels), below what exhausts memory.
MAX_PIXELS = 1 << 26

_CRITICAL = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})  # of the PNG specification; a reader must know all of these
CHUNK_HEAD, _CRC = struct.Struct(">I4s"), struct.Struct(">I")  # length and kind of a PNG chunk; its checksum
_GRAY, _COLOR = 0, 2  # color types of a PNG; the second is a bit of them

_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start-of-frame markers (ITU-T T.81, table B.1)
# Markers that cannot stand before the first scan: none at all, restarts, begin and end of an image.
_NOT_IN_HEADERS = frozenset({0x00, *range(0xD0, 0xDA)})


class Rejected(Exception):
    """A file that must not reach the decoder; ``code`` is one word for tables, the message says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Screened(NamedTuple):
    """What the header of a file says that passed."""

    width: int
    height: int
    depth: int = 8
    """Bits a sample."""
    gray: bool = False
    """A PNG of gray samples alone."""
    significant: int = 0
    """Of a gray PNG, how many of the bits its ``sBIT`` chunk says are significant; 0 where it has none."""
    interlaced: bool = False
    color: bool = False
    """Whether it stores color, be it that of a gray picture."""


def screen(data: bytes) -> Screened:
    """Passes the bytes of a whole PNG or JPEG of bearable size, of 8 bits a sample or, of a gray PNG, 16.

    Raises
    ------
    Rejected
        ``EMPTY``, ``NOT_AN_IMAGE``, ``UNSUPPORTED_FORMAT``, ``UNSUPPORTED_DEPTH``, ``TOO_LARGE``, ``TRUNCATED`` or
        ``CORRUPT``.
    """
    if not data:
        raise Rejected("EMPTY", "the file has no bytes")
    if data.startswith(PNG_MAGIC):
        return _screen_png(data)
    if data.startswith(JPEG_MAGIC):
        return _screen_jpeg(data)
    raise _wrong_format(data)


def _wrong_format(data: bytes) -> Rejected:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        name: str | None = "WebP"
    else:
        name = next((name for magic, name in OTHER_MAGICS.items() if data.startswith(magic)), None)
    if name:
        return Rejected("UNSUPPORTED_FORMAT", f"the file is {name}; PNG, JPEG and DICOM are read: convert it")
    return Rejected("NOT_AN_IMAGE", f"the file begins with {data[:8].hex(' ')}, which is neither PNG, JPEG nor DICOM")


def check_size(width: int, height: int) -> None:
    """Refuses an image without pixels, or of too many; raises Rejected."""
    if width == 0 or height == 0:
        raise Rejected("CORRUPT", f"the header says {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise Rejected("TOO_LARGE", f"{width} x {height} pixels; at most {MAX_PIXELS} are decoded")


def _check_depth(bits: int, most: int = 8) -> None:
    if bits > most:
        raise Rejected(
            "UNSUPPORTED_DEPTH",
            f"{bits} bits a sample are read in a gray PNG without an alpha channel only; convert the image to 8 bits",
        )


def _screen_png(data: bytes) -> Screened:
    """Walks the chunks (PNG, third edition, section 5): each whole, its CRC right, IHDR first, IEND there."""
    from isal.isal_zlib import crc32  # in an eighth of zlib's time

    view = memoryview(data)
    at = len(PNG_MAGIC)
    kind = b""
    significant = 0
    while kind != b"IEND":
        if at + 12 > len(data):
            raise Rejected("TRUNCATED", f"the file ends at byte {len(data)}, before the PNG's end marker")
        length, kind = CHUNK_HEAD.unpack_from(data, at)
        if at + 12 + length > len(data):
            raise Rejected("TRUNCATED", f"the file ends at byte {len(data)}, inside a chunk of {length} bytes")
        body = at + 8 + length
        if crc32(view[at + 4 : body]) != _CRC.unpack_from(data, body)[0]:
            raise Rejected("CORRUPT", f"wrong checksum of the chunk at byte {at}")
        if at == len(PNG_MAGIC):
            if kind != b"IHDR" or length != 13:
                raise Rejected("CORRUPT", "the file does not begin with a PNG header")
            width, height, depth, color, interlace = struct.unpack_from(">IIBBxxB", data, at + 8)
            check_size(width, height)
            _check_depth(depth, 16 if color == _GRAY else 8)
        elif kind == b"IHDR":
            raise Rejected("CORRUPT", f"a second header at byte {at}")
        elif kind == b"sBIT" and length == 1 and 0 < view[at + 8] <= depth:
            significant = view[at + 8]
        at = body + 4
    return Screened(width, height, depth, color == _GRAY, significant, bool(interlace), bool(color & _COLOR))


def compressed_pixels(data: bytes) -> list[memoryview]:
    """The bodies of the IDAT chunks of a PNG that passed; none where there is a chunk that a reader may not pass over.

    Whatever lies behind the end marker is no part of the image.
    """
    view, parts = memoryview(data), []
    at, kind = len(PNG_MAGIC), b""
    while kind != b"IEND":
        length, kind = CHUNK_HEAD.unpack_from(data, at)
        if kind == b"IDAT":
            parts.append(view[at + 8 : at + 8 + length])
        elif kind[:1].isupper() and kind not in _CRITICAL:
            return []
        at += 12 + length
    return parts


def _screen_jpeg(data: bytes) -> Screened:
    """Walks the markers up to the first scan (ITU-T T.81, annex B), then looks for the end marker behind it."""
    at = 2
    found: Screened | None = None
    while True:
        while data[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        if at + 4 > len(data):
            raise Rejected("TRUNCATED", f"the file ends at byte {len(data)}, inside the JPEG's header")
        marker = data[at + 1]
        # DALI's parser does not search for the next marker; what it does not take can bring the process down later.
        if data[at] != 0xFF or marker in _NOT_IN_HEADERS:
            raise Rejected("CORRUPT", f"no segment of the JPEG's header begins at byte {at}, where one should")
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 2:
            raise Rejected("CORRUPT", f"a JPEG segment at byte {at} gives its length as {length}")
        if marker in _JPEG_FRAMES:
            if at + 9 > len(data):
                raise Rejected("TRUNCATED", f"the file ends at byte {len(data)}, inside the JPEG's header")
            depth, height, width = struct.unpack_from(">BHH", data, at + 4)
            check_size(width, height)
            _check_depth(depth)
            found = Screened(width, height, color=data[at + 9 : at + 10] > b"\1")  # components
        if marker == 0xDA:  # start of scan
            break
        at += 2 + length
    if found is None:
        raise Rejected("CORRUPT", "the JPEG has no frame header before its pixels")
    if data.rfind(b"\xff\xd9") < at:
        raise Rejected("TRUNCATED", f"the file ends at byte {len(data)}, without the JPEG's end marker")
    return found

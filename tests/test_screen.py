"""Real files, whole and broken: what passes the screen and what is refused as what."""

from __future__ import annotations

import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mura_trt.screen import MAX_PIXELS, Rejected, screen
from tests.images import chunk, encode


def png(width: int, height: int, depth: int = 8, color: int = 0) -> bytes:
    """A PNG whose header says so; its pixels are not there."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg(width: int, height: int, depth: int = 8, frame: int = 0xC0) -> bytes:
    """A gray JPEG's frame header, a scan header and an end marker."""
    sof = struct.pack(">BBHBHHB3B", 0xFF, frame, 11, depth, height, width, 1, 1, 0x11, 0)
    return b"\xff\xd8" + sof + b"\xff\xda\0\x08\1\1\0\0\x3f\0" + b"\0" * 20 + b"\xff\xd9"


def view(mode: str) -> Image.Image:
    """A small picture with structure, so that its files have many bytes."""
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(0, 256, (61, 47, 3), np.uint8)).convert(mode)


def code_of(data: bytes) -> str:
    try:
        screen(data)
    except Rejected as reason:
        return reason.code
    return "passed"


PNG = encode(view("L"), "PNG")
JPEG = encode(view("L"), "JPEG")
PROGRESSIVE = encode(view("RGB"), "JPEG", progressive=True)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_whole_pngs_pass(mode: str) -> None:
    assert code_of(encode(view(mode), "PNG")) == "passed"


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_whole_jpegs_pass(mode: str, progressive: bool) -> None:
    assert code_of(encode(view(mode), "JPEG", progressive=progressive)) == "passed"


def test_jpegs_with_exif_comments_fill_bytes_and_restarts_pass() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encode(view("L"), "JPEG", exif=exif, comment=b"\xff\xd9\xff\xda" * 5, restart_marker_rows=1)
    assert code_of(whole) == "passed"
    assert code_of(whole[:2] + b"\xff\xff\xff" + whole[2:]) == "passed"


def test_views_of_the_synthetic_archive_pass(png_files: list[bytes]) -> None:
    assert {code_of(data) for data in png_files} == {"passed"}


@pytest.mark.parametrize("data", [PNG, JPEG, PROGRESSIVE], ids=["PNG", "JPEG", "progressive"])
@pytest.mark.parametrize("tail", [b"\0", b"\n", b"junk" * 100, PNG, JPEG])
def test_bytes_behind_the_end_are_fine(data: bytes, tail: bytes) -> None:
    assert code_of(data + tail) == "passed"


SMALL = Image.new("L", (9, 7), 3)


@pytest.mark.parametrize(
    ("data", "code", "word"),
    [
        (b"", "EMPTY", "no bytes"),
        (b"patient,age\n1,7\n", "NOT_AN_IMAGE", "70 61 74"),
        (b"\xff", "NOT_AN_IMAGE", "ff"),
        (PNG[:7], "NOT_AN_IMAGE", "neither"),
        (b"\0" * 4096, "NOT_AN_IMAGE", "00 00"),
        (encode(SMALL, "GIF"), "UNSUPPORTED_FORMAT", "GIF"),
        (encode(SMALL, "BMP"), "UNSUPPORTED_FORMAT", "BMP"),
        (encode(SMALL, "TIFF"), "UNSUPPORTED_FORMAT", "TIFF"),
        (b"MM\0*\0\0\0\x08" + b"\0" * 200, "UNSUPPORTED_FORMAT", "TIFF"),
        (encode(SMALL.convert("RGB"), "WEBP"), "UNSUPPORTED_FORMAT", "WebP"),
        (encode(SMALL, "JPEG2000"), "UNSUPPORTED_FORMAT", "JPEG 2000"),
        (encode(SMALL, "JPEG2000", no_jp2=True), "UNSUPPORTED_FORMAT", "JPEG 2000"),
        (b"PK\x03\x04\x14\0", "UNSUPPORTED_FORMAT", "zip"),
        (png(9, 7)[:33] + png(9000, 9000)[8:], "CORRUPT", "second header"),
        (png(9, 7, depth=16, color=4), "UNSUPPORTED_DEPTH", "16 bits"),
        (png(9, 7, depth=16, color=2), "UNSUPPORTED_DEPTH", "8 bits"),
        (jpeg(9, 7, depth=12, frame=0xC1), "UNSUPPORTED_DEPTH", "12 bits"),
        (png(60_000, 60_000), "TOO_LARGE", "60000 x 60000"),
        (png(MAX_PIXELS + 1, 1), "TOO_LARGE", str(MAX_PIXELS)),
        (jpeg(60_000, 60_000), "TOO_LARGE", "60000 x 60000"),
        (png(0, 7), "CORRUPT", "0 x 7"),
        (jpeg(9, 0), "CORRUPT", "9 x 0"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""), "CORRUPT", "PNG header"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"\0" * 12) + chunk(b"IEND", b""), "CORRUPT", "PNG header"),
        (b"\xff\xd8\xff\xda\0\x08\1\1\0\0\x3f\0" + b"\0" * 20 + b"\xff\xd9", "CORRUPT", "no frame"),
        (b"\xff\xd8\xff\xe0\0\1" + JPEG[2:], "CORRUPT", "length as 1"),
        (JPEG[:2] + b"\xff\xd9" + JPEG[2:], "CORRUPT", "no segment"),
        (JPEG[:20] + b"\0" + JPEG[20:], "CORRUPT", "no segment"),
        (b"\xff\xd8\xff\xd9", "TRUNCATED", "header"),
        (PNG[:8], "TRUNCATED", "byte 8"),
        (JPEG[:3], "TRUNCATED", "byte 3"),
        (JPEG[:-2] + b"\0" * 4096, "TRUNCATED", "end marker"),
        (jpeg(9, 7)[:10], "TRUNCATED", "header"),
    ],
)  # fmt: skip
def test_refusals_have_a_code_and_say_why(data: bytes, code: str, word: str) -> None:
    with pytest.raises(Rejected) as caught:
        screen(data)
    assert caught.value.code == code
    assert word in str(caught.value)


@pytest.mark.parametrize("data", [png(8192, 8192), jpeg(8192, 8192), png(MAX_PIXELS, 1)])
def test_the_largest_image_passes(data: bytes) -> None:
    assert code_of(data) == "passed"


@pytest.mark.parametrize(
    "data",
    [PNG, JPEG, PROGRESSIVE, encode(view("L"), "JPEG", comment=b"\xff\xd9" * 9)],
    ids=["PNG", "JPEG", "progressive", "JPEG with an end marker in a comment"],
)
def test_a_file_cut_anywhere_never_passes(data: bytes) -> None:
    assert code_of(data) == "passed"
    codes = {code_of(data[:length]) for length in range(len(data))}
    assert codes == {"EMPTY", "NOT_AN_IMAGE", "TRUNCATED"}


def test_fill_bytes_before_a_marker_pass() -> None:
    assert code_of(JPEG[:20] + b"\xff\xff" + JPEG[20:]) == "passed"


def test_a_png_with_one_flipped_byte_never_passes() -> None:
    rng = random.Random(0)
    codes = set()
    for at in range(len(PNG)):
        for flip in (1 << rng.randrange(8), rng.randrange(1, 256)):
            codes.add(code_of(PNG[:at] + bytes([PNG[at] ^ flip]) + PNG[at + 1 :]))
    assert "passed" not in codes
    assert "CORRUPT" in codes


@pytest.mark.parametrize("data", [PNG, JPEG], ids=["PNG", "JPEG"])
def test_broken_bytes_raise_nothing_but_rejected(data: bytes) -> None:
    rng = random.Random(1)
    for _ in range(2000):
        broken = bytearray(data[: rng.randrange(3, len(data))] if rng.random() < 0.5 else data)
        for _ in range(rng.randrange(1, 30)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        if rng.random() < 0.9:
            broken[:8] = data[:8]  # past the magic
        assert code_of(bytes(broken)).isidentifier()

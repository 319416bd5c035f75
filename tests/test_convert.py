"""Gray PNGs of 16 bits: what is black, what is white, and which are refused."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mura_trt.convert import plain_gray
from mura_trt.decode import Decoder
from mura_trt.screen import Rejected, screen
from tests.images import chunk

ROWS, COLUMNS = 40, 30
RAMP = np.linspace(0, 1, ROWS * COLUMNS).reshape(ROWS, COLUMNS)


def png16(values: NDArray[np.uint16], significant: int = 0, stream: bytes | None = None, interlace: int = 0) -> bytes:
    rows, columns = values.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 16, 0, 0, 0, interlace))
    more = chunk(b"sBIT", bytes([significant])) if significant else b""
    packed = zlib.compress(lines) if stream is None else stream
    half = len(packed) // 2
    parts = chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", packed[:half]) + chunk(b"IDAT", packed[half:])
    return b"\x89PNG\r\n\x1a\n" + header + more + parts + chunk(b"IEND", b"")


def gray_of(data: bytes) -> NDArray[np.uint8]:
    """The pixels that the decoder is given, in the file's own size."""
    plain = plain_gray(data, screen(data))
    with Image.open(io.BytesIO(plain)) as image:
        assert (image.format, image.mode) == ("PPM", "L")
        return np.asarray(image)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("told", [False, True])
def test_full_scale_is_white_whatever_the_detector(bits: int, told: bool) -> None:
    values = np.round(RAMP * (2**bits - 1)).astype(np.uint16)
    gray = gray_of(png16(values, bits if told else 0))
    exact = values * 255.0 / (2**bits - 1)
    assert gray.min() == 0 and gray.max() == 255
    assert np.abs(gray - exact).max() <= 0.5 + 1e-6


def test_twelve_bits_that_do_not_reach_white_are_told_by_the_chunk_or_by_the_largest_value() -> None:
    values = np.full((ROWS, COLUMNS), 600, np.uint16)
    assert set(gray_of(png16(values)).ravel()) == {150}  # 10 bits hold it
    assert set(gray_of(png16(values, 12)).ravel()) == {37}
    assert set(gray_of(png16(values, 9)).ravel()) == {2}  # scaled to 16 bits, as the specification wants it
    assert not gray_of(png16(np.zeros((3, 4), np.uint16))).any()


def test_values_scaled_to_sixteen_bits_keep_their_scale_whatever_the_largest() -> None:
    for top in (20_000, 40_000, 65_535):
        values = np.round(RAMP * top).astype(np.uint16)
        assert np.abs(gray_of(png16(values, 12)) - values / 257).max() <= 0.5 + 1e-6


def test_the_decoder_gives_what_pillow_gives_of_the_8_bit_image() -> None:
    rng = np.random.default_rng(0)
    values = (rng.integers(0, 4096, (50, 40)) // 16 * 16).astype(np.uint16)
    values[0, 0] = 4095
    data = png16(values)
    decoder = Decoder((32, 32), 1, 2)
    decoder.submit([plain_gray(data, screen(data))])
    decoded = decoder.collect()
    expected = Image.fromarray(np.round(values * 255.0 / 4095).astype(np.uint8)).resize(
        (32, 32), Image.Resampling.BILINEAR
    )
    inside = np.abs(decoded.pixels[0, 1:-1, 1:-1, 0].astype(int) - np.asarray(expected)[1:-1, 1:-1])
    assert inside.max() <= 1


def test_pillows_own_files_are_read() -> None:
    values = np.round(RAMP * 65535).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    assert np.abs(gray_of(buffer.getvalue()) - values / 257).max() <= 0.5


def test_other_files_pass_as_they_are(png_files: list[bytes]) -> None:
    for data in png_files:
        assert plain_gray(data, screen(data)) is data


@pytest.mark.parametrize(
    "stream",
    [b"", zlib.compress(b"\0" * 100), zlib.compress(bytes(ROWS * (1 + 2 * COLUMNS) - 1)), b"no deflate", None],
    ids=["nothing", "short", "a byte short", "garbage", "cut"],
)
def test_pixels_that_are_not_all_there_are_refused(stream: bytes | None) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (ROWS, COLUMNS)).astype(np.uint16)
    if stream is None:
        stream = zlib.compress(b"".join(b"\0" + line.astype(">u2").tobytes() for line in values))[:-700]
    data = png16(values, stream=stream)
    with pytest.raises(Rejected, match="pixels") as caught:
        plain_gray(data, screen(data))
    assert caught.value.code == "UNDECODABLE"


def test_a_bomb_unpacks_no_further_than_its_header_speaks_of() -> None:
    data = png16(np.zeros((1, 1), np.uint16), stream=zlib.compress(bytes(200_000_000)))
    tracemalloc.start()
    plain_gray(data, screen(data))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def interlaced(values: NDArray[np.uint16]) -> bytes:
    """The rows of a PNG's seven passes (third edition, 8.2), written down once more."""
    passes = ["::8, ::8", "::8, 4::8", "4::8, ::4", "::4, 2::4", "2::4, ::2", "::2, 1::2", "1::2, ::"]
    taken = [values[tuple(slice(*(int(n or 0) or None for n in one.split(":"))) for one in which.split(", "))]
             for which in passes]  # fmt: skip
    return b"".join(b"\0" + line.astype(">u2").tobytes() for part in taken for line in part if line.size)


@pytest.mark.parametrize("shape", [(ROWS, COLUMNS), (1, 1), (3, 2), (1, 9), (9, 1)])
def test_an_interlaced_file_is_read_where_all_of_it_is_there(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    values[0, 0] = 65535
    lines = interlaced(values)
    data = png16(values, interlace=1, stream=zlib.compress(lines))
    assert np.abs(gray_of(data) - values / 257).max() <= 0.5
    cut = png16(values, interlace=1, stream=zlib.compress(lines[: len(lines) // 3]))
    with pytest.raises(Rejected, match=r"of the .* bytes of its pixels"):
        plain_gray(cut, screen(cut))


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"gAMA", b"pHYs", b"tRNS"])
def test_what_is_wrong_beside_the_pixels_does_not_matter(kind: bytes) -> None:
    values = np.round(RAMP * 65535).astype(np.uint16)
    data = png16(values)
    spoiled = data.replace(chunk(b"tEXt", b"a\0b"), chunk(kind, b"a"))
    assert spoiled != data
    np.testing.assert_array_equal(gray_of(spoiled), gray_of(data))

"""Pixels by C of our own: Pillow's, bit for bit, and nothing worse than a refusal whatever the bytes."""

from __future__ import annotations

import io
import random
import shutil
import struct
import subprocess
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mura_trt import gray
from mura_trt.convert import binary_pgm
from mura_trt.decode import Decoder
from mura_trt.host_decode import HostDecoder, open_decoder
from tests.images import chunk

Pixels = NDArray[np.uint8]
COMPILER = shutil.which("cc")
needs_c = pytest.mark.skipif(not gray.available(), reason="the C code was not built here")


def png(lines: bytes, width: int, height: int, depth: int = 8, color: int = 0, interlaced: int = 0) -> bytes:
    """A PNG of rows that were filtered already."""
    return png_of(zlib.compress(lines, 1), width, height, depth, color, interlaced)


def png_of(body: bytes, width: int, height: int, depth: int = 8, color: int = 0, interlaced: int = 0) -> bytes:
    """A PNG of any stream."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    at = len(body) // 2  # in two chunks, as most writers have several
    data = chunk(b"IDAT", body[:at]) + chunk(b"IDAT", body[at:])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"tEXt", b"a\0b") + data + chunk(b"IEND", b"")


def filtered(pixels: Pixels, filters: list[int]) -> bytes:
    """The rows of uint8 (H, W) or (H, W, 3), each through its filter (PNG, third edition, section 9)."""
    rows = pixels.reshape(len(pixels), -1).astype(int)
    step = 1 if pixels.ndim == 2 else 3
    above, lines = np.zeros_like(rows[0]), []
    for row, kind in zip(rows, filters, strict=True):
        left = np.concatenate([np.zeros(step, int), row[:-step]])
        corner = np.concatenate([np.zeros(step, int), above[:-step]])
        guess = left + above - corner
        far = np.abs(np.stack([guess - left, guess - above, guess - corner]))
        paeth = np.choose(far.argmin(0), [left, above, corner])  # the first of the nearest
        taken = [np.zeros_like(row), left, above, (left + above) // 2, paeth][kind]
        lines.append(bytes([kind]) + ((row - taken) % 256).astype(np.uint8).tobytes())
        above = row
    return b"".join(lines)


def by_pillow(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Luminance, and a resize to (H, W): in two steps, for Pillow's own order hangs on its version and the sizes."""
    image = Image.fromarray(pixels).convert("L")
    rows = image.resize((size[1], image.height), Image.Resampling.BILINEAR)
    return np.asarray(rows.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def drawn(data: bytes, size: tuple[int, int] = (320, 320)) -> Pixels | None:
    """By our C; None where it says no."""
    how = gray.layout(data)
    assert how is not None
    pixels = np.full(size, 77, np.uint8)
    return pixels if gray.draw(data, how, pixels) else None


@pytest.mark.skipif(COMPILER is None, reason="no C compiler here")
def test_it_is_there_where_a_compiler_is() -> None:
    assert gray.available()


@needs_c
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_pillows_bit_for_bit(channels: int) -> None:
    rng = np.random.default_rng(channels)
    for number in range(150):
        shape = tuple(rng.integers(1, 40, 2) if number % 3 == 0 else rng.integers(10, 600, 2))
        pixels = rng.integers(0, 256, shape if channels == 1 else (*shape, 3), np.uint8)
        if number % 4 == 0:  # flat and at the ends of the scale, where rounding would show
            pixels = (pixels // 200 * 255).astype(np.uint8)
        filters = rng.integers(0, 5, len(pixels)) if number % 2 else np.full(len(pixels), number // 2 % 5)
        size = (320, 320) if number % 5 else tuple(rng.integers(1, 400, 2).tolist())
        data = png(filtered(pixels, filters.tolist()), shape[1], shape[0], color=2 if channels == 3 else 0)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)  # the test's own filters
        np.testing.assert_array_equal(drawn(data, size), by_pillow(pixels, size))


@needs_c
def test_a_pgm_as_converted_files_are_is_read() -> None:
    rng = np.random.default_rng(4)
    for shape in ((1, 1), (7, 300), (500, 400)):
        pixels = rng.integers(0, 256, shape, np.uint8)
        np.testing.assert_array_equal(drawn(binary_pgm(pixels)), by_pillow(pixels, (320, 320)))
    assert drawn(binary_pgm(pixels)[:-1]) is None


@pytest.mark.parametrize(
    "data",
    [
        png(b"", 4, 4, depth=16),
        png(b"", 4, 4, depth=4),
        png(b"", 4, 4, color=3),
        png(b"", 4, 4, color=4),
        png(b"", 4, 4, color=6),
        png(b"", 4, 4, interlaced=1),
        b"\xff\xd8\xff\xe0",
        png(b"", 1, 1 << 26),
        png(b"", 1 << 16, 1000),
        png(b"", 4, 4)[:26] + b"\1" + png(b"", 4, 4)[27:],
        png(b"", 4, 4)[:27] + b"\x40" + png(b"", 4, 4)[28:],
    ],
    ids=[
        *("16 bits", "4 bits", "palette", "gray and alpha", "RGBA", "interlaced", "JPEG"),
        *("column", "strip", "method of compression", "method of filters"),
    ],
)
def test_other_files_are_dalis(data: bytes) -> None:
    assert gray.layout(data) is None


LINES = filtered(np.arange(60 * 50, dtype=np.uint8).reshape(60, 50), [4] * 60)


@needs_c
@pytest.mark.parametrize(
    "data",
    [
        png(LINES[:-51], 50, 60),
        png(LINES[:-1], 50, 60),
        png(LINES + b"\0", 50, 60),
        png(b"\5" + LINES[1:], 50, 60),
        png(LINES, 50, 60).replace(chunk(b"tEXt", b"a\0b"), chunk(b"ABCD", b"")),
        png(LINES, 50, 60).replace(chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", b"x")),
        png(bytes(1 << 28), 50, 60),
        png(b"", 8192, 8192),
    ],
    ids=["a row less", "a byte less", "a byte more", "no such filter", "a chunk to be known", "noise", "bomb", "none"],
)
def test_what_is_not_quite_right_is_refused_and_takes_no_memory(data: bytes) -> None:
    tracemalloc.start()
    assert drawn(data) is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    assert drawn(png(LINES, 50, 60)) is not None


@needs_c
@pytest.mark.parametrize("behind", [b"\n", bytes(3), bytes(16), b"IDAT" * 5, png(LINES, 50, 60)])
def test_what_lies_behind_the_end_marker_is_no_part_of_the_image(behind: bytes) -> None:
    data = png(LINES, 50, 60)
    decoder = open_decoder((320, 320), 1, 2)
    decoder.submit([data, data + behind])
    decoded = decoder.collect()
    assert decoded.kept == [0, 1]
    np.testing.assert_array_equal(decoded.pixels[0], decoded.pixels[1])


@needs_c
def test_png_files_go_this_way_and_jpeg_files_do_not() -> None:
    pixels = np.random.default_rng(8).integers(0, 256, (500, 300), np.uint8)
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG")
    data = png(filtered(pixels, [4] * 500), 300, 500)
    decoder, dali = open_decoder((320, 320), 2, 3), Decoder((320, 320), 1, 3)
    for one in (decoder, dali):
        one.submit([jpeg.getvalue(), data, jpeg.getvalue()])
    decoded, of_dali = decoder.collect(), dali.collect()
    assert decoded.kept == [0, 1, 2]
    np.testing.assert_array_equal(decoded.pixels[1, ..., 0], by_pillow(pixels, (320, 320)))
    assert (of_dali.pixels[1] != decoded.pixels[1]).any()
    np.testing.assert_array_equal(decoded.pixels[[0, 2]], of_dali.pixels[[0, 2]])
    decoder.close()


@needs_c
def test_a_lack_of_memory_is_no_fault_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gray, "_library", lambda: lambda *_: 1)
    with pytest.raises(MemoryError, match="image of 50 x 60 pixels"):
        drawn(png(LINES, 50, 60))


@needs_c
def test_without_the_c_code_dali_decodes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_decoder((32, 32), 1, 2), HostDecoder)
    monkeypatch.setattr(gray, "_library", lambda: None)
    assert isinstance(open_decoder((32, 32), 1, 2), Decoder)


@needs_c
def test_mutated_streams_give_the_whole_picture_or_none() -> None:
    rng, pixels = random.Random(6), np.arange(40 * 30, dtype=np.uint8).reshape(40, 30)
    good = [zlib.compress(filtered(pixels, [kind] * 40), level) for kind in range(5) for level in (0, 1, 9)]
    whole = drawn(png_of(good[0], 30, 40))
    assert whole is not None
    refused = 0
    for _ in range(3000):
        stream = bytearray(rng.choice(good))
        for _ in range(rng.randint(1, 3)):
            stream[rng.randrange(len(stream))] = rng.randrange(256)
        found = drawn(png_of(bytes(stream), 30, 40))
        refused += found is None
        assert found is None or np.array_equal(found, whole)  # what the stream's own checksum lets pass
    assert 2000 < refused < 3000


@pytest.mark.skipif(COMPILER is None, reason="no C compiler here")
def test_it_touches_no_memory_but_its_own_and_does_the_same_on_older_processors(tmp_path: Path) -> None:
    """Many small sizes and some large ones, of any bytes, with the compiler's own watch on addresses and arithmetic."""
    watch = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    told = [called(tmp_path / name, options) for name, options in (("wide", watch), ("plain", [*watch, "-DPLAIN"]))]
    assert told[0] == told[1] and told[0].startswith("1500 images, ")


def called(program: Path, options: list[str]) -> str:
    """What a program says that calls the C code with random images; built with options of the compiler's."""
    assert COMPILER is not None
    sources = [str(Path(__file__).with_name("gray_caller.c")), str(gray.BUILT.with_name("_gray.c"))]
    command = [COMPILER, *options, "-Wno-psabi", *sources, "-o", str(program), "-lm"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if "cannot find" in built.stderr:
        pytest.skip("the compiler has no sanitizers here")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(program), "1500"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout

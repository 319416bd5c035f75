"""Decoding against Pillow, and what a file that cannot be decoded costs the others: nothing."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mura_trt import gray
from mura_trt.decode import Decoded, Decoder
from mura_trt.host_decode import AnyDecoder, HostDecoder, open_decoder
from mura_trt.screen import screen
from tests.images import chunk, encode

SIZE = (320, 320)
Pixels = NDArray[np.uint8]


def reference(data: bytes) -> Pixels:
    """The same file by Pillow: uint8 (320, 320)."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("L").resize(SIZE, Image.Resampling.BILINEAR))


def colored(data: bytes, mode: str) -> bytes:
    """A view in colors, some of it see-through where the mode can be."""
    gray = Image.open(io.BytesIO(data)).convert("L")
    turned = gray.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    merged = Image.merge("RGBA", (gray, turned, gray.point(lambda level: 255 - level), turned))
    if mode == "LA":
        merged = Image.merge("LA", (gray, turned))
    if mode in ("P", "RGB"):
        merged = merged.convert("RGB")
    return encode(merged.quantize(200) if mode == "P" else merged, "PNG")


ROWS, COLUMNS = 160, 120
SCANLINES = b"".join(b"\0" + bytes((x * y // 60) % 256 for x in range(COLUMNS)) for y in range(ROWS))
STREAM = zlib.compress(SCANLINES)


def png_of(stream: bytes, more: bytes = b"", color: int = 0) -> bytes:
    """A PNG, gray if not told otherwise, with right checksums around any deflate stream."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", COLUMNS, ROWS, 8, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


def jpeg_of_another_process() -> bytes:
    """A baseline JPEG whose frame header claims to be progressive."""
    data = encode(Image.effect_noise((90, 70), 50), "JPEG")
    return data.replace(b"\xff\xc0", b"\xff\xc2", 1)


BROKEN = {
    "stream cut in the middle": png_of(STREAM[: len(STREAM) // 2]),
    "stream cut near the end": png_of(STREAM[:-40]),
    "stream of noise": png_of(random.Random(0).randbytes(500)),
    "stream with a wrong checksum": png_of(STREAM[:-4] + b"\1\2\3\4"),
    "no stream": png_of(b""),
    "whole stream of too few rows": png_of(zlib.compress(SCANLINES[: 100 * (COLUMNS + 1)])),
    "palette image without its palette": png_of(STREAM, color=3),
    "unknown row filter": png_of(zlib.compress(SCANLINES.replace(b"\0", b"\7"))),
    "JPEG of another process": jpeg_of_another_process(),
}
CUT = BROKEN["stream cut in the middle"]


Open = Callable[[int], AnyDecoder]


@pytest.fixture(scope="module", params=["DALI", "own C"])
def opened(request: pytest.FixtureRequest) -> Open:
    """A decoder for batches of a size, by either way."""
    if request.param == "DALI":
        return lambda batch: Decoder(SIZE, threads=2, batch=batch)
    if not gray.available():
        pytest.skip("the C code was not built here")
    return lambda batch: open_decoder(SIZE, threads=2, batch=batch)


@pytest.fixture(scope="module")
def decoder(opened: Open) -> AnyDecoder:
    """One for all that leave it sound, which every test has to."""
    return opened(7)


@pytest.fixture(scope="module")
def clean(opened: Open, png_files: list[bytes]) -> list[Pixels]:
    """The good files' pixels, each decoded in a batch of its own."""
    decoder = opened(1)
    return [decode(decoder, [data]).pixels[0].copy() for data in png_files]


def decode(decoder: AnyDecoder, files: Sequence[bytes]) -> Decoded[NDArray[np.uint8]]:
    for data in files:
        screen(data)
    decoder.submit(files)
    return decoder.collect()


def assert_like_pillow(pixels: Pixels, data: bytes, inside: int, border: int = 12) -> None:
    difference = np.abs(pixels[..., 0].astype(int) - reference(data))
    assert difference[2:-2, 2:-2].max() <= inside
    assert difference.max() <= border


def assert_only_lost(
    decoded: Decoded[NDArray[np.uint8]], lost: Sequence[int], expected: Sequence[Pixels | None]
) -> None:
    """Those and no other were rejected, and the others are as if they had been alone."""
    assert sorted(position for position, _ in decoded.rejected) == list(lost)
    assert {reason.code for _, reason in decoded.rejected} <= {"UNDECODABLE"}
    assert all(str(reason) for _, reason in decoded.rejected)
    assert sorted(decoded.kept) == [at for at in range(len(expected)) if at not in lost]
    assert decoded.pixels.shape == (len(decoded.kept), *SIZE, 1) and decoded.pixels.dtype == np.uint8
    for pixels, at in zip(decoded.pixels, decoded.kept, strict=True):
        np.testing.assert_array_equal(pixels, expected[at])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "progressive JPEG", "RGB JPEG"])
def test_gray_views_decode_as_pillow_does(decoder: AnyDecoder, png_files: list[bytes], kind: str) -> None:
    files = png_files[:7]
    if kind != "PNG":
        grays = [Image.open(io.BytesIO(data)).convert("L") for data in files]
        images = [image.convert("RGB") for image in grays] if kind == "RGB JPEG" else grays
        files = [encode(image, "JPEG", quality=92, progressive=kind == "progressive JPEG") for image in images]
    decoded = decode(decoder, files)
    assert decoded.kept == list(range(7)) and decoded.rejected == []
    for pixels, data in zip(decoded.pixels, files, strict=True):
        assert_like_pillow(pixels, data, inside=1)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_other_modes_decode_as_pillow_does(decoder: AnyDecoder, png_files: list[bytes], mode: str) -> None:
    files = [colored(data, mode) for data in png_files[:4]]
    with Image.open(io.BytesIO(files[0])) as image:
        assert image.mode == mode
    for pixels, data in zip(decode(decoder, files).pixels, files, strict=True):
        assert_like_pillow(pixels, data, inside=2)


def test_cmyk_is_luminance(decoder: AnyDecoder, png_files: list[bytes]) -> None:
    color = Image.open(io.BytesIO(colored(png_files[0], "RGB"))).convert("CMYK")
    data = encode(color, "JPEG", quality=95)
    assert_like_pillow(decode(decoder, [data]).pixels[0], data, inside=2)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_reach_from_black_to_white(decoder: AnyDecoder, bits: int) -> None:
    levels = np.arange(320 * 320).reshape(320, 320) // 7 % 2**bits
    lines = np.packbits((levels[..., None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).reshape(320, -1), axis=1)
    stream = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 320, 320, bits, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", stream) + chunk(b"IEND", b"")
    expected = levels * (255 // (2**bits - 1))
    np.testing.assert_array_equal(decode(decoder, [data]).pixels[0, ..., 0], expected)


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (320, 320)])
def test_any_shape_is_stretched_to_the_networks_size(decoder: AnyDecoder, size: tuple[int, int]) -> None:
    data = encode(Image.linear_gradient("L").resize(size), "PNG")
    assert_like_pillow(decode(decoder, [data]).pixels[0], data, inside=1)


def test_exif_orientation_is_not_applied(decoder: AnyDecoder, png_files: list[bytes]) -> None:
    image = Image.open(io.BytesIO(png_files[0])).convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    plain, turned = encode(image, "JPEG"), encode(image, "JPEG", exif=exif)
    decoded = decode(decoder, [plain, turned])
    np.testing.assert_array_equal(decoded.pixels[0], decoded.pixels[1])


def test_order_is_kept_over_batches_submitted_ahead_and_pixels_stay_valid(
    decoder: AnyDecoder, png_files: list[bytes], clean: list[Pixels]
) -> None:
    rng = random.Random(2)
    batches = [[rng.randrange(len(png_files)) for _ in range(size)] for size in (7, 1, 7, 3, 5, 7, 2)]
    collected: list[Pixels] = []
    for number, batch in enumerate(batches):
        decoder.submit([png_files[at] for at in batch])
        if number >= 2:
            assert decoder.pending == 3
            collected.append(decoder.collect().pixels)
    while decoder.pending:
        collected.append(decoder.collect().pixels)
    # Compared at the very end: no later batch may have touched an earlier one's memory.
    for batch, pixels in zip(batches, collected, strict=True):
        assert len(pixels) == len(batch)
        for at, one in zip(batch, pixels, strict=True):
            np.testing.assert_array_equal(one, clean[at])


@pytest.mark.parametrize("count", [0, 8])
def test_wrong_batch_size_is_refused(decoder: AnyDecoder, png_files: list[bytes], count: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 7 files, not {count}"):
        decoder.submit(png_files[:count])
    assert decoder.pending == 0


@pytest.mark.parametrize("kind", BROKEN)
def test_what_passes_the_screen_and_holds_no_whole_picture_is_undecodable(
    decoder: AnyDecoder, png_files: list[bytes], clean: list[Pixels], kind: str
) -> None:
    decoded = decode(decoder, [png_files[0], BROKEN[kind], png_files[1]])
    assert_only_lost(decoded, [1], [clean[0], None, clean[1]])


def test_a_stream_cut_anywhere_gives_the_whole_picture_or_none(decoder: AnyDecoder) -> None:
    sound = decode(decoder, [png_of(STREAM)]).pixels[0].copy()
    lengths = [*range(0, len(STREAM) - 8, len(STREAM) // 12), *range(len(STREAM) - 8, len(STREAM))]
    kept = 0
    for length in lengths:
        for pixels in decode(decoder, [png_of(STREAM[:length])]).pixels:
            np.testing.assert_array_equal(pixels, sound)
            kept += 1
    assert kept < len(lengths) // 2


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_bad_file_costs_no_other_anything_wherever_it_lies(
    opened: Open, png_files: list[bytes], clean: list[Pixels], size: int
) -> None:
    decoder = opened(size)
    behind = png_files[7 : 7 + size], clean[7 : 7 + size]
    for position in range(size):
        files, expected = list(png_files[:size]), list[Pixels | None](clean[:size])
        files[position], expected[position] = CUT, None
        decoder.submit(files)
        decoder.submit(behind[0])
        decoder.submit(behind[0][:1])
        assert decoder.pending == 3
        assert_only_lost(decoder.collect(), [position], expected)
        assert_only_lost(decoder.collect(), [], behind[1])
        assert_only_lost(decoder.collect(), [], behind[1][:1])
        assert decoder.pending == 0


@pytest.mark.parametrize("lost", [[0, 1], [0, 6], [2, 3], [3, 4], [0, 1, 2, 3, 4, 5, 6]])
def test_several_bad_files_in_one_batch(
    decoder: AnyDecoder, png_files: list[bytes], clean: list[Pixels], lost: list[int]
) -> None:
    files = [CUT if at in lost else data for at, data in enumerate(png_files[:7])]
    assert_only_lost(decode(decoder, files), lost, clean[:7])


def test_bad_batches_behind_one_another(decoder: AnyDecoder, png_files: list[bytes], clean: list[Pixels]) -> None:
    decoder.submit([CUT, png_files[0]])
    decoder.submit([png_files[1], CUT, png_files[2]])
    decoder.submit([CUT])
    decoder.submit(png_files[3:6])
    assert_only_lost(decoder.collect(), [0], [None, clean[0]])
    assert_only_lost(decoder.collect(), [1], [clean[1], None, clean[2]])
    assert_only_lost(decoder.collect(), [0], [None])
    assert_only_lost(decoder.collect(), [], clean[3:6])


@pytest.mark.parametrize(
    "data",
    [png_of(STREAM[:-4]), png_of(STREAM, more=chunk(b"ABCD", b"of no standard"))],
    ids=["checksum of the stream missing", "critical chunk of no standard"],
)
def test_a_picture_that_only_pillow_reads_is_refused_with_that_word(
    decoder: AnyDecoder, png_files: list[bytes], clean: list[Pixels], data: bytes
) -> None:
    decoded = decode(decoder, [png_files[0], data, CUT, png_files[1]])
    assert_only_lost(decoded, [1, 2], [clean[0], None, None, clean[1]])
    reasons = [str(reason) for _, reason in decoded.rejected]
    assert "DALI refuses it, though Pillow reads it" in reasons[0]
    assert "neither DALI nor Pillow can decode it" in reasons[1]


def test_a_file_goes_its_way_in_any_company(png_files: list[bytes]) -> None:
    """PNG files to C, JPEG files and PNG files that are not quite right to DALI: each gets the same pixels alone."""
    files = [*png_files[:3], encode(Image.open(io.BytesIO(png_files[3])).convert("L"), "JPEG"), CUT]
    files += [png_of(STREAM + b"more"), colored(png_files[4], "RGB"), colored(png_files[5], "P")]
    decoder = HostDecoder(Decoder(SIZE, 1, 8), SIZE, 2, 8)
    alone = [decode(decoder, [data]) for data in files]
    rng = random.Random(3)
    for _ in range(20):
        order = rng.sample(range(len(files)), rng.randint(1, len(files)))
        decoded = decode(decoder, [files[at] for at in order])
        assert [order[at] for at, _ in decoded.rejected] == [4] * (4 in order)
        assert sorted(decoded.kept) == [at for at, number in enumerate(order) if number != 4]
        for pixels, at in zip(decoded.pixels, decoded.kept, strict=True):
            np.testing.assert_array_equal(pixels, alone[order[at]].pixels[0])

"""Bad files among good ones: mutated by the thousand, and of every kind at every place of a batch."""

from __future__ import annotations

import functools
import io
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.soak import runs

BATCHES = (1, 2, 7, 64)
VIEWS_A_STUDY = 4


def png(rng: np.random.Generator, mode: str = "L", **options: Any) -> bytes:
    """A small image of noise."""
    return encoded(rng, "PNG", mode, **options)


def jpeg(rng: np.random.Generator, mode: str = "L", **options: Any) -> bytes:
    """A small image of noise."""
    return encoded(rng, "JPEG", mode, **options)


def encoded(rng: np.random.Generator, kind: str, mode: str, **options: Any) -> bytes:
    """A small image of noise in a format and mode of Pillow's."""
    height, width = rng.integers(8, 40, 2)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 1 << 12, (height, width), np.uint16))
    else:
        depth = len(Image.new(mode, (1, 1)).getbands())
        pixels = rng.integers(0, 256, (height, width, depth), np.uint8)
        image = Image.frombytes(mode, (int(width), int(height)), pixels.tobytes())
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def dicom(rng: np.random.Generator, name: str = "MR_small.dcm") -> bytes:
    """A real file of pydicom's with noise for pixels, where these are not compressed."""
    import pydicom
    from pydicom.data import get_testdata_file

    dataset = pydicom.dcmread(str(get_testdata_file(name, download=False)))
    if not dataset.file_meta.TransferSyntaxUID.is_compressed:
        dataset.PixelData = rng.bytes(len(dataset.PixelData))
    out = io.BytesIO()
    dataset.save_as(out)
    return out.getvalue()


def good_file(rng: np.random.Generator) -> tuple[bytes, str]:
    """A file that is fit to score, each with its own pixels, and its suffix."""
    kind = rng.random()
    if kind < 0.02:
        return dicom(rng), ".dcm"
    if kind < 0.3:
        return jpeg(rng), ".jpg"
    return png(rng), ".png"


def originals(rng: np.random.Generator) -> list[tuple[bytes, str]]:
    """Files of many kinds, to be mutated."""
    pngs = [
        png(rng),
        png(rng, "RGB"),
        png(rng, "RGBA"),
        png(rng, "LA"),
        png(rng, "I;16"),
        png(rng, "P"),
    ]
    jpegs = [jpeg(rng), jpeg(rng, "RGB"), jpeg(rng, "CMYK"), jpeg(rng, progressive=True), jpeg(rng, "RGB", quality=20)]
    names = ("", "_RLE", "_jpeg_ls_lossless", "_jp2klossless", "_bigendian", "_implicit")
    dicoms = [dicom(rng, f"MR_small{name}.dcm") for name in names]
    return [
        *((data, ".png") for data in pngs),
        *((data, ".jpg") for data in jpegs),
        *((data, ".dcm") for data in dicoms),
    ]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A file with a few things wrong; of a PNG half the time with its checksums put right, to get past them."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(changed))
        match rng.randrange(7):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at] = rng.randrange(256)
            case 2:
                changed[at : at + rng.randrange(64)] = rng.randbytes(rng.randrange(64))
            case 3:
                changed[at : at + 4] = struct.pack(">I", rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 65535, 1 << 20)))
            case 4:
                del changed[at:]
            case 5:
                changed[at:at] = changed[rng.randrange(len(changed)) :][: rng.randrange(256)]
            case 6:
                changed[at : at + rng.randrange(256)] = bytes(rng.randrange(256))
        if not changed:
            return b""
    return with_checksums(bytes(changed)) if rng.random() < 0.5 else bytes(changed)


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks' CRCs are right, as far as its chunks can be followed; anything else as it is."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 8 + length]
        if at + 12 + length > len(data):
            break
        out += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(out + data[at:])


def mutations(work: Path, engine: Path, good: int, bad: int) -> dict[str, Any]:
    """Scores good files alone, then with mutated ones among them.

    Raises
    ------
    AssertionError
        A good view was lost or scored otherwise, a view came out not once, or a run did not end as it should.
    """
    alone, mixed = work / "alone", work / "mixed"
    rng, chance = np.random.default_rng(1), random.Random(1)
    kinds = originals(rng)
    places = set(chance.sample(range(good + bad), bad))
    for folder in (alone, mixed):
        shutil.rmtree(folder, ignore_errors=True)
    for number in range(good + bad):
        name = f"study{number // VIEWS_A_STUDY:06d}/image{number:06d}"
        (mixed / name).parent.mkdir(parents=True, exist_ok=True)
        if number in places:
            data, suffix = kinds[number % len(kinds)]
            (mixed / f"{name}{suffix}").write_bytes(mutated(data, chance))
        else:
            data, suffix = good_file(rng)
            path = alone / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            os.link(path, mixed / f"{name}{suffix}")
    clean = runs.score(alone, engine, work / "out-alone")
    assert clean.exit_code == runs.OK, clean.said
    run = runs.score(mixed, engine, work / "out-mixed")
    assert run.exit_code == runs.FAILURES, run.said
    expected, found, failed = clean.scores(), run.scores(), run.failures()
    assert len(expected) == good
    assert found.reindex(expected.index).equals(expected), "good views are lost or scored otherwise"
    assert len(found) + len(failed) == good + bad, "views are lost or doubled"
    return {
        "good": good,
        "good_lost": int((~expected.index.isin(found.index)).sum()),
        "mutated": bad,
        "mutated_and_still_an_image": len(found) - good,
        "failed_by_code": failed.value_counts().to_dict(),
        "workers_lost": run.summary["workers_lost"],
        "seconds": round(run.seconds, 1),
        "seconds_good_alone": round(clean.seconds, 1),
    }


def bad_kinds() -> dict[str, tuple[Callable[[Path], Any], str]]:
    """What makes a bad file of each kind at a path, and its suffix."""
    rng = np.random.default_rng(2)
    whole, photo = png(rng), jpeg(rng)
    large = Image.new("L", (64, 64))
    out = io.BytesIO()
    large.save(out, "PNG")
    header = bytearray(out.getvalue())
    header[16:24] = struct.pack(">II", 30_000, 30_000)
    half = bytearray(whole)
    at = half.index(b"IDAT") + 4
    length = int.from_bytes(half[at - 8 : at - 4], "big")
    half[at + length // 2 : at + length] = bytes(length - length // 2)
    huffman = bytearray(photo)
    table = huffman.index(b"\xff\xc4") + 5
    huffman[table : table + 16] = b"\xff" * 16
    files: dict[str, tuple[bytes, str]] = {
        "empty": (b"", ".png"),
        "text": (b"no image at all\n" * 10, ".png"),
        "GIF": (b"GIF89a" + bytes(100), ".png"),
        "PNG cut": (whole[:-20], ".png"),
        "PNG checksum": (whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], ".png"),
        "PNG of 900 million pixels": (with_checksums(bytes(header)), ".png"),
        "PNG without half its pixels": (with_checksums(bytes(half)), ".png"),
        "PNG of 16 bits in color": (_png_of_16_bits_in_color(), ".png"),
        "JPEG cut": (photo[: len(photo) // 2], ".jpg"),
        "JPEG tables": (bytes(huffman), ".jpg"),
        "JPEG without a frame": (photo[:2] + b"\xff\xd9", ".jpg"),
        "DICOM cut": (dicom(rng)[:3000], ".dcm"),
        "DICOM of several frames": (dicom(rng, "rtdose.dcm"), ".dcm"),
    }
    makers: dict[str, tuple[Callable[[Path], Any], str]] = {
        name: (functools.partial(Path.write_bytes, data=data), suffix) for name, (data, suffix) in files.items()
    }
    makers["FIFO"] = (os.mkfifo, ".png")
    makers["link to nowhere"] = (lambda path: path.symlink_to("nowhere"), ".png")
    makers["link to itself"] = (lambda path: path.symlink_to(path.name), ".png")
    return makers


def _png_of_16_bits_in_color() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(8 * (1 + 8 * 6)))) + chunk(b"IEND", b"")


def positions(work: Path, engine: Path, batches: tuple[int, ...] = BATCHES) -> dict[str, Any]:
    """A bad file of every kind at every place of a batch.

    Raises
    ------
    AssertionError
        A good view has another score than when it is alone, or a bad one has one.
    """
    rng = np.random.default_rng(3)
    pool = [png(rng) for _ in range(max(batches))]
    alone = work / "pool"
    shutil.rmtree(alone, ignore_errors=True)
    alone.mkdir()
    for number, data in enumerate(pool):
        (alone / f"{number}.png").write_bytes(data)
    clean = runs.score(alone, engine, work / "out-pool", "--batch", "1")
    assert clean.exit_code == runs.OK, clean.said
    expected = {int(Path(str(view)).stem): logit for view, logit in clean.scores().items()}
    kinds = bad_kinds()
    result: dict[str, Any] = {"kinds": list(kinds)}
    for batch in batches:
        folder = work / f"positions-{batch}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        good: dict[str, float] = {}
        bad: set[str] = set()
        number = 0
        for make, suffix in kinds.values():
            for at in range(batch):
                for place in range(batch):
                    # A folder each, in order, so that the end of a name does not decide on the order of reading.
                    name = f"{number:06d}/image"
                    (folder / f"{number:06d}").mkdir()
                    number += 1
                    if place == at:
                        make(folder / f"{name}{suffix}")
                        bad.add(f"{name}{suffix}")
                    else:
                        os.link(alone / f"{place}.png", folder / f"{name}.png")
                        good[f"{name}.png"] = expected[place]
        run = runs.score(folder, engine, work / f"out-{batch}", "--batch", str(batch))
        assert run.exit_code == runs.FAILURES, run.said
        assert run.scores().to_dict() == good, f"batches of {batch}: good views are lost or scored otherwise"
        assert set(run.failures().index) == bad, f"batches of {batch}: other failures than expected"
        result[f"batches_of_{batch}"] = {"good": len(good), "bad": len(bad), "seconds": round(run.seconds, 1)}
    return result

"""What decoding costs a core: our C, DALI and Pillow, from files in the page cache to gray 320 x 320 pixels.

    python -m benchmarks.decoders ARCHIVE [--views 1000] [--rounds 7] [--json FILE]

On one core, one thread each, in turns; gray PNG files and RGB PNG files apart, and the gray ones again as JPEG files,
which are DALI's either way. Before any of it is timed, the pixels are compared with Pillow's.
"""

from __future__ import annotations

import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.measuring import finish
from mura_trt.bench.alone import decode_rate, in_batches, read_batches
from mura_trt.host_decode import AnyDecoder

SIZE = (320, 320)
BATCH = 64


def kinds(archive: Path, work: Path, views: int) -> dict[str, list[Path]]:
    """So many files of each kind, the archive's again and again."""
    from PIL import Image

    found: dict[str, list[Path]] = {"gray PNG": [], "RGB PNG": [], "gray JPEG": []}
    for number, path in enumerate(sorted(archive.rglob("*.png"))):
        with Image.open(path) as image:
            if image.mode not in ("L", "RGB"):
                continue
            found["gray PNG" if image.mode == "L" else "RGB PNG"].append(path)
            if image.mode == "L":
                found["gray JPEG"].append(work / f"{number}.jpg")
                image.save(found["gray JPEG"][-1], quality=92)
    return {kind: [paths[at % len(paths)] for at in range(views)] for kind, paths in found.items() if paths}


def by_pillow(path: Path) -> NDArray[np.uint8]:
    """As a loop over files with Pillow does it."""
    from PIL import Image

    with Image.open(io.BytesIO(path.read_bytes())) as image:
        return np.asarray(image.convert("L").resize(SIZE, Image.Resampling.BILINEAR))


def rate(decoder: AnyDecoder, paths: list[Path]) -> float:
    """Views/s of a decoder, files read when they are wanted."""
    return decode_rate(decoder, read_batches(in_batches(paths, BATCH)))


def pillow_rate(paths: list[Path]) -> float:
    """Views/s of that loop."""
    started = time.perf_counter()
    for path in paths:
        by_pillow(path)
    return len(paths) / (time.perf_counter() - started)


def worst(decoder: Any, paths: list[Path]) -> int:
    """Levels of 255 that a pixel differs by from Pillow's, at the most, but for the two outermost rows and columns."""
    decoder.submit([path.read_bytes() for path in paths])
    pixels, kept, _ = decoder.collect()
    off = [np.abs(one[..., 0].astype(int) - by_pillow(paths[at])) for one, at in zip(pixels, kept, strict=True)]
    return max(int(one[2:-2, 2:-2].max()) for one in off)


def measure(archive: Path, views: int, rounds: int) -> dict[str, Any]:
    """Milliseconds a view of each way, by kind of file, and how many times as fast as DALI ours is."""
    from mura_trt.decode import Decoder
    from mura_trt.host_decode import open_decoder

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        for kind, paths in kinds(archive, Path(work), views).items():
            ours, dali = open_decoder(SIZE, 1, BATCH), Decoder(SIZE, 1, BATCH)
            ways: dict[str, Callable[[], float]] = {
                "ours": lambda paths=paths, decoder=ours: rate(decoder, paths),  # type: ignore[misc]
                "DALI": lambda paths=paths, decoder=dali: rate(decoder, paths),  # type: ignore[misc]
                "Pillow": lambda paths=paths: pillow_rate(paths),  # type: ignore[misc]
            }
            off = {"ours": worst(ours, paths[:BATCH]), "DALI": worst(dali, paths[:BATCH])}
            rates: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(rounds):
                for name, take in ways.items():
                    rates[name].append(take())
            ratios = [one / other for one, other in zip(rates["ours"], rates["DALI"], strict=True)]
            found[kind] = {
                "ms_a_view": {name: round(1000 / statistics.median(values), 3) for name, values in rates.items()},
                "ours_to_dali": [round(value, 2) for value in (statistics.median(ratios), min(ratios), max(ratios))],
                "off_pillow": off,
                "mean_bytes": round(statistics.mean(path.stat().st_size for path in paths)),
            }
    return found


def main(
    archive: Annotated[Path, typer.Argument(help="Folder of X-rays, as made by mura-trt demo.")],
    views: Annotated[int, typer.Option(help="Files of each kind in a round.")] = 1000,
    rounds: Annotated[int, typer.Option(help="Turns of each way.")] = 7,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the result.")] = None,
) -> None:
    """Measures and prints."""
    finish(measure(archive, views, rounds), json_file)


if __name__ == "__main__":
    typer.run(main)

"""Memory that a view more takes while an archive is listed, and while an update takes its score over: docs/scale.md.

    python -m benchmarks.bytes_a_view

By ``tracemalloc``, so that it is the same on every machine: the peak of Python's and NumPy's memory. Of listings the
slope between two sizes; names are of MURA's length, and the files empty.
"""

from __future__ import annotations

import tarfile
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from mura_trt.archives import list_archive
from mura_trt.earlier import Earlier, Hashes
from mura_trt.rows import Rows, score_type

SIZES = (20_000, 220_000)
UPDATED, SHARD = 200_000, 2048
MAP = 100  # values


def names(count: int) -> Iterator[str]:
    """Of views, three a study."""
    for view in range(count):
        study = view // 3
        yield f"MURA-v1.1/train/XR_WRIST/patient{study // 2:07d}/study{study % 2 + 1}_positive/image{view % 3 + 1}.png"


def write(path: Path, count: int) -> None:
    """A list, tar or zip file of so many views."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as packed:
            for name in names(count):
                packed.writestr(name, b"")
    elif path.suffix == ".tar":
        with tarfile.open(path, "w") as tar:
            for name in names(count):
                tar.addfile(tarfile.TarInfo(name))
    else:
        path.write_text("".join(f"{name}\n" for name in names(count)))
        first = path.parent / next(names(1))  # by which the list's root is found
        first.parent.mkdir(parents=True, exist_ok=True)
        first.touch()


def peak(work: Callable[[], object]) -> int:
    """Bytes at the most while it is done."""
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def rows(values: int) -> Iterator[Rows]:
    """Of a run with maps of so many values."""
    for start in range(0, UPDATED, SHARD):
        stop = min(start + SHARD, UPDATED)
        yield Rows(start, stop, np.arange(start, stop), np.zeros(stop - start, score_type(values)))


def take_over(hashes: Hashes, values: int, kept: Path) -> None:
    """As an update begins."""
    Earlier.of(hashes, rows(values), values).and_also(Earlier.read(kept, values)).write(kept)


def main() -> None:
    """Prints all."""
    hashes = np.random.default_rng(0).integers(1, 1 << 63, (UPDATED, 2)).astype(np.uint64)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in ("csv", "tar", "zip"):
            peaks = []
            for count in SIZES:
                path = folder / f"{count}.{kind}"
                write(path, count)
                peaks.append(peak(partial(list_archive, path)))
            print(f"list a {kind} file: {(peaks[1] - peaks[0]) / (SIZES[1] - SIZES[0]):.0f} bytes a view")
        for values in (0, MAP):
            kept = folder / f"earlier-{values}.dat"
            for when in ("update", "update after one that was interrupted"):
                most = peak(partial(take_over, hashes, values, kept)) / UPDATED
                print(f"{when}, maps of {values} values: {most:.0f} bytes a view")


if __name__ == "__main__":
    main()

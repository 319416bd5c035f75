"""What measurements share: archives of any size, rates, and what a result is kept with."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mura_trt.host_decode import AnyDecoder


def link_views(folder: Path, target: Path, views: int) -> None:
    """So many images: those of a folder, linked under as many folders of ``target`` as it takes."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg"))
    for view in range(views):
        link = target / f"copy{view // len(paths)}" / paths[view % len(paths)].relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(paths[view % len(paths)].resolve())


@contextmanager
def repeated(archive: Path, views: int) -> Iterator[Path]:
    """An archive of so many views, gone when it was used."""
    with tempfile.TemporaryDirectory() as root:
        link_views(archive, Path(root), views)
        yield Path(root)


def decode_rate(decoder: AnyDecoder, paths: list[Path], batch: int, wait: Callable[[], object] = lambda: None) -> float:
    """Views/s of reading and decoding, two batches ahead; ``wait`` follows each batch, for pixels that come later."""

    def collect() -> None:
        pixels = decoder.collect().pixels
        wait()
        del pixels

    batches = [paths[at : at + batch] for at in range(0, len(paths), batch)]
    decoder.submit([path.read_bytes() for path in batches[0]])
    collect()
    started = time.perf_counter()
    for files in batches:
        decoder.submit([path.read_bytes() for path in files])
        if decoder.pending > 2:
            collect()
    while decoder.pending:
        collect()
    return len(paths) / (time.perf_counter() - started)


def scored(archive: Path, engine: Path, *options: str) -> dict[str, Any]:
    """What one run of ``mura-trt score`` tells; RuntimeError with its last words where it fails."""
    with tempfile.TemporaryDirectory() as out:
        command = [
            sys.executable,
            "-m",
            "mura_trt",
            "score",
            str(archive),
            "--engine",
            str(engine),
            "-o",
            out,
            "--json",
        ]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"score ended with exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def score_rate(archive: Path, engine: Path, *options: str) -> float:
    """``views_per_s`` of one run of ``mura-trt score``."""
    return float(scored(archive, engine, *options)["views_per_s"])


def commit() -> str:
    """What the checkout is at; empty where it is none."""
    where = Path(__file__).parent
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=where, capture_output=True, text=True, check=False
    ).stdout.strip()


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import mura_trt
    from mura_trt.cores import processor_name

    return {
        "cpu": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "mura_trt": mura_trt.__version__,
        "commit": commit()[:10],
        "date": time.strftime("%Y-%m-%d"),
    }


def ratio(ours: list[float], others: list[float], other: str = "alone") -> dict[str, Any]:
    """Median and spread of the pairwise ratios."""
    ratios = [ours_rate / other_rate for ours_rate, other_rate in zip(ours, others, strict=True)]
    return {
        "score_views_per_s": [round(rate, 2) for rate in ours],
        f"{other}_views_per_s": [round(rate, 2) for rate in others],
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
    }


def finish(result: dict[str, Any], file: Path | None) -> None:
    """Prints the result and keeps it."""
    text = json.dumps({"machine": machine(), **result}, indent=2)
    print(text)
    if file:
        file.write_text(text + "\n")

"""How fast one worker is fed: tiny images through reading, screening, decoding, batches, ledger and commits.

    python -m benchmarks.feed [--views 60000] [--repeats 5] [--json FILE]

The images are 8 x 8 pixels and the network takes 32 x 32, so that pixels cost next to nothing and what is left is what
a view costs whoever feeds a fast engine: ``mura-trt score`` with the null runtime, on files in the page cache. Told are
views a second from the first batch to the last commit, and the CPU time of the worker's main thread a view, in which
the null runtime's checksum is (1 us).
"""

from __future__ import annotations

import io
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from benchmarks.measuring import finish
from mura_trt.bench.scoring import scored
from mura_trt.bundle import FILES, REQUIRED, Manifest, describe_file, write_manifest
from mura_trt.contract import InputContract
from mura_trt.parity.bounds import BOUNDS

VIEWS_OF_A_STUDY = 3


def make_archive(root: Path, views: int) -> None:
    """That many gray PNG files of 8 x 8 pixels, in MURA's layout."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(64):
        encoded = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(encoded, "PNG")
        files.append(encoded.getvalue())
    for view in range(views):
        study, image = divmod(view, VIEWS_OF_A_STUDY)
        folder = root / "XR_HAND" / f"patient{study:06d}" / "study1_negative"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"image{image + 1}.png").write_bytes(files[view % len(files)])


def make_bundle(folder: Path) -> None:
    """A bundle for the null runtime, which never looks at graphs: theirs are empty, of a network for 32 x 32 pixels."""
    folder.mkdir()
    for role in REQUIRED:
        (folder / FILES[role]).touch()
    manifest = Manifest(
        name="nothing",
        precision="fp32",
        contract=InputContract(height=32, width=32, map_shape=(1, 1)),
        checkpoints_sha256=[],
        builder=None,
        versions={},
        quantization=None,
        bounds=BOUNDS["fp32"],
        parity=None,
        export_seconds=0.0,
        files={role: describe_file(folder / FILES[role]) for role in REQUIRED},
    )
    write_manifest(folder, manifest)


def feed_once(archive: Path, bundle: Path, *options: str) -> dict[str, float]:
    """Views/s, and microseconds a view of the worker's main thread, of one run."""
    run = scored(archive, bundle, "--runtime", "null", "--allow-unproven", "--shard-views", "2048", *options).run
    return {
        "views_per_s": run["views_per_s"],
        "main_thread_us": run["stage_s"]["worker_main_cpu"] / run["scored"] * 1e6,
    }


def measure(views: int, repeats: int) -> dict[str, Any]:
    """``repeats`` runs over the same archive, the first of which is not counted."""
    with tempfile.TemporaryDirectory() as work:
        archive, bundle = Path(work) / "archive", Path(work) / "bundle"
        make_archive(archive, views)
        make_bundle(bundle)
        runs = [feed_once(archive, bundle) for _ in range(repeats + 1)][1:]
    found = {name: [run[name] for run in runs] for name in ("views_per_s", "main_thread_us")}
    medians = {name: round(statistics.median(values), 1) for name, values in found.items()}
    return {"views": views, "median": medians, **found}


def main(
    views: Annotated[int, typer.Option(help="How many images.")] = 60_000,
    repeats: Annotated[int, typer.Option(help="Runs.")] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the result.")] = None,
) -> None:
    """Measures and prints."""
    finish(measure(views, repeats), json_file)


if __name__ == "__main__":
    typer.run(main)

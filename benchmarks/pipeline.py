"""How much the pipeline around the engine costs, and what memory it takes.

    python -m benchmarks.pipeline speed  ARCHIVE --engine BUNDLE [--repeats 5] [--json FILE]
    python -m benchmarks.pipeline isolation ARCHIVE --engine BUNDLE [--repeats 5] [--json FILE]
    python -m benchmarks.pipeline memory ARCHIVE --engine BUNDLE [--json FILE]
    python -m benchmarks.pipeline packed ARCHIVE --engine BUNDLE [--repeats 5] [--json FILE]
    python -m benchmarks.pipeline workers ARCHIVE --engine BUNDLE [--repeats 5] [--json FILE]

``speed`` compares two pairs, each side by side in one run and repeated, on files in the page cache:

* ``mura-trt score`` with ONNX Runtime against the ONNX Runtime session alone on pixels in memory;
* ``mura-trt score`` with the null runtime, which takes as long per batch as decoding does, against decoding alone. With
  perfect overlap the pipeline would be as fast as decoding alone; with none, half as fast.

``memory`` samples the resident memory of all processes of ``mura-trt score`` at 300 and at 3,000 views.

``isolation`` compares the null runtime, which takes no time here, with decoding alone: what reading in threads,
screening, processes and commits cost.

``packed`` compares, with the null runtime, zip and tar files with the folder that they were packed from.

``workers`` compares, with the null runtime, two workers that share out the cores with one that has them all.
"""

from __future__ import annotations

import shutil
import statistics
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.measuring import finish
from mura_trt.bench.alone import decode_alone, model_rate
from mura_trt.bench.processes import in_fresh_process
from mura_trt.bench.sample import repeated
from mura_trt.bench.scoring import scored
from mura_trt.bench.spread import pairwise, spread
from mura_trt.bundle import Bundle
from mura_trt.cores import usable_cores

app = typer.Typer(add_completion=False, help=__doc__)

Archive = Annotated[Path, typer.Argument(help="Folder of X-rays, as made by mura-trt demo.")]
Engine = Annotated[Path, typer.Option(help="Engine bundle.")]
Json = Annotated[Path | None, typer.Option("--json", help="File for the result, with the machine it was measured on.")]

DECODE_BATCH = 64
DECODE_SECONDS, ENGINE_SECONDS = 8.0, 12.0  # about as long as the runs that they are compared with
SMALL = 320  # views that the engine works on for some ten seconds
LARGE = 16_000  # views: some seconds, so that what the first and the last batch wait for hardly counts


def decoding(paths: list[Path]) -> float:
    """Views/s of reading and decoding with nothing behind it, where nothing ran before."""
    return in_fresh_process(decode_alone, paths, (320, 320), usable_cores(), DECODE_BATCH, DECODE_SECONDS)


def score_rate(archive: Path, engine: Path, *options: str) -> float:
    """``views_per_s`` of one run of ``mura-trt score``."""
    return scored(archive, engine, *options).rate


def compared(ours: list[float], others: list[float], other: str = "alone") -> dict[str, Any]:
    """Both rates, and their quotient in each round."""
    return {
        "score_views_per_s": spread(ours),
        f"{other}_views_per_s": spread(others),
        "ratio": spread(pairwise(ours, others)),
    }


def between(
    other: Callable[[], float], ours: Callable[[float], float], repeats: int
) -> tuple[list[float], list[float]]:
    """Our rates, and the mean of the other's before and behind each: a shared machine drifts by a fifth in a minute.

    ``ours`` is given the other's rate just before it.
    """
    found, others = [], []
    before = other()
    for _ in range(repeats):
        found.append(ours(before))
        after = other()
        others.append(statistics.mean([before, after]))
        before = after
    return found, others


def measure_engine(archive: Path, engine: Path, repeats: int) -> dict[str, Any]:
    """Scoring with ONNX Runtime against its session alone."""
    ours, alone = [], []
    with repeated(archive, SMALL) as small:
        for _ in range(repeats):
            alone.append(
                in_fresh_process(model_rate, Bundle.open(engine), "onnxruntime", None, ENGINE_SECONDS).views_per_s
            )
            ours.append(score_rate(small, engine, "--runtime", "onnxruntime"))
    return compared(ours, alone)


def measure_overlap(archive: Path, engine: Path, repeats: int) -> dict[str, Any]:
    """Scoring with the null runtime, as slow as decoding, against decoding alone."""
    batch_ms = []
    with repeated(archive, LARGE) as large:
        paths = sorted(large.rglob("*.png"))

        def ours(decoded: float) -> float:
            batch_ms.append(1000 * DECODE_BATCH / decoded)
            null = ("--runtime", "null", "--batch", str(DECODE_BATCH), "--null-ms", f"{batch_ms[-1]:.1f}")
            return score_rate(large, engine, *null)

        found = compared(*between(lambda: decoding(paths), ours, repeats))
    return {**found, "null_ms": [round(ms, 1) for ms in batch_ms]}


def measure_memory(archive: Path, engine: Path, sizes: tuple[int, ...] = (300, 3000)) -> dict[str, Any]:
    """Peak memory at each size, in views."""
    peaks = {}
    for views in sizes:
        with repeated(archive, views) as folder:
            peak = scored(folder, engine, "--runtime", "onnxruntime", memory=True).peak_bytes
            assert peak is not None, "this kernel does not tell"
            peaks[str(views)] = round(peak / 1e9, 3)
    return {"peak_gb_by_views": peaks}


def pack(folder: Path, path: Path) -> Path:
    """The folder's files as a zip or tar file, in the order in which they are read."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for file in files:
                zipped.write(file, file.relative_to(folder))
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tarred:
            for file in files:
                tarred.add(file, file.relative_to(folder))
    return path


def measure_packed(archive: Path, engine: Path, repeats: int) -> dict[str, Any]:
    """Every packed form, the folder before and behind it."""
    rates: dict[str, list[float]] = {}
    folders: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as root, repeated(archive, LARGE) as links:
        folder = Path(shutil.copytree(links, Path(root) / "folder"))  # files of its own, as the packed forms have them
        forms = {name: pack(folder, Path(root) / f"archive.{name}") for name in ("zip", "tar", "tar.gz")}
        for _ in range(repeats):
            before = score_rate(folder, engine, "--runtime", "null")
            for name, path in forms.items():
                rates.setdefault(name, []).append(score_rate(path, engine, "--runtime", "null"))
                after = score_rate(folder, engine, "--runtime", "null")
                folders.setdefault(name, []).append(statistics.mean([before, after]))
                before = after
    return {name: compared(found, folders[name], "folder") for name, found in rates.items()}


def measure_isolation(archive: Path, engine: Path, repeats: int) -> dict[str, Any]:
    """The null runtime at no cost of its own against decoding alone: what all that guards against bad files takes."""
    with repeated(archive, LARGE) as links:
        paths = sorted(links.rglob("*.png"))
        null = ("--runtime", "null", "--batch", str(DECODE_BATCH))
        return compared(*between(lambda: decoding(paths), lambda _: score_rate(links, engine, *null), repeats))


def measure_workers(archive: Path, engine: Path, repeats: int) -> dict[str, Any]:
    """Two workers, one before and behind them."""
    with repeated(archive, LARGE) as folder:

        def rate(devices: str) -> float:
            return score_rate(folder, engine, "--runtime", "null", "--devices", devices)

        return compared(*between(lambda: rate("cpu"), lambda _: rate("cpu,cpu"), repeats), "one_worker")


@app.command()
def speed(archive: Archive, engine: Engine, repeats: int = 5, json_file: Json = None) -> None:
    """Compares scoring with its engine alone, and with decoding alone."""
    measured = {
        "onnxruntime": measure_engine(archive, engine, repeats),
        "null": measure_overlap(archive, engine, repeats),
    }
    finish(measured, json_file)


@app.command()
def isolation(archive: Archive, engine: Engine, repeats: int = 5, json_file: Json = None) -> None:
    """Compares scoring that costs nothing with decoding alone."""
    finish(measure_isolation(archive, engine, repeats), json_file)


@app.command()
def memory(archive: Archive, engine: Engine, json_file: Json = None) -> None:
    """Peak memory of all processes at 300 and 3,000 views."""
    finish(measure_memory(archive, engine), json_file)


@app.command()
def packed(archive: Archive, engine: Engine, repeats: int = 5, json_file: Json = None) -> None:
    """Compares zip and tar files with the folder that they were packed from."""
    finish(measure_packed(archive, engine, repeats), json_file)


@app.command()
def workers(archive: Archive, engine: Engine, repeats: int = 5, json_file: Json = None) -> None:
    """Compares two workers with one."""
    finish(measure_workers(archive, engine, repeats), json_file)


if __name__ == "__main__":
    app()

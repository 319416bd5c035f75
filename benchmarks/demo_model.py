"""What the demo model can do, measured on synthetic studies that it was not trained on.

    python -m benchmarks.demo_model WORK --checkpoint engines/demo/model.safetensors [--studies 600] [--json FILE]

Draws the studies into ``WORK``, builds a bundle, scores them with ``mura-trt score`` and ONNX Runtime, and compares
with what was drawn: AUROC per kind of lesion and body part, kappa, where the class activation maps peak, and by how
much the probabilities move when the graph is quantized to INT8 without further care. 600 studies take some 5 minutes on
2 cores.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.measuring import finish

if TYPE_CHECKING:
    import pandas as pd

HELD_OUT_SEED = 2_000_003
CALIBRATION_SEED = 3_000_017
CALIBRATION_VIEWS = 64
INT8_VIEWS = 128
BATCH = 8  # views that the network takes at a time; calibration keeps every tensor of a batch

app = typer.Typer(add_completion=False, help=__doc__)


def command(*arguments: object, codes: tuple[int, ...] = (0,)) -> None:
    """Runs ``mura-trt`` with the arguments; raises RuntimeError where it ends with another exit code."""
    code = subprocess.run([sys.executable, "-m", "mura_trt", *map(str, arguments)], check=False).returncode
    if code not in codes:
        raise RuntimeError(f"mura-trt {arguments[0]} ended with exit code {code}")


def areas(studies: pd.DataFrame) -> dict[str, Any]:
    """AUROC of all studies, of each kind of lesion against all normal studies, and of each body part; kappa."""
    from mura_trt.demo.summary import by_kind
    from mura_trt.metrics import Estimate, auroc, cohen_kappa

    def rounded(found: Estimate) -> list[float]:
        return [round(value, 4) for value in found]

    def area(rows: pd.DataFrame) -> dict[str, Any]:
        return {
            "studies": len(rows),
            "abnormal": int(rows["label"].sum()),
            "auroc": rounded(auroc(rows["label"], rows["probability"])),
        }

    return {
        "kinds": {kind: area(rows) for kind, rows in by_kind(studies).items()},
        "body_parts": {part: area(rows) for part, rows in studies.groupby("body_part")},
        "kappa": rounded(cohen_kappa(studies["label"], studies["abnormal"])),
    }


def batches_of(archive: Path, views: list[str]) -> Iterator[NDArray[np.uint8]]:
    """uint8 (k, 320, 320, 1), k up to BATCH: the pixels of every view in order."""
    from mura_trt.archives.folder import FolderSource
    from mura_trt.contract import InputContract
    from mura_trt.pixels import decoded_views

    contract = InputContract()
    keys = [view.encode() for view in views]
    for decoded in decoded_views(FolderSource(str(archive)), keys, contract.size):
        if decoded.failures:
            raise RuntimeError(f"{archive}: {decoded.failures[0]}")
        for start in range(0, len(decoded.views), BATCH):
            yield decoded.pixels[start : start + BATCH].copy()


def peak_shares(maps: NDArray[np.float32], boxes: NDArray[np.float64], studies: NDArray[np.int64]) -> dict[str, Any]:
    """How often a map's highest position lies in the lesion, and how often any position would.

    A position stands for 32 x 32 pixels of the network's input. ``touching``: this square and the box overlap;
    ``centre``: the square's centre lies in the box, which a box narrower than the square can miss through no fault of
    the map. ``chance`` is the share of all positions that would count, averaged over the views. ``interval`` is the
    share's, ``beyond_chance`` the difference's: 95 %, by a bootstrap over studies.

    Parameters
    ----------
    maps
        float32 (n, h, w).
    boxes
        float64 (n, 4): x0, y0, x1, y1 as parts of width and height.
    studies
        int64 (n,): views of one number are of one study; no number is left out.
    """
    height, width = maps.shape[1:]
    low, high = (boxes[:, None, part] * (width, height) for part in (slice(0, 2), slice(2, 4)))
    position = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(1, -1, 2)
    inside: dict[str, NDArray[np.bool_]] = {
        "touching": np.all((position + 1 > low) & (position < high), axis=-1),
        "centre": np.all((position + 0.5 >= low) & (position + 0.5 < high), axis=-1),
    }
    peak = maps.reshape(len(maps), -1).argmax(1)
    rng = np.random.default_rng(0)
    count = studies.max() + 1
    weights = np.array([np.bincount(rng.integers(0, count, count), minlength=count)[studies] for _ in range(2000)])
    found = {}
    for name, counts in inside.items():
        hit, chance = counts[np.arange(len(maps)), peak].astype(float), counts.mean(1)
        shares, chances = (weights @ values / weights.sum(1) for values in (hit, chance))
        found[name] = {
            "share": round(float(hit.mean()), 4),
            "interval": np.quantile(shares, [0.025, 0.975]).round(4).tolist(),
            "chance": round(float(chance.mean()), 4),
            "beyond_chance": np.quantile(shares - chances, [0.025, 0.975]).round(4).tolist(),
        }
    return found


def peaks(heatmaps: pd.DataFrame, detected: pd.DataFrame) -> dict[str, Any]:
    """:func:`peak_shares` of abnormal views, all and by kind of lesion; ``heatmaps`` is the run's table of them."""
    from mura_trt.contract import InputContract

    if detected.empty:
        return {}
    contract = InputContract()
    columns = [f"m{at}" for at in range(contract.map_size)]
    drawn = detected.merge(heatmaps[["view", *columns]], on="view", validate="1:1")
    found = {}
    for name in ("all", *sorted(set(drawn["kind"]))):
        rows = drawn if name == "all" else drawn[drawn["kind"] == name]
        maps = rows[columns].to_numpy(np.float32).reshape(-1, *contract.output_shape("cam"))
        boxes = rows[["x0", "y0", "x1", "y1"]].to_numpy() / rows[["width", "height"] * 2].to_numpy()
        _, studies = np.unique(rows["study"], return_inverse=True)
        found[name] = {"views": len(rows), **peak_shares(maps, boxes, studies)}
    return found


def int8_difference(work: Path, archive: Path, views: list[str]) -> dict[str, Any]:
    """How far plain Q/DQ (ONNX Runtime's static quantization, MinMax) moves the views' probabilities."""
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    from mura_trt.demo.archive import DemoPlan, write_archive

    seen = work / "calibration"
    if not seen.exists():
        write_archive(seen, DemoPlan(CALIBRATION_VIEWS, CALIBRATION_SEED))  # a study has a view at least
    listed = sorted(path.relative_to(seen).as_posix() for path in seen.rglob("*.png"))
    calibration = batches_of(seen, listed[:CALIBRATION_VIEWS])
    fp32, int8 = work / "engine" / "model-fp32.onnx", work / "int8.onnx"
    name = ort.InferenceSession(fp32).get_inputs()[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            batch = next(calibration, None)
            return None if batch is None else {name: batch}

    quantize_static(
        fp32,
        int8,
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    options = ort.SessionOptions()
    # Without it the fused kernels saturate on CPUs with AVX2 and no VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    sessions = [ort.InferenceSession(graph, options) for graph in (fp32, int8)]
    differences = [
        np.abs(np.subtract(*(session.run(["probability"], {name: batch})[0] for session in sessions)))
        for batch in batches_of(archive, views)
    ]
    difference = np.concatenate(differences)
    return {
        "calibration_views": CALIBRATION_VIEWS,
        "views": len(difference),
        "mean_dp": round(float(difference.mean()), 5),
        "max_dp": round(float(difference.max()), 5),
    }


def measure(work: Path, checkpoint: Path, studies: int) -> dict[str, Any]:
    """All of it; ``work`` keeps archive, bundle and scores."""
    import pandas as pd

    from mura_trt.demo.summary import drawn_and_scored

    archive, engine, out = work / f"archive-{studies}", work / "engine", work / "out"
    if not archive.exists():
        command("demo", archive, "--studies", studies, "--seed", HELD_OUT_SEED)
    # Its FP32 graph is what scores here: how far the FP16 graph is from PyTorch is another measurement.
    command("build-engine", "--checkpoint", checkpoint, "--builder", "none", "--no-check", "-o", engine, "--overwrite")
    options = ("--runtime", "onnxruntime", "--heatmaps", "all", "--allow-unproven", "--overwrite")
    command("score", archive, "--engine", engine, "-o", out, *options)
    views = pd.read_csv(out / "views.csv")
    abnormal = pd.read_csv(archive / "lesions.csv").merge(views[["view", "probability"]], on="view")
    detected = abnormal[abnormal["probability"] > 0.5]
    return {
        "checkpoint": checkpoint.name,
        "held_out_seed": HELD_OUT_SEED,
        "views": len(views),
        **areas(drawn_and_scored(archive, out)),
        "activation_peaks": {
            "abnormal_views": len(abnormal),
            "detected": len(detected),
            **peaks(pd.read_csv(out / "heatmaps.csv"), detected),
        },
        "int8": int8_difference(work, archive, views["view"].iloc[:: max(1, len(views) // INT8_VIEWS)].tolist()),
    }


@app.command()
def main(
    work: Annotated[Path, typer.Argument(help="Folder for archive, bundle and scores.")],
    checkpoint: Annotated[Path, typer.Option(help="The demo model.")] = Path("engines/demo/model.safetensors"),
    studies: Annotated[int, typer.Option(help="How many studies to draw.")] = 600,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the result.")] = None,
) -> None:
    """Draws, builds, scores, compares."""
    work.mkdir(parents=True, exist_ok=True)
    finish(measure(work, checkpoint, studies), json_file)


if __name__ == "__main__":
    app()

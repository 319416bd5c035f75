"""What the demo model can do, measured on synthetic studies that it was not trained on.

    python -m benchmarks.demo_model WORK --checkpoint demo/model.safetensors [--studies 600] [--json FILE]

Draws the studies into ``WORK``, builds a bundle, scores them with ``mura-trt score`` and ONNX Runtime, and compares
with what was drawn: AUROC per kind of lesion and body part, kappa, where the class activation maps peak, and by how
much the probabilities move when the graph is quantized to INT8 without further care. 600 studies take some 5 minutes on
2 cores.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.pipeline import finish

if TYPE_CHECKING:
    import pandas as pd

HELD_OUT_SEED = 2_000_003
CALIBRATION_SEED = 3_000_017
CALIBRATION_VIEWS = 64
INT8_VIEWS = 128
BATCH = 16

app = typer.Typer(add_completion=False, help=__doc__)


def command(*arguments: object) -> None:
    """Runs ``mura-trt`` with the arguments."""
    subprocess.run([sys.executable, "-m", "mura_trt", *map(str, arguments)], check=True)


def decoded(files: list[bytes]) -> Iterator[NDArray[np.uint8]]:
    """uint8 (n, 320, 320, 1) batches of the files' pixels, as ``score`` decodes them."""
    from mura_trt.decode import Decoder

    decoder = Decoder((320, 320), 2, BATCH)
    for start in range(0, len(files), BATCH):
        decoder.submit(files[start : start + BATCH])
        yield decoder.collect().pixels.copy()


def areas(table: pd.DataFrame) -> dict[str, Any]:
    """AUROC of all studies, of each kind of lesion against all normal studies, and of each body part; kappa."""
    from mura_trt.metrics import Estimate, auroc, cohen_kappa

    def rounded(found: Estimate) -> list[float]:
        return [round(value, 4) for value in found]

    def area(rows: pd.DataFrame) -> dict[str, Any]:
        return {
            "studies": len(rows),
            "abnormal": int(rows["label"].sum()),
            "auroc": rounded(auroc(rows["label"], rows["probability"])),
        }

    normal = table["label"] == 0
    return {
        "all": area(table),
        "kinds": {kind: area(table[normal | (table["kind"] == kind)]) for kind in sorted(set(table["kind"]) - {""})},
        "body_parts": {part: area(rows) for part, rows in table.groupby("body_part")},
        "kappa": rounded(cohen_kappa(table["label"], table["abnormal"])),
    }


def peaks(archive: Path, engine: Path, detected: pd.DataFrame) -> dict[str, Any]:
    """How often the map's highest position lies in the lesion's box, among abnormal views scored above 0.5.

    A position stands for 32 x 32 pixels of the network's input. ``touching``: this square and the box overlap;
    ``centre``: the square's centre lies in the box, which a box narrower than the square can miss through no fault of
    the map. ``chance`` is the share of all positions that would count, averaged over the views.
    """
    from mura_trt.bundle import Bundle
    from mura_trt.runtimes import SessionOptions, open_session

    session, _ = open_session("onnxruntime", Bundle.open(engine), SessionOptions(batch=BATCH))
    if len(detected) == 0:
        return {"views": 0}
    files = [(archive / view).read_bytes() for view in detected["view"]]
    maps = np.concatenate([session.run(pixels).cam.copy() for pixels in decoded(files)])
    side = maps.shape[1]
    # Boxes from pixels of the file to positions of the map.
    boxes = detected[["x0", "y0", "x1", "y1"]].to_numpy() * side / detected[["width", "height"] * 2].to_numpy()
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    position = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(1, -1, 2)
    inside = {
        "touching": ((position + 1 > low) & (position < high)).all(-1),
        "centre": ((position + 0.5 >= low) & (position + 0.5 < high)).all(-1),
    }
    peak = maps.reshape(len(maps), -1).argmax(1)
    rows = np.arange(len(maps))
    return {"views": len(maps)} | {
        name: {
            "share": round(float(where[rows, peak].mean()), 4),
            "chance": round(float(where.mean()), 4),
            "by_kind": {
                kind: round(float(where[rows, peak][detected["kind"] == kind].mean()), 4)
                for kind in sorted(set(detected["kind"]))
            },
        }
        for name, where in inside.items()
    }


def int8_difference(work: Path, archive: Path, views: list[str]) -> dict[str, Any]:
    """How far plain Q/DQ (ONNX Runtime's static quantization, MinMax) moves the views' probabilities."""
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    from mura_trt.demo.archive import DemoPlan, demo_studies

    drawn = (view.png for study in demo_studies(DemoPlan(CALIBRATION_VIEWS, CALIBRATION_SEED)) for view in study)
    calibration = decoded(list(islice(drawn, CALIBRATION_VIEWS)))
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
    files = [(archive / view).read_bytes() for view in views]
    differences = [
        np.abs(np.subtract(*(session.run(["probability"], {name: batch})[0] for session in sessions)))
        for batch in decoded(files)
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

    archive, engine, out = work / f"archive-{studies}", work / "engine", work / "out"
    if not archive.exists():
        command("demo", archive, "--studies", studies, "--seed", HELD_OUT_SEED)
    command("build-engine", "--checkpoint", checkpoint, "--builder", "none", "-o", engine, "--overwrite")
    command("score", archive, "--engine", engine, "-o", out, "--runtime", "onnxruntime", "--overwrite")
    drawn = pd.read_csv(archive / "views.csv", keep_default_na=False)
    boxes = pd.read_csv(archive / "lesions.csv")[["view", "x0", "y0", "x1", "y1", "width", "height"]]
    scored = pd.read_csv(out / "studies.csv")[["study", "probability", "abnormal"]]
    table = drawn.drop_duplicates("study")[["study", "body_part", "label", "kind"]].merge(scored, on="study")
    views = drawn.merge(pd.read_csv(out / "views.csv")[["view", "probability"]], on="view")
    abnormal = views[views["label"] == 1].merge(boxes, on="view")
    detected = abnormal[abnormal["probability"] > 0.5]
    return {
        "checkpoint": checkpoint.name,
        "held_out_seed": HELD_OUT_SEED,
        "views": len(views),
        **areas(table),
        "activation_peaks": {"abnormal_views": len(abnormal), **peaks(archive, engine, detected)},
        "int8": int8_difference(work, archive, views["view"].iloc[:: max(1, len(views) // INT8_VIEWS)].tolist()),
    }


@app.command()
def main(
    work: Annotated[Path, typer.Argument(help="Folder for archive, bundle and scores.")],
    checkpoint: Annotated[Path, typer.Option(help="The demo model.")] = Path("demo/model.safetensors"),
    studies: Annotated[int, typer.Option(help="How many studies to draw.")] = 600,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the result.")] = None,
) -> None:
    """Draws, builds, scores, compares."""
    work.mkdir(parents=True, exist_ok=True)
    finish(measure(work, checkpoint, studies), json_file)


if __name__ == "__main__":
    app()

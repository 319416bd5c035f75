"""What lower precision does to the demo model's scores on held-out synthetic studies, against PyTorch in FP32.

    python -m benchmarks.precisions WORK [--studies 400] [--only int8] [--json FILE]

Builds a bundle of each precision as a user does, INT8 and FP8 calibrated on 64 views of other studies, and compares all
views of the held-out ones; without a GPU by the ``emulated`` runtime. ``WORK`` keeps archives, bundles, and for each
precision ``parity.json``.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.demo_model import CALIBRATION_SEED, HELD_OUT_SEED, command
from benchmarks.measuring import finish
from mura_trt.archives import list_archive
from mura_trt.bundle import Bundle
from mura_trt.checkpoint import load_network
from mura_trt.errors import EXIT_DISAGREES, EXIT_OK
from mura_trt.model import Network
from mura_trt.parity.reference import TorchReference
from mura_trt.parity.run import HALF_VIEWS, compare
from mura_trt.parity.tell import table

PRECISIONS = ("fp32", "fp16", "int8", "fp8")
CALIBRATION_STUDIES = 128


class Remembered(TorchReference):
    """Scores the same pixels once, for they are the same for every precision."""

    def __init__(self, model: Network) -> None:
        super().__init__(model)
        self._known: dict[bytes, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def scores(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Probability and logit."""
        key = hashlib.sha256(pixels.tobytes()).digest()
        if key not in self._known:
            self._known[key] = super().scores(pixels)
        return self._known[key]


def measure(work: Path, checkpoint: Path, studies: int, precisions: tuple[str, ...] = PRECISIONS) -> dict[str, Any]:
    """Every precision's figures, and how long its bundle took to build."""
    archive, seen = work / f"held-out-{studies}", work / "calibration"
    for folder, count, seed in ((archive, studies, HELD_OUT_SEED), (seen, CALIBRATION_STUDIES, CALIBRATION_SEED)):
        if not folder.exists():
            command("demo", folder, "--studies", count, "--seed", seed)
    listing, reference = list_archive(archive), Remembered(load_network([checkpoint]))
    found: dict[str, Any] = {"checkpoint": checkpoint.name, "held_out_seed": HELD_OUT_SEED}
    for precision in precisions:
        engine = work / f"engine-{precision}"
        started = time.monotonic()
        options = (
            "--checkpoint",
            checkpoint,
            "--precision",
            precision,
            "--calibrate",
            seen,
            "-o",
            engine,
            "--overwrite",
        )
        command("build-engine", *options, codes=(EXIT_OK, EXIT_DISAGREES))
        seconds = time.monotonic() - started
        bundle = Bundle.open(engine)
        judgement, judged = compare(bundle, listing, reference, bundle.manifest.bounds, half_views=HALF_VIEWS)
        print(f"{precision}\n{table(judgement)}", file=sys.stderr)
        (work / f"parity-{precision}.json").write_text(json.dumps(judged, indent=2) + "\n")
        calibration = bundle.manifest.quantization or {}
        found[precision] = {
            "build_s": round(seconds, 1),
            "plan": bundle.manifest.builder is not None,
            "in_half_precision": calibration.get("in_half_precision"),
            "expected_rms_dp": calibration.get("expected_rms_dp"),
            **judged,
        }
    return found


def main(
    work: Annotated[Path, typer.Argument(help="Folder for archives, bundles and results.")],
    checkpoint: Annotated[Path, typer.Option(help="The demo model.")] = Path("engines/demo/model.safetensors"),
    studies: Annotated[int, typer.Option(help="How many studies to compare on.")] = 400,
    only: Annotated[list[str] | None, typer.Option(help="Precisions [all].")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the result.")] = None,
) -> None:
    """Draws, builds, compares."""
    work.mkdir(parents=True, exist_ok=True)
    finish(measure(work, checkpoint, studies, tuple(only or PRECISIONS)), json_file)


if __name__ == "__main__":
    typer.run(main)

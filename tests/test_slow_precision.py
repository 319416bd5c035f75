"""INT8 and ensembles from end to end, as a user builds them; run by ``make test-slow``, after ``make demo``."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch

from benchmarks.demo_model import CALIBRATION_SEED
from mura_trt.bundle import Bundle
from mura_trt.checkpoint import load_checkpoint, save_checkpoint
from mura_trt.export import load_exported
from mura_trt.model import Ensemble

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "engines" / "demo" / "model.safetensors"


def run(*arguments: object) -> str:
    command = [sys.executable, "-m", "mura_trt", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def figures(told: dict[str, Any]) -> dict[str, float]:
    return {f"{figure['level']}.{figure['name']}": figure["value"] for figure in told["figures"]}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Studies to calibrate on: 64 views for that, and 64 for build-engine's own check."""
    folder = tmp_path_factory.mktemp("seen") / "archive"
    run("demo", folder, "--studies", 60, "--seed", CALIBRATION_SEED)
    return folder


@pytest.mark.measures
def test_int8_of_the_demo_model_agrees_with_pytorch(demo: Path, seen: Path, tmp_path: Path) -> None:
    """On the demo archive, which neither training nor calibration has seen; benchmarks.precisions takes 400 studies."""
    started = time.monotonic()
    engine = tmp_path / "engine"
    run("build-engine", "--checkpoint", CHECKPOINT, "--precision", "int8", "--calibrate", seen, "-o", engine)
    seconds = time.monotonic() - started
    manifest = Bundle.open(engine).manifest
    assert manifest.quantization is not None
    kept = manifest.quantization["in_half_precision"]
    print(f"built and checked in {seconds:.0f} s; in half precision: {', '.join(kept)}")
    assert seconds <= 240
    assert "plan" in manifest.files
    assert len(manifest.quantization["sample"]) == 64
    assert 0 < len(kept) <= 42  # a quarter of them
    told = json.loads(run("parity", engine, demo / "archive", "--checkpoint", CHECKPOINT, "--json"))
    found = figures(told)
    print(json.dumps(found, indent=2))
    assert told["runtime"] in ("emulated", "tensorrt_rtx")
    assert (told["kept"], told["failed_views"]) == (True, 0)
    assert told["views"] > 250
    assert 1e-5 < found["model.dp_mean"] <= 0.01
    assert found["model.dp_max"] <= 0.05
    assert found["half.views computed in half precision"] >= 4


def test_an_ensemble_is_built_compared_and_scored(demo: Path, seen: Path, tmp_path: Path) -> None:
    """Of the demo model and of one that differs in every weight."""
    first, second = (load_checkpoint(CHECKPOINT) for _ in range(2))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(1 + 0.02 * torch.randn_like(parameter))
    other = tmp_path / "other.safetensors"
    save_checkpoint(second, other)
    members = ("--checkpoint", CHECKPOINT, "--checkpoint", other)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "two-int8"\nprecision = "int8"\ncalibration_views = 16\ncheck_views = 16\n')
    engine = tmp_path / "engine"
    run("build-engine", recipe, *members, "--calibrate", seen, "-o", engine)
    bundle = Bundle.open(engine)
    assert "plan" in bundle.manifest.files
    assert len(bundle.manifest.checkpoints_sha256) == 2
    assert bundle.manifest.quantization is not None
    assert {name.split(".")[1] for name in bundle.manifest.quantization["ranges"]} == {"0", "1"}
    rounded = [node for node in onnx.load(bundle.path("onnx")).graph.node if node.op_type == "QuantizeLinear"]
    assert len(rounded) == 2 * 168 - len(bundle.manifest.quantization["in_half_precision"])

    loaded = load_exported(bundle.path("fp32_onnx"))
    assert isinstance(loaded, Ensemble)
    for ours, theirs in zip(loaded.members, (first, second), strict=True):
        state = ours.state_dict()
        assert all(
            torch.equal(state[name], value) for name, value in theirs.state_dict().items() if "num_b" not in name
        )

    told = json.loads(run("parity", engine, demo / "archive", *members, "--studies", 12, "--json"))
    assert told["kept"] is True
    assert figures(told)["model.dp_mean"] > 1e-5
    some = tmp_path / "some.txt"
    some.write_text("".join(f"{path}\n" for path in sorted((demo / "archive").rglob("*.png"))[::25]))
    scores = {}
    for runtime in ("onnxruntime", "torch", "emulated"):
        out = tmp_path / runtime
        run("score", some, "--engine", engine, "-o", out, "--runtime", runtime)
        scores[runtime] = pd.read_csv(out / "views.csv").set_index("view")["probability"]
    np.testing.assert_allclose(scores["onnxruntime"], scores["torch"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(scores["emulated"], scores["torch"], atol=0.05, rtol=0)

"""What must hold of the demo, of speed and of memory; run by ``make test-slow``, after ``make demo``."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import demo_model, pipeline
from mura_trt.archives import list_archive
from mura_trt.bundle import Bundle
from mura_trt.checkpoint import load_checkpoint
from mura_trt.pixels import decoded_listing
from tests import reference

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parent.parent
Measure = Callable[[Path, Path, int], dict[str, Any]]
CHECKPOINT = ROOT / "engines" / "demo" / "model.safetensors"


def test_demo_left_what_the_readme_says(demo: Path) -> None:
    assert "plan" in Bundle.open(demo / "engine").manifest.files
    run = json.loads((demo / "out" / "run.json").read_text())
    listed = len(list((demo / "archive").rglob("*.png")))
    assert run["scored"] == run["listed"] == listed > 250
    assert len(pd.read_csv(demo / "out" / "views.csv")) == listed


def test_demo_scores_agree_with_pillow_and_torch(demo: Path) -> None:
    """The demo model and every study of the demo archive, against the forty-line reference."""
    expected = pd.Series(reference.score_studies(demo / "archive", load_checkpoint(CHECKPOINT)))
    scored = pd.read_csv(demo / "out" / "studies.csv").set_index("study")
    difference = (scored["probability"] - expected[scored.index]).abs()
    print(f"{len(scored)} studies: |dp| max {difference.max():.2e}, mean {difference.mean():.2e}")
    assert set(scored.index) == set(expected.index)
    # The two resizes differ by 1 of 255 in a fifth of the pixels, for Pillow rounds between its passes. The trained
    # network is steep: that moves single views near 0.7 by 0.05. test_reference compares on the same pixels, to 1e-4.
    assert difference.mean() <= 0.005 and difference.max() <= 0.05
    assert (difference > 0.02).mean() <= 0.02
    clear = (expected - 0.5).abs() > 0.02
    assert ((scored["abnormal"] == 1) == (expected[scored.index] > 0.5))[clear[scored.index]].all()


def test_demo_model_does_on_held_out_studies_what_its_card_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """600 studies that it was not trained on; the floors are those that the model was made to meet."""
    for name in ("CALIBRATION_VIEWS", "INT8_VIEWS"):
        monkeypatch.setattr(demo_model, name, 8)  # of INT8 the card quotes what was measured once
    found = demo_model.measure(tmp_path, CHECKPOINT, 600)
    print(json.dumps(found, indent=2))
    areas = {kind: part["auroc"][0] for kind, part in found["kinds"].items()}
    assert found["kinds"]["all"]["studies"] == 600
    assert areas["all"] >= 0.95
    assert min(areas.values()) >= 0.85
    peaks = found["activation_peaks"]["all"]["touching"]
    assert peaks["share"] >= 0.70 > 2 * peaks["chance"]
    # The same numbers as in the committed result, but for another CPU's rounding.
    told = json.loads((ROOT / "benchmarks" / "results" / "demo-model.json").read_text())
    assert found["kinds"]["all"]["auroc"] == pytest.approx(told["kinds"]["all"]["auroc"], abs=2e-3)
    assert found["kappa"] == pytest.approx(told["kappa"], abs=2e-2)


def test_training_runs_on_the_demo_archive(demo: Path, tmp_path: Path) -> None:
    """A smoke run at reduced size: an epoch and its records, in 3 minutes at the most."""
    started = time.monotonic()
    out = tmp_path / "model.safetensors"
    options = ["--size", "64", "--epochs", "1", "--batch", "16", "--init", str(CHECKPOINT)]
    command = [sys.executable, "-m", "mura_trt", "train", str(demo / "archive"), "-o", str(out), *options]
    subprocess.run(command, check=True)
    seconds = time.monotonic() - started
    print(f"{seconds:.0f} s")
    assert seconds <= 180
    load_checkpoint(out)
    assert len(pd.read_csv(tmp_path / "model-training" / "log.csv")) == 1


@pytest.mark.measures
@pytest.mark.parametrize(("measure", "wanted"), [(pipeline.measure_engine, 0.95), (pipeline.measure_overlap, 0.90)])
def test_pipeline_keeps_up_with_its_engine_and_with_decoding(measure: Measure, wanted: float, demo: Path) -> None:
    """The median of five pairs; of ten where five miss, for pairs lie 0.05 apart on a shared machine."""
    ratios: list[float] = []
    for _ in range(2):
        result = measure(demo / "archive", demo / "engine", 5)
        print(json.dumps(result, indent=2))
        ratios += result["ratio"]["rounds"]
        if statistics.median(ratios) >= wanted:
            return
    pytest.fail(f"median {statistics.median(ratios)} of {ratios}, wanted {wanted}")


@pytest.mark.measures
def test_memory_is_bounded_whatever_the_archive(demo: Path) -> None:
    peaks = pipeline.measure_memory(demo / "archive", demo / "engine", (300, 1000))["peak_gb_by_views"]
    print(json.dumps(peaks))
    assert max(peaks.values()) <= 2.0
    assert peaks["1000"] <= peaks["300"] + 0.1  # what grows with the archive shows here


def test_heatmaps_of_the_demo_are_their_definition(demo: Path, tmp_path: Path) -> None:
    """M(x, y) = sum over k of w_k f_k(x, y), from torch's features of the pixels that were scored."""
    some = tmp_path / "some.txt"
    some.write_text("".join(f"{path}\n" for path in sorted((demo / "archive").rglob("*.png"))[::25]))
    options = ["--engine", str(demo / "engine"), "--runtime", "onnxruntime", "--heatmaps", "all"]
    out = tmp_path / "out"
    subprocess.run([sys.executable, "-m", "mura_trt", "score", str(some), "-o", str(out), *options], check=True)
    table = pd.read_csv(out / "heatmaps.csv")
    maps = table[[f"m{at}" for at in range(100)]].to_numpy().reshape(-1, 10, 10)
    listing, model = list_archive(some), load_checkpoint(CHECKPOINT)
    defined = np.full_like(maps, np.nan)
    for decoded in decoded_listing(listing, (320, 320)):
        with torch.inference_mode():
            features = model.activation(torch.from_numpy(decoded.pixels.copy()))
            defined[decoded.views] = torch.einsum("k,nkyx->nyx", model.classifier.weight[0], features).numpy()
    difference = float(np.abs(maps - defined).max())
    print(f"{len(maps)} maps, from {defined.min():.1f} to {defined.max():.1f}: differ by {difference:.1e}")
    assert difference <= 1e-4
    logit = pd.read_csv(out / "views.csv")["logit"]
    np.testing.assert_allclose(maps.mean((1, 2)) + model.classifier.bias.item(), logit, atol=1e-4, rtol=0)


@pytest.mark.measures
def test_acceptance_without_a_gpu_does_all_it_can_in_five_minutes(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "gpu_acceptance.py"
    started = time.monotonic()
    command = [sys.executable, str(script), "--cpu", "--out", str(tmp_path), "--minutes", "15"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds = time.monotonic() - started
    print(told, f"{seconds:.0f} s")
    assert "FAILED" not in told
    result = json.loads((tmp_path / "acceptance.json").read_text())
    assert result["doctor"]["exit_code"] == 0 and result["build_fp16"]["builder"]
    assert all(found["kept"] for found in result["parity_fp16"].values())
    assert all(all(found.values()) for found in result["same_bits"].values())
    for section in ("model_fp16", "decode", "end_to_end"):
        assert len(result[section]) >= 2 and all(found["median"] > 0 for found in result[section].values())
    assert len(result["decode_scaling"]) >= 3 and "scaling threads 1" in told
    assert seconds <= 300

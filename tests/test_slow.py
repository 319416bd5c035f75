"""What must hold of the demo, of speed and of memory; run by ``make test-slow``, after ``make demo``."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import pipeline
from mura_trt.bundle import Bundle
from mura_trt.checkpoint import load_checkpoint
from tests import reference

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

DEMO = Path(__file__).parent.parent / "demo"


def test_demo_left_what_the_readme_says() -> None:
    assert (DEMO / "model.safetensors").stat().st_size > 40_000_000
    assert "plan" in Bundle.open(DEMO / "engine").manifest.files
    run = json.loads((DEMO / "out" / "run.json").read_text())
    listed = len(list((DEMO / "archive").rglob("*.png")))
    assert run["scored"] == run["listed"] == listed > 250
    assert len(pd.read_csv(DEMO / "out" / "views.csv")) == listed


def test_demo_scores_agree_with_pillow_and_torch() -> None:
    """The fitted demo model and every study of the demo archive, against the forty-line reference."""
    expected = pd.Series(reference.score_studies(DEMO / "archive", load_checkpoint(DEMO / "model.safetensors")))
    scored = pd.read_csv(DEMO / "out" / "studies.csv").set_index("study")
    difference = (scored["probability"] - expected[scored.index]).abs()
    print(f"{len(scored)} studies: |dp| max {difference.max():.2e}, mean {difference.mean():.2e}")
    assert set(scored.index) == set(expected.index)
    assert difference.max() <= 0.02
    clear = (expected - 0.5).abs() > 0.02
    assert ((scored["abnormal"] == 1) == (expected[scored.index] > 0.5))[clear[scored.index]].all()


def test_pipeline_keeps_up_with_its_engine_and_with_decoding() -> None:
    """Medians of five interleaved pairs; of ten where five miss, for pairs lie 0.05 apart on a shared machine."""
    ratios: dict[str, list[float]] = {"onnxruntime": [], "null": []}
    for _ in range(2):
        result = pipeline.measure_speed(DEMO / "archive", DEMO / "engine", repeats=5)
        print(json.dumps(result, indent=2))
        for name, found in ratios.items():
            pairs = zip(result[name]["score_views_per_s"], result[name]["alone_views_per_s"], strict=True)
            found.extend(ours / alone for ours, alone in pairs)
        medians = {name: statistics.median(found) for name, found in ratios.items()}
        if medians["onnxruntime"] >= 0.95 and medians["null"] >= 0.85:
            return
    pytest.fail(f"medians of ten pairs: {medians}, wanted 0.95 and 0.85")


def test_memory_is_bounded_whatever_the_archive() -> None:
    peaks = pipeline.measure_memory(DEMO / "archive", DEMO / "engine")["peak_gb_by_views"]
    print(json.dumps(peaks))
    assert max(peaks.values()) <= 2.0

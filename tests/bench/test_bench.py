"""``mura-trt bench`` as a user types it, and what its figures are made of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mura_trt.archives import NamedArchive
from mura_trt.bench import rounds, sweeping
from mura_trt.bench.alone import ModelRate
from mura_trt.bench.options import BenchOptions
from mura_trt.bench.reference import GFLOP_PER_VIEW
from mura_trt.bench.rounds import Round, Subject
from mura_trt.bench.run import bench
from mura_trt.bench.sample import Sample, take_sample
from mura_trt.bench.scoring import Scored, scored
from mura_trt.bench.spread import pairwise, spread
from mura_trt.bench.tables import tables
from mura_trt.bench.tell import text
from mura_trt.bundle import Bundle
from mura_trt.cores import usable_cores
from mura_trt.errors import BundleError, EnvironmentProblem, RuntimeUnavailable, UsageError

SPREAD = {"median", "min", "max", "rounds"}


@pytest.fixture(scope="module")
def found(few_views: Path, quick_bundle: Bundle) -> dict[str, Any]:
    """What one real run prints."""
    command = [sys.executable, "-m", "mura_trt", "bench", str(few_views), "--engine", str(quick_bundle.folder)]
    options = ["--runtime", "onnxruntime", "--rounds", "2", "--seconds", "0.3", "--no-sweep", "--allow-unproven"]
    done = subprocess.run([*command, *options, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_the_null_engine_is_as_slow_as_decoding_was_just_before(
    monkeypatch: pytest.MonkeyPatch, few_views: Path, quick_bundle: Bundle, tmp_path: Path
) -> None:
    rates = iter([1000.0, 3000.0])
    monkeypatch.setattr(Subject, "decode", lambda self, seconds: next(rates))
    ran: list[str] = []

    def run(archive: Path, engine: Path, *options: str, memory: bool) -> Scored:
        assert memory
        ran.append(" ".join(options))
        return Scored({}, None)

    monkeypatch.setattr(rounds, "scored", run)
    options = BenchOptions(few_views, quick_bundle.folder, rounds=1, seconds=0.1)
    views = Sample(few_views, 6, 5, {}, 100, converted=False, unpacked=False)
    (one,) = Subject(options, quick_bundle, views, [], 1000.0, []).rounds(tmp_path, lambda _: None)
    assert len(ran) == 1 and "--runtime null --batch 64 --null-ms 64.0" in ran[0]
    assert (one.null_ms, one.decode) == (64.0, 2000.0)


def test_three_tables_tell_what_was_measured(found: dict[str, Any], quick_bundle: Bundle) -> None:
    assert set(found) == {
        *("machine", "archive", "engine", "rounds", "seconds", "passed_over"),
        *("model_only", "decode_only", "end_to_end", "reference"),
    }
    assert set(found["model_only"]) == {"onnxruntime"} and set(found["end_to_end"]) == {"onnxruntime", "null"}
    model, decode = found["model_only"]["onnxruntime"], found["decode_only"]
    run, null = found["end_to_end"]["onnxruntime"], found["end_to_end"]["null"]
    assert (model["device"], model["batch"], decode["threads"], decode["batch"]) == ("cpu", 8, usable_cores(), 64)
    for one in (
        *(model["views_per_s"], model["sgemm_share"], decode["views_per_s"], run["views_per_s"], run["to_model_only"]),
        *(null["views_per_s"], null["to_decode_only"], null["wall_s"], found["reference"]["sgemm_gflop_per_s"]),
    ):
        assert set(one) == SPREAD and len(one["rounds"]) == 2 and 0 < one["min"] <= one["median"] <= one["max"]
    # Runs are as long as the trial told, in whole batches, and views are scored again and again.
    assert run["views"] % 8 == null["views"] % 64 == 0 and run["views"] > 5 < null["views"]
    assert run["peak_memory_bytes"] > 100e6 < null["peak_memory_bytes"]
    assert {"list", "score", "tables", "worker_decode", "worker_engine"} <= set(run["stage_s"])
    assert found["engine"]["sha256"] == quick_bundle.sha256
    assert found["archive"]["listed"] == 6 and found["archive"]["sampled"] == 5
    assert sum(found["archive"]["left_out"].values()) == 1 and not found["archive"]["unpacked"]
    assert found["machine"]["cores"] == usable_cores() and found["machine"]["versions"]["onnxruntime"]
    assert any("2 rounds" in line for line in found["machine"]["warnings"])


def test_ratios_are_of_one_round(found: dict[str, Any]) -> None:
    model, run = found["model_only"]["onnxruntime"], found["end_to_end"]["onnxruntime"]
    expected = pairwise(run["views_per_s"]["rounds"], model["views_per_s"]["rounds"])
    assert run["to_model_only"]["rounds"] == pytest.approx(expected, rel=1e-3)
    null, decode = found["end_to_end"]["null"], found["decode_only"]
    expected = pairwise(null["views_per_s"]["rounds"], decode["views_per_s"]["rounds"])
    assert null["to_decode_only"]["rounds"] == pytest.approx(expected, rel=1e-3)
    # The null run takes for a batch what decoding did just before it; decoding's figure is of both sides.
    for ms, rate in zip(null["null_ms"], decode["views_per_s"]["rounds"], strict=True):
        assert 0.2 < ms * rate / 64e3 < 5
    # It cannot be faster than its engine.
    assert null["views_per_s"]["max"] <= 1.01 * 64e3 / min(null["null_ms"])


def test_text_has_all_three_tables_and_keeps_them_apart(found: dict[str, Any]) -> None:
    told = text(found)
    sections = told.split("\n\n")
    heads = ["MODEL ONLY", "DECODE ONLY", "END TO END", "overlap"]
    assert [section.split(":")[0] for section in sections[1:5]] == heads
    assert f"{found['model_only']['onnxruntime']['views_per_s']['median']:,.1f} (" in sections[1]
    assert f"{found['decode_only']['views_per_s']['median']:,.1f} (" in sections[2]
    assert "1 cannot be scored and are left out" in sections[0] and "sgemm" in sections[1]
    assert "null" in sections[3] and "GB" in sections[3]
    lines = [line for line in sections[4].splitlines() if not line.startswith(" ")]
    assert [line.split()[0].rstrip(":") for line in lines] == ["overlap", "memory", "limit"]
    assert max(map(len, told.splitlines())) <= 120
    assert "WARNING: 2 rounds" in sections[-1]


def sample(views: int = 1) -> Sample:
    return Sample(Path(), views, views, {}, 1000, converted=False, unpacked=False)


def test_figures_come_from_their_own_rounds(quick_bundle: Bundle) -> None:
    """A machine that is half as fast in the second round: ratios stay, rates do not."""

    def run(rate: float, peak: int | None) -> Scored:
        told = {"views_per_s": rate, "wall_s": 3.0, "scored": 64, "stage_s": {"list": rate / 1000}}
        return Scored(told, peak)

    models = [ModelRate("onnxruntime", "cpu", 8, [], 1.0), ModelRate("tensorrt", "cuda", 64, [], 1.0)]
    subject = Subject(BenchOptions(Path(), Path()), quick_bundle, sample(), models, 1.0, [])
    rounds = [
        Round(
            model={"onnxruntime": 10 * speed, "tensorrt": 1000.0},
            runs={"onnxruntime": run(9 * speed, peak), "tensorrt": run(500.0, None)},
            sgemm={"onnxruntime": 400 * speed},
            decode=2000 * speed,
            null_ms=32 / speed,
            null=run(1800 * speed, None),
        )
        for speed, peak in ((1.0, 7), (0.5, 8), (0.75, 6))
    ]
    made = tables(subject, rounds)
    model = made["model_only"]["onnxruntime"]
    assert model["views_per_s"] == {"median": 7.5, "min": 5.0, "max": 10.0, "rounds": [10.0, 5.0, 7.5]}
    share = 10 * 2 * GFLOP_PER_VIEW / 400  # an ensemble of two
    assert model["sgemm_share"]["rounds"] == pytest.approx([share] * 3, rel=1e-4)
    assert "sgemm_share" not in made["model_only"]["tensorrt"]
    ends = made["end_to_end"]
    assert ends["onnxruntime"]["to_model_only"]["rounds"] == [0.9, 0.9, 0.9]
    assert ends["onnxruntime"]["peak_memory_bytes"] == 8 and ends["null"]["peak_memory_bytes"] is None
    assert ends["onnxruntime"]["stage_s"] == {"list": 0.00675}
    assert ends["tensorrt"]["to_model_only"]["median"] == 0.5
    assert ends["null"]["to_decode_only"]["rounds"] == [0.9, 0.9, 0.9]
    assert ends["null"]["null_ms"] == [one.null_ms for one in rounds]
    assert made["reference"]["sgemm_gflop_per_s"]["median"] == 300
    alone = Subject(BenchOptions(Path(), Path()), quick_bundle, sample(), models[1:], 1.0, [])
    assert "reference" not in tables(alone, [one._replace(sgemm={}) for one in rounds])


def test_spread_is_of_all_rounds_and_needs_pairs() -> None:
    assert spread([3.0, 1.0, 2.000004]) == {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": [3.0, 1.0, 2.0]}
    assert pairwise([1.0, 4.0], [2.0, 2.0]) == [0.5, 2.0]
    with pytest.raises(ValueError, match="longer"):
        pairwise([1.0], [1.0, 2.0])


def test_views_of_a_run_fill_batches_for_its_seconds(quick_bundle: Bundle) -> None:
    subject = Subject(BenchOptions(Path(), Path(), seconds=4), quick_bundle, sample(), [], 1.0, [])
    assert [subject.views(rate, 8) for rate in (0.1, 10, 10.01)] == [8, 40, 48]


def test_sweep_tries_settings_and_tells_the_best(
    few_views: Path, quick_bundle: Bundle, found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "ROUNDS", 1)
    monkeypatch.setattr(sweeping, "CPU_BATCHES", (2, 8))
    monkeypatch.setattr(sweeping, "DECODE_BATCHES", (4,))
    monkeypatch.setattr(sweeping, "usable_cores", lambda: 1)
    views = take_sample(NamedArchive(few_views), tmp_path / "sample", (320, 320), 1)
    options = BenchOptions(few_views, quick_bundle.folder, "onnxruntime", seconds=0.2)
    models = [ModelRate("onnxruntime", "cpu", 8, [], 100.0), ModelRate("tensorrt", "cpu", 8, [], 100.0)]
    steps: list[str] = []
    usual = Subject.model

    def model(subject: Subject, rate: ModelRate, *settings: Any) -> float:
        if rate.runtime == "null":  # as of a plan for one size
            raise UsageError("--batch 2: this bundle's plan takes 64 to 64 views")
        return usual(subject, rate, *settings)

    monkeypatch.setattr(Subject, "model", model)
    models.append(ModelRate("null", "cpu", 8, [], 100.0))
    swept = sweeping.sweep(Subject(options, quick_bundle, views, models, 100.0, []), steps.append)
    tried = swept["model_only"]["onnxruntime"]["tried"]
    assert [(one["cores"], one["batch"]) for one in tried] == [(1, 2), (1, 8)]
    best = max(tried, key=lambda one: one["views_per_s"]["median"])
    assert swept["model_only"]["onnxruntime"]["best"] == {"cores": 1, "batch": best["batch"]}
    assert [(one["threads"], one["batch"]) for one in swept["decode_only"]["tried"]] == [(1, 4), (1, 64)]
    # What does not work here is told, and is not the best.
    for none_works in ("tensorrt", "null"):
        assert swept["model_only"][none_works]["best"] == {}
        assert all(one["problem"] for one in swept["model_only"][none_works]["tried"])
    assert len(steps) == 8 and "onnxruntime with cores 1, batch 2" in steps[0]
    told = text({**found, "sweep": swept}).split("\n\n")[5]
    assert told.startswith("SWEEP") and "tensorrt alone; best: none works" in told and "1      2  does not work" in told
    assert f"onnxruntime alone; best: cores 1, batch {best['batch']}" in told


def test_cores_of_a_sweep_double_up_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "usable_cores", lambda: 6)
    assert list(sweeping._crossed((1, 8), 4)) == [(1, 4), (2, 4), (4, 4), (6, 1), (6, 4), (6, 8)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "null"}, "measured in any case"),
        ({"runtime": "x"}, "choose from auto, all"),
        ({"batch": 0}, "--batch 0"),
        ({"rounds": 0}, "--rounds 0"),
        ({"seconds": 0.0}, "--seconds 0"),
        ({"seconds": float("nan")}, "--seconds nan"),
    ],
)
def test_options_that_measure_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BenchOptions(Path("archive"), Path("engine"), **options)


def test_a_bundle_without_proof_and_a_runtime_that_is_not_there_are_refused(
    few_views: Path, quick_bundle: Bundle
) -> None:
    with pytest.raises(BundleError, match="never compared"):
        bench(BenchOptions(few_views, quick_bundle.folder))
    with pytest.raises(RuntimeUnavailable, match="tensorrt: "):
        bench(BenchOptions(few_views, quick_bundle.folder, "tensorrt", allow_unproven=True))


def test_a_run_that_fails_is_told_with_its_reason(few_views: Path, quick_bundle: Bundle) -> None:
    with pytest.raises(EnvironmentProblem, match=r"exit code 5: .*never compared with PyTorch"):
        scored(few_views, quick_bundle.folder, "--runtime", "null")
    with pytest.raises(EnvironmentProblem, match="exit code 3: "):  # a figure of views that failed is none
        scored(few_views, quick_bundle.folder, "--runtime", "null", "--allow-unproven")

"""The acceptance run on a GPU: what it makes of pytest's words, and where it says that time goes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.acceptance import scaling, table, whole
from benchmarks.acceptance.gpu_tests import TEST_LINES, pytest_said
from benchmarks.acceptance.work import Work
from mura_trt import gray
from mura_trt.bundle import Bundle
from mura_trt.cores import CORES
from mura_trt.demo.archive import DemoPlan, write_archive
from tests.cores import ALL

TESTS = """
import pytest

@pytest.fixture
def broken():
    raise RuntimeError("no session")

def test_good(): pass
def test_bad():
    print("\\n".join(f"line {at}" for at in range(100)))
    assert 1 == 2
def test_left(): pytest.skip("not for this GPU")
def test_without(broken): pass
"""


@pytest.mark.parametrize("processes", [0, 1])
def test_pytests_words_come_to_counts_failures_and_reasons(processes: int, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-v", "-ra", "--tb=short", "--durations=3", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, "-n", str(processes)], cwd=tmp_path, capture_output=True, text=True, check=False)
    said = pytest_said(done.stdout.splitlines())
    assert said["counts"] == {"failed": 1, "passed": 1, "skipped": 1, "error": 1}
    assert len(said["FAILURES"]) == TEST_LINES and "line 99" in said["FAILURES"]
    assert any("no session" in line for line in said["ERRORS"])
    assert any("not for this GPU" in line for line in said["short test summary info"])
    assert "slowest 3 durations" in said


def test_a_run_that_was_cut_off_has_no_counts() -> None:
    assert pytest_said(["= test session starts =", "test_it.py::test_good PASSED"]) == {"counts": {}}


def test_a_core_parts_of_the_cores_and_all_of_them_are_tried_once_each() -> None:
    assert [scaling.shares(cores, 4, 2) for cores in (16, 6, 2, 1)] == [[1, 4, 8, 16], [1, 3, 6], [1, 2], [1]]
    assert scaling.shares(16, 2) == [1, 8, 16]


@pytest.mark.skipif(not gray.available(), reason="the C code was not built here")
@pytest.mark.skipif(len(ALL) < 2, reason="one core only")
@pytest.mark.usefixtures("all_cores")
def test_decoding_is_measured_in_processes_and_in_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "SECONDS", 0.2)
    monkeypatch.setenv(CORES, "2")
    work = Work(tmp_path, tmp_path / "none", cpu=True)
    write_archive(work.png, DemoPlan(studies=4, seed=2))
    found = scaling.decode_scaling(work)
    numbers = [1, 2]
    runs = [*((threads, scaling.BATCH) for threads in numbers), (2, scaling.LARGE_BATCH)]
    assert list(found) == [
        *(f"processes {number}" for number in numbers),
        *(f"threads {threads}, batches of {batch}" for threads, batch in runs),
    ]
    for number in numbers:  # which have a core each at the most; clocks are not read at one time
        one = found[f"processes {number}"]
        assert 0 < one["views_per_s"] * one["cpu_us"] / 1e6 < number * 1.05
    for threads, batch in runs:  # and the thread that feeds
        assert 0 < found[f"threads {threads}, batches of {batch}"]["cores_busy"] < threads + 1.05
    lines = table.scaling({**found, "error": "that ends no table"})
    assert [line.split("  ")[0] for line in lines] == [f"scaling {name}" for name in found]


def test_the_whole_is_compared_with_the_slower_of_decoding_and_the_model() -> None:
    result = {
        "end_to_end": {
            "auto png": {"median": 8000.0, "device": "cuda", "runtime": "torch_fused", "batch": 256},
            "null png": {"median": 10000.0},  # by several workers, where one process decodes 4,000
            "auto jpeg": {"median": 9000.0, "device": "cuda", "runtime": "torch_fused", "batch": 256},
            "null jpeg": {"error": "left out"},
        },
        "decode": {"gpu png": {"median": 4000.0}, "gpu jpeg": {"median": 20000.0}},
        "model_fp16": {"torch_fused fp16 256": {"median": 12000.0}},
    }
    told = "with torch_fused is {} of the slower of decoding ({}) and model (12000)"
    assert table.gaps(result) == {
        "png": "8000 views/s " + told.format("0.80", 10000),
        "jpeg": "9000 views/s " + told.format("0.75", 20000),
    }


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [whole.SECONDS, 0])
def test_whole_runs_tell_their_stages_and_try_variations_while_there_is_time(
    seconds: int, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "CPU_VARIATIONS", {"batches of 2": ("--batch", "2")})
    monkeypatch.setattr(whole, "SECONDS", seconds)
    monkeypatch.setattr(whole, "CPU_RUNTIMES", ["null"])
    work = Work(tmp_path, tmp_path / "none", cpu=True)
    work.bundle("fp16").symlink_to(bundle.folder)
    for folder in (work.png, work.jpeg):
        write_archive(folder, DemoPlan(studies=2, seed=2))
    found = whole.end_to_end(work)
    assert list(found) == ["null png", "null jpeg", "null png, batches of 2", "null jpeg, batches of 2"]
    lines = table.stages({**found, "log": "of a section that ended early"})
    assert len(lines) == len(found)
    for name, line in zip(found, lines, strict=True):
        if name.endswith("batches of 2") and not seconds:
            assert found[name] == {"error": "left out: the time was up"} and "the time was up" in line
        else:
            assert found[name]["scored"] == whole.CPU_VIEWS and found[name]["median"] > 0
            assert (found[name]["batch"] == 2) == name.endswith("batches of 2")
            assert (
                "score" in found[name]["stage_s"]
                and f"worker_decode {found[name]['stage_s']['worker_decode']:.2f}" in line
            )

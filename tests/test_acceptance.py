"""What the acceptance run on a GPU makes of pytest's words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.acceptance.gpu_tests import TEST_LINES, pytest_said

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

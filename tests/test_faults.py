"""The planted faults: their places are where they say, their page names each, and what plants them tells the truth."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from benchmarks.faults import FAULTS, UNNOTICED
from tests.test_docs import ROOT


def test_every_fault_has_its_place_and_its_line_in_the_page() -> None:
    page = (ROOT / "docs" / "faults.md").read_text()
    told = re.findall(r"^\| ([^|]+) \| `([^`]+)` \| `([^`]+)` \|$", page, re.MULTILINE)
    assert [(what, file) for what, file, _ in told] == [(fault.what, fault.file) for fault in FAULTS]
    for fault in FAULTS:
        assert fault.right in (ROOT / "mura_trt" / fault.file).read_text(), fault.what
        assert fault.right != fault.wrong, fault.what
    for _, _, caught in told:
        file, _, test = caught.partition("::")
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), caught


@pytest.mark.slow
def test_a_fault_that_no_test_notices_is_told() -> None:
    """Two stand for all, which take minutes: one that is caught, and a line that is as right as before."""
    script = """
import benchmarks.faults as faults
caught = faults.FAULTS[0]
faults.FAULTS[:] = [caught, caught._replace(what="none", wrong=f"({caught.right})")]
faults.main()
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    caught, none = done.stdout.splitlines()
    assert "::test_" in caught and UNNOTICED in none, done.stdout + done.stderr
    assert done.returncode == 1

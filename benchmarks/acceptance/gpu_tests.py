"""The tests that are marked ``gpu``, and what pytest said of them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from benchmarks.acceptance.work import ROOT, Work

SLOWEST_TESTS = 15  # that are told with their times
TEST_PROCESSES = 6  # on one GPU: what takes long is the CPU's
TEST_SECONDS = 200  # that one test may take, with what it needs first
TEST_LINES = 60  # of what pytest says, below each of its headings


def gpu_tests(_: Work) -> dict[str, Any]:
    """Every test that is marked ``gpu``."""
    if not (ROOT / "tests").is_dir():
        return {"left_out": "the tests are not here"}
    # By their files, for the others need packages that a GPU box may be without.
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    # What addopts ask for may not be installed here, either.
    command = [sys.executable, "-u", "-m", "pytest", "-m", "gpu", "-o", "addopts=", "-p", "no:cacheprovider"]
    # pytest-benchmark, where it is, warns of xdist, and a warning is an error here.
    command += ["-p", "no:benchmark", "-v", "-ra", "--tb=short", f"--durations={SLOWEST_TESTS}"]
    several = importlib.util.find_spec("xdist") is not None
    if several:
        # Neighbours share a model that is loaded: each process begins with a run of them, and helps out at the end.
        command += ["-n", str(TEST_PROCESSES), "--dist", "worksteal"]
    if importlib.util.find_spec("pytest_timeout") is not None:
        # By a thread, for a test that hangs in a library takes no signal; it ends the process, of which xdist has more.
        command += [f"--timeout={TEST_SECONDS}", f"--timeout-method={'thread' if several else 'signal'}"]
    lines = []
    with subprocess.Popen(
        [*command, *files], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=ROOT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)  # to the section's log, which is there whenever the time is up
            lines.append(line.rstrip())
    return {"exit_code": process.returncode, **pytest_said(lines)}


def pytest_said(lines: Iterable[str]) -> dict[str, Any]:
    """``counts`` by outcome, and the last lines below those of pytest's headings that tell of more than names."""
    below: dict[str, list[str]] = {}
    heading = ""
    for line in lines:
        if match := re.fullmatch(r"=+ (.+?) =+", line):
            heading = match[1]
        below.setdefault(heading, []).append(line)
    found: dict[str, Any] = {"counts": {}}
    for heading, told_there in below.items():
        if re.search(r" in \d+\.\d+s", heading):
            found["counts"] = {outcome: int(count) for count, outcome in re.findall(r"(\d+) ([a-z]+)", heading)}
        elif heading.startswith(("ERRORS", "FAILURES", "slowest", "short test summary")):
            found[heading] = told_there[1:][-TEST_LINES:]
    return found

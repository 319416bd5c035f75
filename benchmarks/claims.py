"""Runs the commands that docs/measured.md names by a word, one after the other, and keeps what each printed.

    python -m benchmarks.claims WORK [NAME ...]

Run from a checkout that `make demo` and `make test` have set up. For each it leaves WORK/NAME.log, whose first line is
the command, when, at which commit, the exit code and the seconds, and in WORK/NAME/ what it writes: results that are
quoted go from there to benchmarks/results/. What has ended well is passed over, so that a run that was stopped goes on;
all of it takes some four hours on 2 cores, and wants a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO = "demo/archive --engine demo/engine"
WEIGHTS = "--checkpoint engines/demo/model.safetensors"

# In the order of worth, should the time not suffice. {work} is a folder of each one's own.
CLAIMS = {
    "speed": f"python -m benchmarks.pipeline speed {DEMO} --json {{work}}/result.json",
    "bench": f"mura-trt bench {DEMO} --no-sweep --json > {{work}}/result.json",
    "peers": f"python -m benchmarks.peers {DEMO} {WEIGHTS} --views 128 --json {{work}}/result.json",
    "decoders": "python -m benchmarks.decoders demo/archive --json {work}/result.json",
    "feed": "python -m benchmarks.feed --json {work}/result.json",
    "supervisor": "pytest -m slow tests/test_scale.py -s",
    "memory": f"python -m benchmarks.pipeline memory {DEMO} --json {{work}}/result.json",
    "agreement": "pytest -m slow -k agree -s",
    "demo-model": "python -m benchmarks.demo_model {work} --json {work}/result.json",
    "precisions": "python -m benchmarks.precisions {work} --json {work}/result.json",
    "cluster": f"python -m benchmarks.cluster --archive {DEMO} --json {{work}}/result.json",
    "nightly": f"python -m benchmarks.nightly {DEMO} {WEIGHTS} --history {{work}}/history.jsonl",
    "nightly-quick": f"python -m benchmarks.nightly {DEMO} {WEIGHTS} --history {{work}}/history.jsonl --quick",
    "acceptance": "python -m benchmarks.gpu_acceptance --cpu",
    "isolation": f"python -m benchmarks.pipeline isolation {DEMO} --json {{work}}/result.json",
    "packed": f"python -m benchmarks.pipeline packed {DEMO} --json {{work}}/result.json",
    "workers": f"python -m benchmarks.pipeline workers {DEMO} --json {{work}}/result.json",
    "heatmaps": f"python -m benchmarks.heatmaps {DEMO} --json {{work}}/result.json",
    "report": "python -m benchmarks.report --studies 2000 --json {work}/result.json",
    "report-10000": "python -m benchmarks.report --studies 10000 --json {work}/result.json",
    "plans": "python -m benchmarks.plans demo/engine --rounds 5 --json {work}/result.json",
    "faults": "python -m benchmarks.faults --out {work}/result.json",
    "soak": "python -m benchmarks.soak soak --engine demo/engine --json {work}/result.json",
    "trial": f"python -m benchmarks.nightly.trial {{work}} {DEMO} --slowed 5 --json {{work}}/result.json",
    "calibrations": "python -m benchmarks.calibrations {work} --json {work}/result.json",
}


def run(name: str, work: Path) -> int:
    """Runs one, leaves its log, returns its exit code."""
    own = work / name
    own.mkdir(parents=True, exist_ok=True)
    command = CLAIMS[name].format(work=own)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    when, begun = datetime.now(UTC), time.monotonic()
    printed = own / "printed"
    with printed.open("wb") as into:
        code = subprocess.run(command, shell=True, cwd=ROOT, env=environment, stdout=into, stderr=into).returncode
    about = {"command": command, "at": when.isoformat("T", "seconds"), "commit": commit.stdout.strip(), "exit": code,
             "seconds": round(time.monotonic() - begun, 1)}  # fmt: skip
    text = printed.read_text(errors="replace")
    (work / f"{name}.log").write_text(f"{json.dumps(about)}\n{text}")
    return code


def _ended_well(log: Path) -> bool:
    return log.exists() and json.loads(log.read_text().splitlines()[0])["exit"] == 0


def main() -> int:
    """The command line; exit code 1 where a command failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CLAIMS)} [all]")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(CLAIMS):
        parser.error(f"no {', '.join(sorted(unknown))}")
    failed = []
    for name in arguments.names or CLAIMS:
        if not _ended_well(arguments.work / f"{name}.log"):
            print(f"{name}: {CLAIMS[name]}", flush=True)
            failed += [name] if run(name, arguments.work.resolve()) else []
    print("failed: " + ", ".join(failed) if failed else "all ran")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

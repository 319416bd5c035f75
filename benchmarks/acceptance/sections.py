"""Which sections there are, and how they run: each in a process of its own, as long as there is time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.acceptance.fast import card, decode_rates, inspect_layers, model_rates, variants
from benchmarks.acceptance.gpu_tests import gpu_tests
from benchmarks.acceptance.made import archives, build
from benchmarks.acceptance.peers import peers
from benchmarks.acceptance.right import decoding, doctor, memory, parity, same_bits
from benchmarks.acceptance.scaling import decode_scaling
from benchmarks.acceptance.whole import end_to_end
from benchmarks.acceptance.work import ROOT, Work, problem
from mura_trt.bench.machine import commit

Section = Callable[[Work], dict[str, Any]]
# Name, what it does, its limit in seconds, and whether it needs a GPU. In order: what decides most comes first.
SECTIONS: dict[str, tuple[Section, int, bool]] = {
    "doctor": (doctor, 150, False),
    "archives": (archives, 60, False),
    "build_fp16": (lambda work: build(work, "fp16"), 120, False),
    "parity_fp16": (lambda work: parity(work, "fp16"), 180, False),
    "same_bits": (same_bits, 120, False),
    "decoding": (decoding, 60, True),
    "card": (card, 30, True),
    "model_fp16": (model_rates, 120, False),
    "decode": (decode_rates, 60, False),
    "decode_scaling": (decode_scaling, 60, False),
    "end_to_end": (end_to_end, 240, False),
    "memory": (memory, 60, True),
    "peers": (peers, 120, True),
    "gpu_tests": (gpu_tests, 300, True),
    "build_fp32": (lambda work: build(work, "fp32"), 60, True),
    "parity_fp32": (lambda work: parity(work, "fp32"), 120, True),
    "layers": (inspect_layers, 60, True),
    "variants": (variants, 180, True),
    "build_int8": (lambda work: build(work, "int8"), 240, True),
    "parity_int8": (lambda work: parity(work, "int8"), 120, True),
    "model_all": (model_rates, 120, True),
}


def run_sections(work: Work, names: Iterable[str], seconds: float) -> dict[str, Any]:
    """Each section in a process of its own, as long as there is time; the result so far is on the disk after each."""
    until = time.monotonic() + seconds
    kept = work.folder / "acceptance.json"
    before: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    if before.get("commit") != commit():  # what some sections gave at another commit is no result of this one
        before = {}
    result = {"seconds": {}, **before, "command": sys.argv[1:], "limit_s": seconds, "commit": commit()}
    for name in names:
        _, limit, needs_gpu = SECTIONS[name]
        left = until - time.monotonic()
        if needs_gpu and work.cpu:
            continue
        if left < 10:
            result[name] = {"left_out": "the time was up"}
            continue
        started = time.monotonic()
        result[name] = _section(work, name, min(limit, left))
        result["seconds"][name] = round(time.monotonic() - started, 1)
        kept.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{name}: {result['seconds'][name]} s {problem(result[name])}", flush=True)
    return result


def _section(work: Work, name: str, limit: float) -> dict[str, Any]:
    file = work.folder / f"{name}.json"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_acceptance", "--section", name, "--out", str(work.folder)]
    command += ["--checkpoint", str(work.checkpoint), *(["--cpu"] if work.cpu else [])]
    log = work.folder / f"{name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT, start_new_session=True)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # with whatever it has started
            process.wait()
            return {"error": f"did not end within {limit:.0f} s", "log": log.read_text(errors="replace")[-4000:]}
    if code or not file.exists():
        return {"error": f"exit code {code}", "log": log.read_text(errors="replace")[-1500:]}
    found: dict[str, Any] = json.loads(file.read_text())
    return found

"""What the other sections work on, made by the first ones: archives and engine bundles."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from typing import Any

from benchmarks.acceptance.work import ROOT, Work


def archives(work: Work) -> dict[str, Any]:
    """A synthetic archive as PNG files, and again as JPEG files."""
    from PIL import Image

    from mura_trt.demo.archive import DemoPlan, write_archive

    for folder in (work.png, work.jpeg):
        shutil.rmtree(folder, ignore_errors=True)
    write_archive(work.png, DemoPlan(studies=12 if work.cpu else 48, seed=5))
    paths = sorted(work.png.rglob("*.png"))
    for path in paths:
        target = work.jpeg / path.relative_to(work.png).with_suffix(".jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.save(target, quality=92)
    return {"views": len(paths)}


def build(work: Work, precision: str) -> dict[str, Any]:
    """A bundle, with the best builder that there is."""
    recipe = ROOT / "engines" / f"densenet169-{precision}.toml"
    command = [sys.executable, "-m", "mura_trt", "build-engine", str(recipe), "--checkpoint", str(work.checkpoint)]
    command += ["-o", str(work.bundle(precision)), "--overwrite", "--no-check"]
    if precision in ("int8", "fp8"):
        command += ["--calibrate", str(work.png)]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found: dict[str, Any] = {"seconds": round(time.monotonic() - started, 1)}
    if done.returncode:
        return {**found, "error": done.stderr.strip()[-500:]}
    manifest = json.loads((work.bundle(precision) / "bundle.json").read_text())
    return {**found, "builder": manifest["builder"]}

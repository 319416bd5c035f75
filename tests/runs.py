"""Scoring runs, for tests of what becomes of them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mura_trt.bundle import Bundle


def tables(out: Path) -> dict[str, bytes]:
    """What a run left."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.csv"))}


def start_scoring(
    archive: Path, bundle: Bundle, out: Path, *more: str, null_ms: int = 200, **options: Any
) -> subprocess.Popen[bytes]:
    """``mura-trt score`` in a process of its own, slowed down, and under way when this returns."""
    command = [sys.executable, "-m", "mura_trt", "score", str(archive), "--engine", str(bundle.folder), "-o", str(out)]
    slowed = ["--runtime", "null", "--null-ms", str(null_ms), "--batch", "4", "--shard-views", "8"]
    # A shell that runs the tests in the background has them ignore Ctrl-C, and children inherit that.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen([*command, *slowed, *more], **options)
    signal.signal(signal.SIGINT, handler)
    until = time.monotonic() + 60
    while not list((out / "shards").glob("*.json")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    return process

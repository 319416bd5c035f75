"""The end of every measurement here; what they measure with is in ``mura_trt.bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mura_trt.bench.machine import machine


def finish(result: dict[str, Any], file: Path | None) -> None:
    """Prints the result with the machine that it was measured on, and keeps it."""
    text = json.dumps({"machine": machine(), **result}, indent=2)
    print(text)
    if file:
        file.write_text(text + "\n")

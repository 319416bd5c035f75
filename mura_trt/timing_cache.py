"""TensorRT's timing cache: what its builder measured of kernels on a GPU, kept for the next build there."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from mura_trt.caches import CacheFile


def structure_of(onnx_path: Path) -> str:
    """16 hexadecimal digits that stand for a graph without its weights' values: kernels are timed on shapes alone."""
    import onnx

    model = onnx.load(onnx_path)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()[:16]


def load_timings(config: Any, file: CacheFile) -> Any:
    """Gives a builder configuration the timings kept in a file, or room for new ones; keep it while it builds."""
    kept = file.load()
    timings = config.create_timing_cache(kept or b"")
    # TensorRT looks at the header and refuses another version's or GPU's timings.
    if not config.set_timing_cache(timings, ignore_mismatch=False):
        timings = config.create_timing_cache(b"")
        config.set_timing_cache(timings, ignore_mismatch=False)
    return timings


def save_timings(timings: Any, file: CacheFile) -> None:
    """Keeps what a build has measured."""
    file.save(bytes(memoryview(timings.serialize())))

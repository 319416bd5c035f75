"""Runtimes by name, and the choice among them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from mura_trt.bundle import Bundle
from mura_trt.errors import RuntimeUnavailable, UsageError
from mura_trt.runtimes.base import DevicePixels, Pixels, Scores, Session, SessionOptions

__all__ = [
    "AUTO",
    "MIXED",
    "OWN_RUNTIMES",
    "RUNTIMES",
    "DevicePixels",
    "Pixels",
    "Scores",
    "Session",
    "SessionOptions",
    "open_session",
    "runtime_code",
    "runtime_of",
]

# Name -> where its session is opened; the module is imported only when the runtime is tried.
RUNTIMES = {
    "tensorrt": ("tensorrt", "PlainTensorRTSession"),
    "tensorrt_rtx": ("tensorrt", "TensorRTRTXSession"),
    "onnxruntime": ("onnxruntime", "OnnxRuntimeSession"),
    "emulated": ("onnxruntime", "EmulatedSession"),
    "torch_cuda": ("torch", "TorchCudaSession"),
    "torch": ("torch", "open_reference"),
    "null": ("null", "NullSession"),
    "torch_fused": ("torch", "TorchFusedSession"),  # last: rows of mixed runs have a runtime by its place here
}
AUTO = ("tensorrt", "tensorrt_rtx", "torch_fused", "torch_cuda", "onnxruntime")
# What computes in the bundle's own precision: its plan, or the graph that the plan was compiled from.
OWN_RUNTIMES = ("tensorrt", "tensorrt_rtx", "emulated")
MIXED = "mixed"  # in place of a run's runtime and device, where workers have different ones


def runtime_code(runtime: str) -> int:
    """What a score has in place of a runtime's name, in runs that mix them: from 1 on."""
    return 1 + list(RUNTIMES).index(runtime)


def runtime_of(code: int) -> str:
    """The name of a runtime by its code; empty for 0."""
    return ["", *RUNTIMES][code]


def open_session(
    runtime: str, bundle: Bundle, options: SessionOptions, auto: Sequence[str] = AUTO
) -> tuple[Session, list[str]]:
    """Opens a runtime by name, or with ``auto`` the first of those that works.

    Returns
    -------
    The session, and for each runtime passed over a line with the reason.

    Raises
    ------
    UsageError
        There is no such runtime.
    RuntimeUnavailable
        None of them works here.
    """
    if runtime not in ("auto", *RUNTIMES):
        raise UsageError(f"--runtime {runtime}: choose from auto, {', '.join(RUNTIMES)}")
    passed_over: list[str] = []
    for name in auto if runtime == "auto" else (runtime,):
        module, cls = RUNTIMES[name]
        try:
            session: Session = getattr(importlib.import_module(f"mura_trt.runtimes.{module}"), cls)(bundle, options)
        except RuntimeUnavailable as error:
            passed_over.append(f"{name}: {error}")
        else:
            return session, passed_over
    raise RuntimeUnavailable("; ".join(passed_over))

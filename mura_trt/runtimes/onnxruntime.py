"""The bundle's graphs on the CPU, through ONNX Runtime."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mura_trt.bundle import Bundle
from mura_trt.cores import usable_cores
from mura_trt.errors import RuntimeUnavailable
from mura_trt.runtimes.base import HostSession, Scores, SessionOptions

BATCH = 8  # on 2 cores 11.3 views/s at 8, 10.9 at 16, 10.8 at 4; 16 takes twice the memory


class OnnxRuntimeSession(HostSession):
    """The FP32 graph, whatever the bundle's precision: a CPU computes FP16 in FP32 anyway, with casts on top."""

    name = "onnxruntime"
    _entries: ClassVar[dict[str, str]] = {}  # of the session's configuration
    _left_out: ClassVar[tuple[str, ...]] = ()  # of its graph optimizers

    def __init__(self, bundle: Bundle, options: SessionOptions) -> None:
        super().__init__(bundle.contract, options.batch or BATCH)
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise RuntimeUnavailable(f"ONNX Runtime does not import ({error}): pip install onnxruntime") from error
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = usable_cores()
        settings.log_severity_level = 3  # errors; its warnings speak of graph constants nobody can act on
        for name, value in self._entries.items():
            settings.add_session_config_entry(name, value)
        self._session = ort.InferenceSession(
            self._graph(bundle), settings, providers=["CPUExecutionProvider"], disabled_optimizers=[*self._left_out]
        )

    def _graph(self, bundle: Bundle) -> str | bytes:
        return str(bundle.path("fp32_onnx"))

    def _run(self, images: NDArray[np.uint8]) -> Scores:
        outputs = self._session.run(["probability", "logit", "cam"], {"image": images})
        return Scores(*(np.asarray(output, np.float32) for output in outputs))


class EmulatedSession(OnnxRuntimeSession):
    """The graph that the plan was compiled from, on the CPU: what its roundings do, though not how fast.

    Weights, and what is rounded to INT8 or FP8, are the graph's; between them it computes in FP32.
    """

    name = "emulated"

    # ONNX Runtime would put a rounded convolution's parts together into one of integers, which on CPUs with AVX2 and
    # without VNNI adds up pairs of products in 16 bits, and saturates there.
    _entries: ClassVar[dict[str, str]] = {"session.disable_quant_qdq": "1"}
    # It takes a ReLU away in front of what rounds to nothing below zero, and takes FP8 for that (1.32).
    _left_out: ClassVar[tuple[str, ...]] = ("ReluQuantRewrite",)

    def _graph(self, bundle: Bundle) -> bytes:
        try:
            import onnx
        except ImportError as error:
            raise RuntimeUnavailable(f"onnx does not import ({error}): pip install onnx") from error
        from mura_trt.precision import raised

        graph: bytes = raised(onnx.load(bundle.path("onnx"))).SerializeToString()
        return graph

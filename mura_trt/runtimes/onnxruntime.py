"""The bundle's graphs on the CPU, through ONNX Runtime."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mura_trt.bundle import Bundle
from mura_trt.cores import usable_cores
from mura_trt.errors import RuntimeUnavailable
from mura_trt.runtimes.base import Pixels, Scores, Session, SessionOptions

BATCH = 8  # at the least, and two views for each core


class OnnxRuntimeSession(Session):
    """The FP32 graph, whatever the bundle's precision: a CPU computes FP16 in FP32 anyway, with casts on top.

    Each core computes a view from end to end. ONNX Runtime's own threads would share every one of 300 nodes and wait
    for one another behind it: 1.14 times as long on a quiet machine, twice as long beside other work
    (benchmarks/NOTES.md).
    """

    name = "onnxruntime"
    depth = 2  # so that a core goes on with the next batch where it is through with this one
    _entries: ClassVar[dict[str, str]] = {}  # of the session's configuration
    _left_out: ClassVar[tuple[str, ...]] = ()  # of its graph optimizers

    def __init__(self, bundle: Bundle, options: SessionOptions) -> None:
        cores = usable_cores()
        super().__init__(bundle.contract, options.batch or max(BATCH, 2 * cores))
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise RuntimeUnavailable(f"ONNX Runtime does not import ({error}): pip install onnxruntime") from error
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = 1
        settings.log_severity_level = 3  # errors; its warnings speak of graph constants nobody can act on
        for name, value in self._entries.items():
            settings.add_session_config_entry(name, value)
        graph = self._graph(bundle)
        try:
            self._session = ort.InferenceSession(
                graph, settings, providers=["CPUExecutionProvider"], disabled_optimizers=[*self._left_out]
            )
        except Exception as error:  # its own kinds, and where a path is no UTF-8 a TypeError of many lines
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise RuntimeUnavailable(f"ONNX Runtime does not take the graph of {bundle.folder}: {reason}") from error
        self._cores = ThreadPoolExecutor(cores, thread_name_prefix="engine")
        self._running: deque[list[Future[list[NDArray[np.float32]]]]] = deque()

    def _graph(self, bundle: Bundle) -> str | bytes:
        return str(bundle.path("fp32_onnx"))

    def _submit(self, images: Pixels) -> None:
        assert isinstance(images, np.ndarray)
        self._running.append([self._cores.submit(self._compute, images[at : at + 1]) for at in range(len(images))])

    def _collect(self) -> Scores:
        parts = [view.result() for view in self._running.popleft()]
        return Scores(*(np.concatenate(output) for output in zip(*parts, strict=True)))

    def _compute(self, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        outputs = self._session.run([*self._contract.outputs], {"image": image})
        return [np.asarray(output, np.float32) for output in outputs]

    def close(self) -> None:
        """Ends its threads; what is under way is dropped."""
        self._cores.shutdown(cancel_futures=True)


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

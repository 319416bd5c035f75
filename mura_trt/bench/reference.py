"""What the CPU itself could do, measured beside what it does. NumPy must not be loaded before it is told of threads."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

# A view's multiplications and additions, in 10^9 operations: those of the convolutions and the classifier of
# DenseNet-169 (Huang et al. 2017, table 1) at 320 x 320, its stem taking three channels, and its transitions pooling
# behind the convolution. The graph pools before it, which saves 1.12 of them, and a runtime may save others.
GFLOP_PER_VIEW = 13.7072
MATRIX_SECONDS = 0.1  # that a product of the largest matrices takes at the least
OPSET, IR_VERSION = 20, 10  # of a graph that any ONNX Runtime of these years takes


def sgemm_rate(threads: int, seconds: float) -> float:
    """10^9 operations a second of float32 products of large square matrices, by the library that is fastest at it.

    NumPy's may not know the processor: on one with AVX-512, its OpenBLAS had half the rate of ONNX Runtime's own, which
    takes part where it and onnx are installed.

    Parameters
    ----------
    threads
        Of a library; for NumPy's they count where NumPy was not loaded before.
    seconds
        For each library and size, at the least; the first product of each is not counted.
    """
    # Libraries look at this once, when they are loaded: OpenBLAS, MKL, and those on OpenMP.
    os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), str(threads)))
    return max(_fastest(product, seconds) for product in (_numpy, _onnxruntime(threads)) if product)


def _fastest(product: Callable[[int], Callable[[], object]], seconds: float) -> float:
    """Of many products of each size; ``product`` makes what computes one of matrices of so many rows."""
    side, taken, rate = 512, 0.0, 0.0
    while taken < MATRIX_SECONDS:  # which size suits a library's blocks and the caches, it does not say
        side *= 2
        multiply = product(side)
        multiply()
        ended = time.perf_counter() + seconds
        taken = _seconds(multiply)
        while time.perf_counter() < ended:
            taken = min(taken, _seconds(multiply))
        rate = max(rate, 2 * side**3 / taken / 1e9)
    return rate


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _numpy(side: int) -> Callable[[], object]:
    import numpy as np

    left, right = np.random.default_rng(0).random((2, side, side), np.float32)
    return lambda: np.matmul(left, right)


def _onnxruntime(threads: int) -> Callable[[int], Callable[[], object]] | None:
    """Its ``MatMul``; None where it or onnx is not installed."""
    try:
        import onnxruntime as ort
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        return None
    import numpy as np

    def product(side: int) -> Callable[[], object]:
        left, right = np.random.default_rng(0).random((2, side, side), np.float32)
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [side, side]) for name in ("left", "result")]
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["left", "right"], ["result"])],
            "product",
            ends[:1],
            ends[1:],
            [numpy_helper.from_array(right, "right")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = threads
        session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"left": left})

    return product

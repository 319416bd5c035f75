"""What the CPU itself could do, measured beside what it does. NumPy must not be loaded before it is told of threads."""

from __future__ import annotations

import os
import time

# A view's multiplications and additions, in 10^9 operations: those of the convolutions and the classifier of
# DenseNet-169 (Huang et al. 2017, table 1) at 320 x 320, its stem taking three channels. `mura-trt inspect` counts them
# from the graph.
GFLOP_PER_VIEW = 13.7072
MATRIX_SECONDS = 0.1  # that one product takes at the least


def sgemm_rate(threads: int, seconds: float) -> float:
    """10^9 operations a second of NumPy's float32 product of large square matrices.

    Parameters
    ----------
    threads
        Of its BLAS library; they count where NumPy was not loaded before.
    seconds
        At the least; choosing the matrices' size, and the first product of each, are not counted.
    """
    # Libraries look at this once, when they are loaded: OpenBLAS, MKL, and those on OpenMP.
    os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), str(threads)))
    import numpy as np

    side, taken = 512, 0.0
    while taken < MATRIX_SECONDS:
        side *= 2
        left, right = np.random.default_rng(0).random((2, side, side), np.float32)
        np.matmul(left, right)
        started = time.perf_counter()
        np.matmul(left, right)
        taken = time.perf_counter() - started
    products, started = 0, time.perf_counter()
    while not products or time.perf_counter() - started < seconds:
        np.matmul(left, right)
        products += 1
    return products * 2 * side**3 / (time.perf_counter() - started) / 1e9

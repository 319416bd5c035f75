"""The bundle's FP32 graph on the CPU, through ONNX Runtime."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mura_trt.bundle import Bundle
from mura_trt.cores import usable_cores
from mura_trt.errors import RuntimeUnavailable
from mura_trt.runtimes.base import Scores, Session, SessionOptions

BATCH = 8  # on 2 cores 11.3 views/s at 8, 10.9 at 16, 10.8 at 4; 16 takes twice the memory


class OnnxRuntimeSession(Session):
    """FP32 whatever the bundle's precision: a CPU computes FP16 in FP32 anyway, with casts on top."""

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, options: SessionOptions) -> None:
        super().__init__(bundle.contract, options.batch or BATCH)
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise RuntimeUnavailable(f"ONNX Runtime does not import ({error}): pip install onnxruntime") from error
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = usable_cores()
        settings.log_severity_level = 3  # errors; its warnings speak of graph constants nobody can act on
        self._session = ort.InferenceSession(
            str(bundle.path("fp32_onnx")), settings, providers=["CPUExecutionProvider"]
        )

    def _run(self, images: NDArray[np.uint8]) -> Scores:
        outputs = self._session.run(["probability", "logit", "cam"], {"image": images})
        return Scores(*(np.asarray(output, np.float32) for output in outputs))

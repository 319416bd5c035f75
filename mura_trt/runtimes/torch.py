"""The FP32 reference: the torch module with the weights of the bundle's FP32 graph, on the CPU or on CUDA."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mura_trt.bundle import Bundle
from mura_trt.cores import usable_cores
from mura_trt.errors import RuntimeUnavailable
from mura_trt.runtimes.base import Scores, Session, SessionOptions


class TorchSession(Session):
    """PyTorch in FP32, channels last; on a GPU where PyTorch sees one."""

    name = "torch"

    def __init__(self, bundle: Bundle, options: SessionOptions) -> None:
        try:
            import torch

            from mura_trt.export import load_exported
        except ImportError as error:
            raise RuntimeUnavailable(f"PyTorch does not import ({error}): pip install torch onnx") from error
        if torch.cuda.is_available():
            self.device = "cuda"
            # TF32 would make the reference differ in the third digit.
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
        else:
            torch.set_num_threads(usable_cores())
        super().__init__(bundle.contract, options.batch or (64 if self.device == "cuda" else 8))
        self._torch = torch
        model = load_exported(bundle.path("fp32_onnx")).to(self.device)
        self._model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _run(self, images: NDArray[np.uint8]) -> Scores:
        with self._torch.inference_mode():
            # A copy, because the decoder's memory is read-only and torch warns of that.
            outputs = self._model(self._torch.from_numpy(images.copy()).to(self.device))
        return Scores(*(output.cpu().numpy() for output in outputs))

"""The torch module with the weights of the bundle's FP32 graph: the reference, and what a GPU without TensorRT uses."""

from __future__ import annotations

from subprocess import SubprocessError
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mura_trt.bundle import Bundle
from mura_trt.cores import usable_cores
from mura_trt.cuda_devices import cuda_device_count
from mura_trt.errors import RuntimeUnavailable
from mura_trt.runtimes.base import HostSession, Scores, Session, SessionOptions
from mura_trt.runtimes.cuda import Device, Stream
from mura_trt.runtimes.device import DeviceSession, Output

if TYPE_CHECKING:
    from mura_trt.model import Network

GPU_BATCH = 64
FUSED_BATCH = 256  # 1.23 times as fast as 64 on an H100, and 3 GB
WARM_UP = 3  # passes in which libraries choose kernels and take their memory, before a CUDA graph is captured


def open_reference(bundle: Bundle, options: SessionOptions) -> Session:
    """The FP32 reference: on a GPU where PyTorch sees one, else on the CPU."""
    return TorchCudaReference(bundle, options) if _torch().cuda.is_available() else TorchSession(bundle, options)


def _torch() -> Any:
    try:
        import torch
    except (ImportError, OSError) as error:  # the latter where a library that it loads is missing
        raise RuntimeUnavailable(f"PyTorch does not import ({error}): pip install torch onnx") from error
    return torch


def _cuda_torch() -> Any:
    if cuda_device_count() == 0:  # then PyTorch, which takes seconds and may be broken, need not be imported
        raise RuntimeUnavailable("no GPU here that the NVIDIA driver knows of")
    torch = _torch()
    if not torch.cuda.is_available():
        raise RuntimeUnavailable("PyTorch sees no GPU here, or is a build for CPUs")
    return torch


def _model(bundle: Bundle) -> Network:
    """Channels last, FP32, on the CPU."""
    if bundle.manifest.imported is not None:
        raise RuntimeUnavailable(
            f"{bundle.manifest.network} was imported from an ONNX file, and PyTorch has no module for it; it runs in"
            " onnxruntime, emulated, tensorrt and tensorrt_rtx"
        )
    torch = _torch()
    try:
        from mura_trt.export import load_exported

        model = load_exported(bundle.path("fp32_onnx"))
    except ImportError as error:
        raise RuntimeUnavailable(f"onnx does not import ({error}): pip install onnx") from error
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


class TorchSession(HostSession):
    """PyTorch in FP32 on the CPU."""

    name = "torch"

    def __init__(self, bundle: Bundle, options: SessionOptions) -> None:
        super().__init__(bundle.contract, options.batch or 8)
        self._torch = _torch()
        self._torch.set_num_threads(usable_cores())
        self._model = _model(bundle)

    def _run(self, images: NDArray[np.uint8]) -> Scores:
        with self._torch.inference_mode():
            # A copy, because the decoder's memory is read-only and torch warns of that.
            outputs = self._model(self._torch.from_numpy(images.copy()))
        return Scores(*(output.numpy() for output in outputs))


class TorchCudaSession(DeviceSession):
    """PyTorch on a GPU: the body in half precision, but for an FP32 bundle; a batch is one CUDA graph."""

    name = "torch_cuda"
    _half: bool | None = None  # None: as the bundle has it
    _usual_batch = GPU_BATCH
    _model: Any
    _image: Any
    _torch_stream: Any
    _outputs: Any
    _graph: Any

    def __init__(self, bundle: Bundle, options: SessionOptions) -> None:
        torch = self._torch = _cuda_torch()
        # Rounded to TF32, FP32 would differ in the third digit; and kernels that were chosen by their time would give
        # other bits the next time.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
        self._bundle, self._in_graph = bundle, options.cuda_graphs in (None, True)
        self._model = self._image = self._torch_stream = self._outputs = self._graph = None
        super().__init__(bundle.contract, options.batch or self._usual_batch, Device(options.device))

    def _load(self) -> None:
        torch, there = self._torch, f"cuda:{self._gpu.ordinal}"
        try:
            self._model = self._placed(_model(self._bundle), there)
            self._image = torch.zeros((self.batch, *self._shape), dtype=torch.uint8, device=there)
            self._torch_stream = torch.cuda.ExternalStream(self._compute.handle, device=there)
            self._graph = self._captured() if self._in_graph else None
        except torch.cuda.OutOfMemoryError as error:
            raise RuntimeUnavailable(f"no memory on {self._gpu.name}: {error}; give a smaller --batch") from error

    def _placed(self, model: Network, there: str) -> Any:
        """What computes a batch: called with pixels on the device ``there``, it returns the network's outputs."""
        half = self._bundle.manifest.precision != "fp32" if self._half is None else self._half
        return (model.half_body() if half else model).to(there)

    def _captured(self) -> Any:
        with self._torch.cuda.stream(self._torch_stream), self._torch.inference_mode():
            for _ in range(WARM_UP):
                self._outputs = self._model(self._image)
            self._torch_stream.synchronize()
            graph = self._torch.cuda.CUDAGraph()
            with self._torch.cuda.graph(graph, stream=self._torch_stream):
                self._outputs = self._model(self._image)
        return graph

    def _launch(self, image: int, outputs: dict[str, Output], stream: Stream) -> None:
        # 0.1 % of the batch's time, and the graph has one address for its pixels.
        self._gpu.copy(self._image.data_ptr(), image, self._image.nbytes, stream)
        with self._torch.cuda.stream(self._torch_stream), self._torch.inference_mode():
            if self._graph is not None:
                self._graph.replay()
            else:
                self._outputs = self._model(self._image)
        for output, found in zip(outputs.values(), self._outputs, strict=True):
            self._gpu.copy(output.address, found.data_ptr(), found.nbytes, stream)

    def _release(self) -> None:
        self._graph = self._outputs = self._image = self._model = self._torch_stream = None


class TorchFusedSession(TorchCudaSession):
    """The body in half precision by kernels of our own, which Triton compiles for the GPU at hand."""

    name = "torch_fused"
    _usual_batch = FUSED_BATCH

    def __init__(self, bundle: Bundle, options: SessionOptions) -> None:
        capability = _cuda_torch().cuda.get_device_capability(options.device)
        if bundle.manifest.precision == "fp32":
            raise RuntimeUnavailable("it computes in half precision, and the bundle is FP32; use torch_cuda")
        try:
            import triton  # noqa: F401  what cannot be imported is told before a model is loaded
        except (ImportError, OSError) as error:
            raise RuntimeUnavailable(f"Triton does not import ({error}): pip install triton") from error
        from mura_trt.fused import LEAST

        if capability < LEAST:
            raise RuntimeUnavailable(
                f"it needs SM80 or later, and the GPU is SM{capability[0]}{capability[1]}; use torch_cuda"
            )
        super().__init__(bundle, options)

    def _placed(self, model: Network, there: str) -> Any:
        import triton

        from mura_trt.fused import fused

        torch = self._torch
        # Triton builds with a C compiler, against Python's headers and the driver, and loads what it has built from a
        # cache: its own errors are not the only ones.
        errors = (triton.TritonError, SubprocessError, OSError, AssertionError, ImportError, ValueError)
        forward = fused(model.to(there))
        first = torch.zeros((self.batch, *self._shape), dtype=torch.uint8, device=there)
        try:
            with torch.cuda.device(there), torch.inference_mode():
                forward(first)  # for which Triton compiles
        except errors as error:
            raise RuntimeUnavailable(f"Triton cannot compile for this GPU: {error}") from error
        torch.cuda.synchronize(there)
        return forward


class TorchCudaReference(TorchCudaSession):
    """PyTorch on a GPU in FP32."""

    name = "torch"
    _half = False

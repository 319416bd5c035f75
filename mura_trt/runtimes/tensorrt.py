"""The bundle's plan on a GPU, through TensorRT or TensorRT-RTX (one API, two modules)."""

from __future__ import annotations

import importlib
from typing import Any

from mura_trt.bundle import Bundle
from mura_trt.cuda_devices import cuda_device_count
from mura_trt.errors import RuntimeUnavailable, UsageError
from mura_trt.plan import BUILDERS
from mura_trt.runtimes.base import SessionOptions
from mura_trt.runtimes.cuda import Device, Stream
from mura_trt.runtimes.device import DeviceSession, Output


class TensorRTSession(DeviceSession):
    """A deserialised plan and its execution context."""

    builder: str

    def __init__(self, bundle: Bundle, options: SessionOptions) -> None:
        if cuda_device_count() == 0:
            raise RuntimeUnavailable("no GPU here that the NVIDIA driver knows of")
        built = bundle.manifest.builder
        if built is None:
            raise RuntimeUnavailable("the bundle has no plan; rebuild it where TensorRT or TensorRT-RTX is installed")
        if built["name"] != self.builder:
            raise RuntimeUnavailable(
                f"the bundle's plan is {built['name']}'s; use that runtime, or rebuild with --builder {self.builder}"
            )
        _, tuned, most = built["batch"]
        if options.batch and options.batch > most:
            raise UsageError(f"--batch {options.batch}: this bundle's plan takes at most {most} views")
        gpu = Device()
        try:
            super().__init__(bundle.contract, options.batch or tuned, gpu)
            self._load(bundle, options)
            shape = (self.batch, *self._shape)
            if not self._context.set_input_shape("image", shape):
                raise RuntimeUnavailable(f"{self.name} refused the input shape {shape}")
        except RuntimeUnavailable:  # the next runtime must not find our context on its thread
            gpu.close()
            raise

    def _load(self, bundle: Bundle, options: SessionOptions) -> None:
        built = bundle.manifest.builder or {}
        module = BUILDERS[self.builder]
        try:
            trt = importlib.import_module(module)
        except Exception as error:  # its loader raises whatever it meets: a missing library, a stub, a driver
            raise RuntimeUnavailable(f"{module} does not import: {error}") from error
        # Deserialising needs the runtime to live as long as the engine, and reports by None and a line in its log.
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(bundle.path("plan").read_bytes())
        self._context: Any = _make_context(trt, self._engine, options) if self._engine is not None else None
        if self._context is None:
            major, minor = self._gpu.compute_capability
            raise RuntimeUnavailable(
                f"{module} {trt.__version__} cannot load the plan on {self._gpu.name} (SM{major}{minor}); it was built"
                f" by {built['name']} {built['version']} for {built['targets']}: rebuild it on this machine with"
                f" mura-trt build-engine --builder {self.builder}"
            )

    def _launch(self, image: int, outputs: dict[str, Output], stream: Stream) -> None:
        for name, address in (("image", image), *((name, output.address) for name, output in outputs.items())):
            if not self._context.set_tensor_address(name, address):
                raise RuntimeError(f"{self.name} refused the address of tensor {name!r}")
        if not self._context.execute_async_v3(stream.handle):
            raise RuntimeError(f"{self.name} could not start a batch")

    def close(self) -> None:
        """Frees the device's memory in the order that TensorRT wants: context, engine, runtime."""
        while self.pending:
            self.collect()
        del self._context, self._engine, self._runtime
        super().close()


def _make_context(trt: Any, engine: Any, options: SessionOptions) -> Any:
    """An execution context, None where it cannot be made; of TensorRT-RTX, one whose kernels stay while it works.

    By default that one begins with fallback kernels for a new shape and swaps in better ones when they are compiled, so
    that the same view could give other bits, and other times, from one run to the next.
    """
    strategy = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if strategy is None:
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER
    if options.cuda_graphs:
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(config)


class PlainTensorRTSession(TensorRTSession):
    """TensorRT: every GPU, plans built on the GPU they run on."""

    name = "tensorrt"
    builder = "tensorrt"


class TensorRTRTXSession(TensorRTSession):
    """TensorRT-RTX: plans built anywhere, compiled for the GPU at hand when loaded."""

    name = "tensorrt_rtx"
    builder = "tensorrt-rtx"

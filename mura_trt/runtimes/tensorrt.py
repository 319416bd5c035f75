"""The bundle's plan on a GPU, through TensorRT or TensorRT-RTX (one API, two modules)."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mura_trt.bundle import Bundle
from mura_trt.cuda_devices import cuda_device_count
from mura_trt.errors import RuntimeUnavailable, UsageError
from mura_trt.plan import BUILDERS
from mura_trt.runtimes.base import Scores, Session, SessionOptions
from mura_trt.runtimes.cuda import Device


class TensorRTSession(Session):
    """A deserialised plan, its execution context, and one set of pinned and device buffers."""

    device = "cuda"
    builder = "tensorrt"

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
        super().__init__(bundle.contract, options.batch or tuned)
        self._gpu = Device(options.device)
        try:
            self._engine, self._context = self._load(bundle)
            self._buffers = {
                "image": self._gpu.buffer((self.batch, *self._shape), np.uint8),
                "probability": self._gpu.buffer((self.batch,), np.float32),
                "logit": self._gpu.buffer((self.batch,), np.float32),
                "cam": self._gpu.buffer((self.batch, *self._map_shape), np.float32),
            }
            for name, buffer in self._buffers.items():
                if not self._context.set_tensor_address(name, buffer.address):
                    raise RuntimeUnavailable(f"{self.name} refused the address of tensor {name!r}")
            # Always a full batch, the rest of a short one being what the last one left there: another shape would have
            # other kernels, and a view's score would hang on its company.
            shape = self._buffers["image"].host.shape
            if not self._context.set_input_shape("image", shape):
                raise RuntimeUnavailable(f"{self.name} refused the input shape {shape}")
            self._buffers["image"].clear()
        except RuntimeUnavailable:  # the next runtime must not find our context on its thread
            self._gpu.close()
            raise

    def _load(self, bundle: Bundle) -> tuple[Any, Any]:
        built = bundle.manifest.builder or {}
        module = BUILDERS[self.builder]
        try:
            trt = importlib.import_module(module)
        except Exception as error:  # its loader raises whatever it meets: a missing library, a stub, a driver
            raise RuntimeUnavailable(f"{module} does not import: {error}") from error
        # Deserialising needs the runtime to live as long as the engine, and reports by None and a line in its log.
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        engine = self._runtime.deserialize_cuda_engine(bundle.path("plan").read_bytes())
        context = _make_context(trt, engine) if engine is not None else None
        if context is None:
            major, minor = self._gpu.compute_capability
            raise RuntimeUnavailable(
                f"{module} {trt.__version__} cannot load the plan on {self._gpu.name} (SM{major}{minor}); it was built"
                f" by {built['name']} {built['version']} for {built['targets']}: rebuild it on this machine with"
                f" mura-trt build-engine --builder {self.builder}"
            )
        return engine, context

    def _run(self, images: NDArray[np.uint8]) -> Scores:
        views = len(images)
        self._buffers["image"].host[:views] = images
        self._buffers["image"].upload(views)
        if not self._context.execute_async_v3(self._gpu.stream):
            raise RuntimeError(f"{self.name} could not start a batch of {views} views")
        outputs = [self._buffers[name] for name in ("probability", "logit", "cam")]
        for output in outputs:
            output.download(views)
        self._gpu.synchronise()
        return Scores(*(output.host[:views] for output in outputs))

    def close(self) -> None:
        """Frees the device's memory in the order that TensorRT wants: context, engine, runtime."""
        del self._context, self._engine, self._runtime
        self._gpu.close()


def _make_context(trt: Any, engine: Any) -> Any:
    """An execution context; of TensorRT-RTX, one whose kernels do not change while it works.

    By default it begins with fallback kernels for a new shape and swaps in better ones when they are compiled, so that
    the same view could give other bits, and other times, from one run to the next.
    """
    strategy = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if strategy is None:
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER
    return engine.create_execution_context(config)


class PlainTensorRTSession(TensorRTSession):
    """TensorRT: every GPU, plans built on the GPU they run on."""

    name = "tensorrt"


class TensorRTRTXSession(TensorRTSession):
    """TensorRT-RTX: plans built anywhere, compiled for the GPU at hand when loaded."""

    name = "tensorrt_rtx"
    builder = "tensorrt-rtx"

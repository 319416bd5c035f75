"""The bundle's plan as a session, through TensorRT or TensorRT-RTX."""

from __future__ import annotations

from mura_trt.bundle import Bundle
from mura_trt.cuda_devices import cuda_device_count
from mura_trt.errors import RuntimeUnavailable, UsageError
from mura_trt.runtimes.base import SessionOptions
from mura_trt.runtimes.cuda import Device, Stream
from mura_trt.runtimes.device import DeviceSession, Output
from mura_trt.runtimes.loaded_plan import LoadedPlan


class TensorRTSession(DeviceSession):
    """A plan with batches in flight, of one size."""

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
        least, tuned, most = built["batch"]
        self._sizes = least, most
        self._bundle, self._cuda_graphs = bundle, bool(options.cuda_graphs)
        self._plan: LoadedPlan | None = None
        super().__init__(bundle.contract, options.batch or tuned, Device(options.device))

    @property
    def _loaded(self) -> LoadedPlan:
        assert self._plan is not None
        return self._plan

    def _load(self) -> None:
        self._plan = LoadedPlan(self._bundle, self._gpu.kind, self._cuda_graphs)
        least, most = self._sizes
        if not least <= self.batch <= most:
            raise UsageError(f"--batch {self.batch}: this bundle's plan takes {least} to {most} views")
        shape = (self.batch, *self._shape)
        if not self._plan.context.set_input_shape("image", shape):
            raise RuntimeUnavailable(f"{self.name} refused the input shape {shape}")

    def _try_out(self) -> None:
        super()._try_out()
        self._loaded.keep_kernels()

    def _launch(self, image: int, outputs: dict[str, Output], stream: Stream) -> None:
        context = self._loaded.context
        for name, address in (("image", image), *((name, output.address) for name, output in outputs.items())):
            if not context.set_tensor_address(name, address):
                raise RuntimeError(f"{self.name} refused the address of tensor {name!r}")
        if not context.execute_async_v3(stream.handle):
            raise RuntimeError(f"{self.name} could not start a batch")

    def _release(self) -> None:
        if self._plan is not None:
            self._plan.close()
        self._plan = None


class PlainTensorRTSession(TensorRTSession):
    """TensorRT: every GPU, plans built on the GPU they run on."""

    name = "tensorrt"
    builder = "tensorrt"


class TensorRTRTXSession(TensorRTSession):
    """TensorRT-RTX: plans built anywhere, compiled for the GPU at hand when loaded."""

    name = "tensorrt_rtx"
    builder = "tensorrt-rtx"

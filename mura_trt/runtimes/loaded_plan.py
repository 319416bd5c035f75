"""A bundle's plan on a GPU, by TensorRT or TensorRT-RTX (one API, two modules)."""

from __future__ import annotations

import importlib
from typing import Any

from mura_trt.bundle import Bundle
from mura_trt.cuda_devices import GpuKind
from mura_trt.errors import RuntimeUnavailable
from mura_trt.plan import BUILDERS, header_problem, rebuild, why_not


class LoadedPlan:
    """An engine and its execution context.

    Parameters
    ----------
    bundle
        It has a plan.
    gpu
        What the thread's CUDA device is, on which it is loaded.
    cuda_graphs
        Have TensorRT-RTX run a batch as one CUDA graph.

    Attributes
    ----------
    trt
        The module: ``tensorrt`` or ``tensorrt_rtx``.
    engine, context
        Its ``ICudaEngine`` and ``IExecutionContext``.

    Raises
    ------
    RuntimeUnavailable
        The module does not import, or the plan does not load here; with what rebuilds it.
    """

    def __init__(self, bundle: Bundle, gpu: GpuKind, cuda_graphs: bool = False) -> None:
        built = bundle.manifest.builder
        assert built is not None
        module = BUILDERS[built["name"]]
        try:
            self.trt = importlib.import_module(module)
        except Exception as error:  # its loader raises whatever it meets: a missing library, a stub, a driver
            raise RuntimeUnavailable(f"{module} does not import: {error}") from error
        if problem := why_not(built, self.trt.__version__, gpu):
            raise RuntimeUnavailable(problem)
        self.context: Any = None
        self._kernels: Any = None
        self.engine: Any = None
        # Deserialising needs the runtime to live as long as the engine, and reports by None and a line in its log.
        try:
            self._runtime = self.trt.Runtime(self.trt.Logger(self.trt.Logger.ERROR))
        except TypeError as error:  # all that it says where CUDA does not start
            raise RuntimeUnavailable(f"{module} cannot start here ({error}); look with: mura-trt doctor") from error
        try:
            plan = bundle.path("plan").read_bytes()
            self.engine = self._runtime.deserialize_cuda_engine(plan)
            if self.engine is not None:
                self.context = self._make_context(bundle, gpu, cuda_graphs)
            if self.context is None:
                reason = header_problem(self.trt, self._runtime, plan) or "it does not say why"
                raise RuntimeUnavailable(
                    f"{module} cannot load the plan on {gpu.name} ({reason}); rebuild it: {rebuild(built)}"
                )
        except BaseException:  # whose traceback would keep all this longer than its GPU's context
            self.close()
            raise

    def _make_context(self, bundle: Bundle, gpu: GpuKind, cuda_graphs: bool) -> Any:
        """An execution context, None where it cannot be made; of TensorRT-RTX, one whose kernels stay while it works.

        By default that one begins with fallback kernels for a new shape and swaps in better ones when they are
        compiled, so that the same view could give other bits, and other times, from one run to the next.
        """
        strategy = getattr(self.trt, "DynamicShapesKernelSpecializationStrategy", None)
        if strategy is None:
            return self.engine.create_execution_context()
        config = self.engine.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER
        if cuda_graphs:
            config.cuda_graph_strategy = self.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache = bundle.cache("kernels", self.trt.__version__, gpu.name, gpu.architecture)
        self._kernels = config.create_runtime_cache()
        kept = self._cache.load()
        if kept:
            self._kernels.deserialize(kept)  # of another plan or GPU it takes nothing, and stays empty
        config.set_runtime_cache(self._kernels)
        return self.engine.create_execution_context(config)

    def keep_kernels(self) -> None:
        """Keeps what was compiled for this GPU beside the bundle, once a batch has run; of TensorRT-RTX only."""
        if self._kernels is not None:
            self._cache.save(bytes(memoryview(self._kernels.serialize())))

    def close(self) -> None:
        """Gives all back in the order that TensorRT wants, before the memory that it uses."""
        self.context = None
        self._kernels = None
        self.engine = None
        self._runtime = None

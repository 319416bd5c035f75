"""An ONNX graph to a TensorRT plan, by TensorRT or TensorRT-RTX (one API, two modules)."""

from __future__ import annotations

import functools
import importlib
import logging
import time
from pathlib import Path
from typing import Any

from mura_trt.cuda_devices import cuda_device_count
from mura_trt.errors import EnvironmentProblem

# Builder as the user names it -> Python module.
BUILDERS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
# What a plan runs on. TensorRT-RTX's is its documented default; whether "and later" takes in SM90 is not said there.
TARGETS = {"tensorrt": "this machine's GPU", "tensorrt-rtx": "SM80, SM86, SM89, SM120 and later"}

logger = logging.getLogger(__name__)


def find_builder(choice: str) -> str | None:
    """The builder to use, None for none: TensorRT needs a GPU to build, TensorRT-RTX does not.

    Raises
    ------
    EnvironmentProblem
        The builder that was asked for by name cannot work here.
    """
    if choice == "none":
        return None
    for name in BUILDERS if choice == "auto" else (choice,):
        problem = _why_not(name)
        if problem is None:
            return name
        if choice != "auto":
            raise EnvironmentProblem(f"--builder {name}: {problem}")
        logger.info("builder %s not used: %s", name, problem)
    return None


def _why_not(builder: str) -> str | None:
    if builder == "tensorrt" and cuda_device_count() == 0:
        return "it builds on the GPU it builds for, and there is none here"
    try:
        importlib.import_module(BUILDERS[builder])
    except Exception as error:  # its loader raises whatever it meets: a missing library, a stub, a driver
        return f"{BUILDERS[builder]} does not import ({error}): pip install {builder}"
    return None


def build_plan(builder: str, onnx_path: Path, plan_path: Path, batch: tuple[int, int, int]) -> dict[str, Any]:
    """Compiles an ONNX graph; returns the manifest's ``builder`` entry.

    The network is strongly typed: precision is what the graph says.

    Raises
    ------
    EnvironmentProblem
        The parser or the builder refused, with what it logged.
    """
    trt = importlib.import_module(BUILDERS[builder])
    log = _logger(trt)
    log.errors.clear()
    engine_builder = trt.Builder(log)
    network = engine_builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx_path)):
        raise EnvironmentProblem(f"{builder} cannot parse {onnx_path.name}: {parser.get_error(0).desc()}")
    config = engine_builder.create_builder_config()
    profile = engine_builder.create_optimization_profile()
    height, width, channels = tuple(network.get_input(0).shape)[1:]
    profile.set_shape("image", *((views, height, width, channels) for views in batch))
    config.add_optimization_profile(profile)
    started = time.monotonic()
    plan = engine_builder.build_serialized_network(network, config)
    if plan is None:  # it does not raise; what went wrong is in the log
        raise EnvironmentProblem(f"{builder} could not build {onnx_path.name}: {'; '.join(log.errors) or 'no reason'}")
    plan_path.write_bytes(memoryview(plan))
    return {
        "name": builder,
        "version": trt.__version__,
        "targets": TARGETS[builder],
        "batch": list(batch),
        "seconds": round(time.monotonic() - started, 1),
        "plan_bytes": plan_path.stat().st_size,
    }


def _network_flags(trt: Any) -> int:
    """TensorRT 10 must be asked for strong typing; later versions know nothing else and lack or ignore the flag."""
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if strongly_typed is None else 1 << int(strongly_typed)


@functools.cache
def _logger(trt: Any) -> Any:
    """The one logger of a TensorRT module in this process (it takes no second); keeps the errors it is told."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)
            logger.debug("%s: %s", trt.__name__, message)

    return Logger()

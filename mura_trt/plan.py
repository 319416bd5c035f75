"""An ONNX graph to a TensorRT plan, by TensorRT or TensorRT-RTX (one API, two modules)."""

from __future__ import annotations

import functools
import importlib
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mura_trt.builder_options import DEFAULTS, BuilderOptions
from mura_trt.caches import CacheFile
from mura_trt.cuda_devices import GpuKind, cuda_device_count, gpu_kind
from mura_trt.errors import EnvironmentProblem, UsageError
from mura_trt.timing_cache import load_timings, save_timings, structure_of

# Builder as the user names it -> Python module.
BUILDERS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
# The oldest that TensorRT-RTX builds for unless told.
RTX_LEAST = (8, 0)
# What TensorRT-RTX runs plans on, SM75 where a plan was built for it; beside these all above 12.0. The list is that of
# 1.7.1's refusal of SM90, where it was tried on 2026-11-26 with plans for SM80, for all there are, and for that GPU.
RTX_RUNS_ON = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0))

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


def build_plan(
    builder: str,
    onnx_path: Path,
    plan_path: Path,
    batch: tuple[int, int, int],
    options: BuilderOptions = DEFAULTS,
    timings: Path | None = None,
) -> dict[str, Any]:
    """Compiles an ONNX graph; returns the manifest's ``builder`` entry.

    The network is strongly typed: precision is what the graph says. The plan has one optimisation profile, because a
    session always runs a full batch.

    Parameters
    ----------
    builder
        A key of ``BUILDERS``.
    onnx_path, plan_path
        The graph to read and the plan to write.
    batch
        Views: least, the number the plan is tuned for, most.
    options
        What the builder is told beside.
    timings
        Folder of TensorRT's timing caches, which make the next build on this GPU shorter; None for none. TensorRT-RTX
        measures nothing when it builds, and has none.

    Raises
    ------
    UsageError
        ``options`` are another builder's.
    EnvironmentProblem
        The parser or the builder refused, with what it logged.
    """
    gpu = gpu_kind()
    if options.targets and builder != "tensorrt-rtx":
        raise UsageError(f"builder_options.targets: {builder} builds for the GPU at hand only; tensorrt-rtx takes them")
    if builder == "tensorrt-rtx" and gpu and gpu.compute_capability == (7, 5) and not options.targets:
        options = replace(options, targets=(gpu.architecture,))  # or it could not load what it builds
    trt = importlib.import_module(BUILDERS[builder])
    log = _logger(trt)
    log.errors.clear()
    try:
        engine_builder = trt.Builder(log)
    except TypeError as error:  # all that it says where CUDA does not start
        raise EnvironmentProblem(f"{builder} cannot start here ({error}); look with: mura-trt doctor") from error
    network = engine_builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx_path)):
        raise EnvironmentProblem(f"{builder} cannot parse {onnx_path.name}: {parser.get_error(0).desc()}")
    config = engine_builder.create_builder_config()
    # For the names and precisions of a plan's layers (mura-trt inspect): neither larger nor slower to build with it.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    options.apply(trt, config)
    profile = engine_builder.create_optimization_profile()
    height, width, channels = tuple(network.get_input(0).shape)[1:]
    profile.set_shape("image", *((views, height, width, channels) for views in batch))
    config.add_optimization_profile(profile)
    timed = cache = None
    if timings is not None and builder == "tensorrt" and gpu is not None:
        key = trt.__version__, gpu.name, gpu.architecture, structure_of(onnx_path)
        cache = CacheFile.named(timings, builder, *key)
        timed = load_timings(config, cache)
    started = time.monotonic()
    plan = engine_builder.build_serialized_network(network, config)
    if plan is None:  # it does not raise; what went wrong is in the log
        raise EnvironmentProblem(f"{builder} could not build {onnx_path.name}: {'; '.join(log.errors) or 'no reason'}")
    seconds = time.monotonic() - started
    if cache is not None:
        save_timings(timed, cache)
    plan_path.write_bytes(memoryview(plan))
    return {
        "name": builder,
        "version": trt.__version__,
        "batch": list(batch),
        "options": options.described(),
        "seconds": round(seconds, 1),
        "plan_bytes": plan_path.stat().st_size,
        **_built_for(builder, gpu, options),
    }


def _built_for(builder: str, gpu: GpuKind | None, options: BuilderOptions) -> dict[str, Any]:
    """What of the manifest's ``builder`` entry says where the plan loads: in words, and for :func:`why_not`."""
    if builder == "tensorrt-rtx":
        least = min(map(_capability, options.targets), default=RTX_LEAST)
        targets = ", ".join(options.targets) or "SM80, SM86, SM89, SM120 and later"
        return {"targets": targets, "least_compute_capability": list(least), "compute_capability": None}
    if gpu is None:
        return {"targets": "the GPU it was built on", "least_compute_capability": None, "compute_capability": None}
    return {
        "targets": f"{gpu.name} ({gpu.architecture})",
        "least_compute_capability": None,
        "compute_capability": list(gpu.compute_capability),
    }


def _capability(architecture: str) -> tuple[int, int]:
    """Of ``SM120`` (12, 0)."""
    number = int(architecture.removeprefix("SM"))
    return number // 10, number % 10


def unsupported(builder: str, gpu: GpuKind) -> str | None:
    """That no plan of this builder's runs on a GPU, however it is built; None where one may."""
    capability = gpu.compute_capability
    if builder != "tensorrt-rtx" or capability in RTX_RUNS_ON or capability > (12, 0):
        return None
    return f"TensorRT-RTX does not support {gpu.name} (compute capability {capability[0]}.{capability[1]})"


def why_not(built: Mapping[str, Any], installed: str, gpu: GpuKind) -> str | None:
    """Why a plan cannot load, with the command that rebuilds it; None where it can, or may.

    What nothing rules out is for the library to try: an SM80 plan of TensorRT-RTX on SM86, or a plan on another GPU of
    the same compute capability.

    Parameters
    ----------
    built
        The manifest's ``builder`` entry.
    installed
        Version of the builder's library here.
    gpu
        The one here.
    """
    here, capability = gpu.architecture, gpu.compute_capability
    name, version = built["name"], built["version"]
    exactly, least = built.get("compute_capability"), built.get("least_compute_capability")
    if problem := unsupported(name, gpu):  # whichever release
        return (
            f"{problem}; score with another runtime (--runtime auto does), or with a plan of TensorRT's where that is"
            f" installed; rebuild it: {rebuild(built, 'tensorrt')}"
        )
    if _release(version) != _release(installed):
        problem = f"{name} here is {installed}, and a plan loads with the release that built it alone"
    elif exactly and tuple(exactly) != capability:
        problem = f"the GPU here is {here}, and {name}'s plans load on the architecture that they were built on alone"
    elif least and capability < tuple(least):
        problem = f"the GPU here is {here}, which is older than any that the plan was built for"
    else:
        return None
    return f"the plan was built by {name} {version} for {built['targets']}; {problem}; rebuild it: {rebuild(built)}"


def header_problem(trt: Any, runtime: Any, plan: bytes) -> str | None:
    """What TensorRT-RTX itself finds wrong with a plan on the GPU at hand, by its header; None for nothing.

    TensorRT has no such check, and None. Only where a plan did not load is the answer worth much: the check fails, too,
    where it cannot ask for the GPU.
    """
    check = getattr(runtime, "get_engine_validity", None)
    if check is None:
        return None
    validity, found = check(plan)
    if validity != trt.EngineValidity.INVALID:
        return None
    known = trt.EngineInvalidityDiagnostics.__members__.items()
    return ", ".join(name for name, flag in known if found & int(flag.value)) or "no reason given"


def rebuild(built: Mapping[str, Any], builder: str | None = None) -> str:
    """The command that builds a plan's bundle again, as far as its manifest's ``builder`` entry knows it.

    Parameters
    ----------
    built
        That entry.
    builder
        Another one to build it with.
    """
    if "rebuild" in built:
        if not builder:
            return str(built["rebuild"])
        targets = " (from a recipe without builder_options.targets)" if built.get("options", {}).get("targets") else ""
        return f"{built['rebuild']} --builder {builder}{targets}"  # the last --builder counts
    return f"mura-trt build-engine --checkpoint CHECKPOINT --builder {builder or built['name']} -o BUNDLE --overwrite"


def _release(version: str) -> tuple[str, ...]:
    """The first three numbers: a fourth counts builds of one release."""
    return tuple(version.split(".")[:3])


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

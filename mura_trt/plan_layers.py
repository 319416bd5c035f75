"""A plan's layers as the GPU runs them: kinds, formats, kernels, and the time that each takes."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from mura_trt.bundle import Bundle
from mura_trt.cuda_devices import gpu_kind
from mura_trt.errors import RuntimeUnavailable
from mura_trt.runtimes.cuda import Device
from mura_trt.runtimes.loaded_plan import LoadedPlan

WARM_UP = 3  # runs
RUNS = 10  # that are timed


@dataclass(frozen=True)
class Layer:
    """One layer of a plan, in which many of a graph's may have come together."""

    name: str
    kind: str | None = None
    """As the engine inspector calls it."""
    output: str | None = None
    """Data type and layout of what it writes, likewise."""
    kernel: str | None = None
    ms: float | None = None
    """Milliseconds for a batch, the median of ``RUNS``."""


def plan_layers(bundle: Bundle) -> list[Layer]:
    """Loads a bundle's plan on the GPU, asks for its layers, and times them in batches that it is tuned for.

    Each layer is timed between two events, so that their sum is more than a batch takes when nobody looks.

    Raises
    ------
    RuntimeUnavailable
        No plan, no GPU, or the plan does not load here.
    """
    built = bundle.manifest.builder
    if built is None:
        raise RuntimeUnavailable("the bundle has no plan, hence no layers")
    if gpu_kind() is None:
        raise RuntimeUnavailable("layers are a plan's on a GPU, and there is none here")
    gpu = Device()
    try:
        loaded = LoadedPlan(bundle, gpu.kind)
        trt, engine, context = loaded.trt, loaded.engine, loaded.context
        contract = bundle.contract
        context.set_input_shape("image", (built["batch"][1], contract.height, contract.width, contract.channels))
        for number in range(engine.num_io_tensors):
            name = engine.get_tensor_name(number)
            kind = trt.nptype(engine.get_tensor_dtype(name))
            size = math.prod(context.get_tensor_shape(name)) * np.dtype(kind).itemsize
            context.set_tensor_address(name, gpu.memory(size))
        inspector = engine.create_engine_inspector()
        inspector.execution_context = context  # so that shapes and formats are those of this batch
        layers = layers_of(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
        profiler, stream, done = _profiler(trt), gpu.stream(), gpu.event()
        for number in range(WARM_UP + RUNS):
            if number == WARM_UP:
                context.profiler = profiler
            profiler.begin()
            if not context.execute_async_v3(stream.handle):
                raise RuntimeUnavailable(f"the plan could not run a batch of {built['batch'][1]} views")
            done.record(stream)
            done.synchronize()
        del stream, done, inspector, context, engine  # before what they hang on
        loaded.close()
        return timed_layers(layers, profiler.runs[WARM_UP:])
    finally:
        gpu.close()


def layers_of(information: str) -> list[Layer]:
    """Layers from the engine inspector's JSON; a plan that was built without details tells names alone."""
    return [
        Layer(entry)
        if isinstance(entry, str)
        else Layer(
            str(entry.get("Name", "")),
            entry.get("LayerType"),
            next(map(_type_of, entry.get("Outputs", [])), None),
            entry.get("TacticName"),
        )
        for entry in json.loads(information).get("Layers", [])
    ]


def _type_of(output: Mapping[str, str]) -> str | None:
    """Of one key up to TensorRT 10, of two from 11 on and in TensorRT-RTX."""
    apart = ", ".join(filter(None, (output.get("Datatype"), output.get("Format"))))
    return output.get("Format/Datatype") or apart or None


def timed_layers(layers: Iterable[Layer], runs: Sequence[Mapping[str, float]]) -> list[Layer]:
    """The layers with the median of their times; what was timed under a name that no layer has comes last.

    Parameters
    ----------
    layers
        In the order of execution.
    runs
        Of each run the milliseconds by name.
    """
    times = defaultdict(list)
    for run in runs:
        for name, ms in run.items():
            times[name].append(ms)
    found = [replace(layer, ms=median(times.pop(layer.name))) if layer.name in times else layer for layer in layers]
    return [*found, *(Layer(name, ms=median(ms)) for name, ms in times.items())]


def _profiler(trt: Any) -> Any:
    """What TensorRT reports layers' times to; ``runs`` keeps the milliseconds by name of each."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.runs: list[dict[str, float]] = []

        def begin(self) -> None:
            self.runs.append({})

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.runs[-1][layer_name] = self.runs[-1].get(layer_name, 0.0) + ms

    return Profiler()

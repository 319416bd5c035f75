"""An ONNX file as a bundle's origin."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mura_trt.contract import InputContract
from mura_trt.errors import UsageError
from mura_trt.networks.batch import freed
from mura_trt.networks.meaning import abnormal_of, before_ending, kind_of
from mura_trt.networks.origin import Calibrator, Origin
from mura_trt.networks.original import Batches, OnnxSession
from mura_trt.networks.reading import Input, files_of, input_of, read_model
from mura_trt.networks.tail import Tail, ending_of, tail_of
from mura_trt.networks.told import PROBABILITY, Facts, Told
from mura_trt.networks.trial import agrees, pictures, try_out
from mura_trt.networks.wrapping import wrapped
from mura_trt.precision import Quantization

if TYPE_CHECKING:
    from onnx import ModelProto

    from mura_trt.engine_recipe import Recipe
    from mura_trt.parity.onnx_reference import OnnxReference

logger = logging.getLogger(__name__)


class _Opened(NamedTuple):
    graph: ModelProto
    contract: InputContract
    facts: Facts


class Imported(Origin):
    """A network that somebody has exported, with what they tell of it."""

    def __init__(self, told: Told) -> None:
        self._told = told

    @cached_property
    def _opened(self) -> _Opened:
        return opened(self._told)

    @property
    def network(self) -> str:
        """The file's name."""
        return self._told.model.stem

    @property
    def contract(self) -> InputContract:
        """As the graph and its user have it."""
        return self._opened.contract

    @property
    def files(self) -> list[Path]:
        """The ONNX file, and those beside it that hold its weights."""
        return files_of(self._told.model)

    @property
    def imported(self) -> dict[str, Any]:
        """The graph's facts."""
        return self._opened.facts.described()

    @property
    def versions(self) -> dict[str, str]:
        """Of onnx."""
        import onnx

        return {"onnx": onnx.__version__}

    def graph(self) -> ModelProto:
        """The file's, wrapped and tried out."""
        return self._opened.graph

    def reference(self, ranges: bool) -> OnnxReference:
        """The file itself."""
        from mura_trt.parity.onnx_reference import OnnxReference

        return OnnxReference(self._told.model, self.contract, self._opened.facts, ranges)

    def lowered(self, graph: ModelProto, quantization: Quantization | None) -> ModelProto:
        """Refuses a graph whose operators do not take half precision, or not all that they get in it."""
        lowered = super().lowered(graph, quantization)
        if problem := _unsound(lowered):
            raise UsageError(
                f"{self._told.model}: its graph cannot be put in half precision ({problem}); take --precision fp32"
            )
        return lowered

    def calibrator(self, recipe: Recipe) -> Calibrator:
        """Refused."""
        raise UsageError(
            f"{self._told.model}: --precision {recipe.precision} needs to know what rounding each layer costs, which is"
            " measured by PyTorch's gradients, and an ONNX file has none; take --precision fp16 or fp32"
        )


def opened(told: Told) -> _Opened:
    """Reads, wraps and tries out a file's graph, and says what it takes for granted.

    Raises
    ------
    UsageError
        It cannot be used, or does not say what it has to; with the reason and the way out.
    """
    model = read_model(told.model)
    taken = input_of(model, told)
    mean, std = told.numbers(taken.channels)
    height, width = taken.size
    contract = InputContract(height=height, width=width, map_shape=None, mean=mean, std=std)
    output = _output(model, told)
    columns = _columns(told, contract, taken, output)
    ending = ending_of(model.graph, output)
    scores = kind_of(told, columns, ending)
    facts = Facts(taken.name, taken.layout, taken.batch, output, columns, scores, abnormal_of(told, columns))
    inner = before_ending(facts, ending)
    before = output if inner is facts else ending.before
    free = freed(model, taken)
    with_map = _with_map(told, free, contract, inner, facts, before)
    graph, contract = with_map or (wrapped(free, contract, inner, before, None), contract)
    try_out(graph, told.model, contract, facts)
    if problem := _unsound(graph):
        raise UsageError(f"{told.model}: as a bundle's graph it is not sound: {problem}")
    logger.info("%s: %s", told.model.name, _in_words(taken, contract, facts, inner))
    return _Opened(graph, contract, facts)


def _in_words(taken: Input, contract: InputContract, facts: Facts, inner: Facts) -> str:
    """What was taken for granted, so that its user can say that it is wrong."""
    which = f"column {facts.abnormal} of {facts.columns}" if facts.columns > 1 else "one number"
    own = "" if inner.scores == facts.scores else ", whose last step the bundle does by itself"
    found = "no map" if contract.map_shape is None else "a map of {} x {}".format(*contract.map_shape)
    height, width = taken.size
    return (
        f"takes {height} x {width} pixels of {taken.channels} channels, {taken.layout}, as {facts.input}; gives"
        f" {facts.scores} as {facts.output}, {which}{own}; {found}"
    )


def _output(model: ModelProto, told: Told) -> str:
    names: list[str] = [value.name for value in model.graph.output]
    if told.output is None:
        if len(names) > 1:
            raise UsageError(
                f"{told.model}: it has {len(names)} outputs ({', '.join(names)}); tell which one: --output {names[0]}"
            )
        return names[0]
    if told.output not in names:
        raise UsageError(f"{told.model}: it has no output {told.output}; there are {', '.join(names)}")
    return told.output


def _columns(told: Told, contract: InputContract, taken: Input, output: str) -> int:
    """How many numbers a picture gets; the graph is run for that, since not all tell their output's shape."""
    session = OnnxSession(str(told.model), told.model)
    batches = Batches(session, contract, taken.name, taken.layout, taken.batch)
    ((found,),) = batches.run(pictures(*contract.size)[:1], [output])
    rows = taken.batch or 1
    if not found.ndim or found.shape[0] != rows or found.size != rows * (found.shape[1] if found.ndim > 1 else 1):
        raise UsageError(
            f"{told.model}: its output {output} has shape {found.shape}, and not one number, or a few, for each"
            " picture; name the output that has, with --output"
        )
    return found.shape[1] if found.ndim > 1 else 1


def _with_map(
    told: Told, model: ModelProto, contract: InputContract, inner: Facts, facts: Facts, before: str
) -> tuple[ModelProto, InputContract] | None:
    """The graph whose end is the map's; None where it has no linear tail, or what looks like one gives other scores."""
    tail = None if inner.scores == PROBABILITY else tail_of(model.graph, before)
    if tail is None or len(tail.weight) != facts.columns:
        return None
    shape = _map_shape(told, model, contract, facts, tail)
    if shape is None:
        return None
    contract = replace(contract, map_shape=shape)
    graph = wrapped(model, contract, inner, before, tail)
    return (graph, contract) if agrees(graph, told.model, contract, facts) else None


def _map_shape(
    told: Told, model: ModelProto, contract: InputContract, facts: Facts, tail: Tail
) -> tuple[int, int] | None:
    import onnx
    from onnx import TensorProto, helper

    looked_at = onnx.ModelProto()
    looked_at.CopyFrom(model)
    del looked_at.graph.output[:]
    looked_at.graph.output.append(helper.make_tensor_value_info(tail.features, TensorProto.FLOAT, None))
    session = OnnxSession(looked_at.SerializeToString(), told.model)
    batches = Batches(session, contract, facts.input, facts.layout, None)
    ((features,),) = batches.run(pictures(*contract.size)[:1], [tail.features])
    if features.ndim != 4:
        return None
    height, width = features.shape[1:3] if tail.channels_last else features.shape[2:]
    channels = features.shape[3 if tail.channels_last else 1]
    return (int(height), int(width)) if channels == tail.weight.shape[1] else None


def _unsound(graph: ModelProto) -> str | None:
    """What does not fit, of operators, types and shapes; None where all does."""
    from onnx import checker, shape_inference

    try:
        checker.check_model(graph, full_check=True)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        return " ".join(str(error).split())
    return None

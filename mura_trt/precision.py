"""An FP32 graph in lower precision: half precision throughout the body, and INT8 or FP8 where it is asked for.

Networks for TensorRT are strongly typed, so precision is what the graph says: FP16 is a body of half-precision numbers
between two casts; INT8 is a pair of nodes in front of a convolution, which round its input, and weights stored rounded.
Input, normalisation and head stay FP32. The graph is exported once, and this takes it half a second further.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

HALF_MAX = 65504.0  # the largest finite number of IEEE 754 binary16
# Below it binary16 loses bits, of a scale as of any number.
HALF_LEAST = float(np.finfo(np.float16).smallest_normal)

HEAD = "classifier.weight"  # the convolution that makes the map of the last features
# Of an imported graph's tensors: what its network takes in, and what it gives where there is no such head.
NORMALISED, SCORES = "normalised", "scores"
_STEM, _WEIGHT = "features.conv0.weight", ".weight"
_SINGLE_INPUTS = {"Resize": (1, 2)}  # of operators: inputs that are single precision whatever the others are


class Format(NamedTuple):
    """A narrow number format, symmetric about zero."""

    onnx_type: str
    largest: float
    """The largest number before a scale multiplies it."""


FORMATS = {"int8": Format("INT8", 127.0), "fp8": Format("FLOAT8E4M3FN", 448.0)}


@dataclass(frozen=True)
class Quantization:
    """Which convolutions compute in a narrow format, and over which range."""

    format: str
    """``int8`` or ``fp8``."""
    ranges: Mapping[str, float]
    """Convolution -> the absolute value of its input beyond which all are taken for this one."""
    kept: Collection[str] = ()
    """Convolutions that stay in half precision."""


class Body(NamedTuple):
    """The part of a graph that may compute in lower precision: between tensors, none of which is of it."""

    entries: frozenset[str]
    """What it takes in: normalised pixels, one tensor for each network of an ensemble."""
    exits: frozenset[str]
    """What it gives: each network's last features, or its scores."""

    @classmethod
    def of(cls, graph: GraphProto) -> Body:
        """By the names that the exporter, or the importer, has given."""
        entries: set[str] = set()
        exits: set[str] = set()
        for node in graph.node:
            weight = node.input[1] if node.op_type == "Conv" else ""
            entries |= {node.input[0]} if weight.endswith(_STEM) else {NORMALISED}.intersection(node.output)
            exits |= {node.input[0]} if weight.endswith(HEAD) else {SCORES}.intersection(node.output)
        return cls(frozenset(entries), frozenset(exits))

    def nodes(self, graph: GraphProto) -> list[NodeProto]:
        """Those that hang on what it takes in and come before what it gives, in order."""
        inside, found = set(self.entries), []
        for node in graph.node:
            if inside.intersection(node.input):
                found.append(node)
                inside |= set(node.output) - self.exits
        return found


def lower(model: ModelProto, quantization: Quantization | None = None) -> ModelProto:
    """The graph with its body in half precision, and its convolutions in a narrow format where that is asked for.

    Both roundings are symmetric, as TensorRT wants them: of inputs per tensor, of weights per output channel. Inputs
    are rounded behind the batch norm and ReLU in front of each convolution, and a transition's pooling, which nothing
    else sees; concatenations are not rounded.

    Parameters
    ----------
    model
        An FP32 graph that :func:`mura_trt.export.exported` or :func:`mura_trt.networks.wrapping.wrapped` made; it is
        not changed.
    quantization
        None for half precision alone. It takes convolutions by the names that ``exported`` has given their weights.
    """
    import onnx
    from onnx import TensorProto, helper

    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    graph = lowered.graph
    del graph.value_info[:]  # they tell types of single precision
    weights = {} if quantization is None else _weights(lowered)
    body = Body.of(graph)
    inside = body.nodes(graph)
    _halve(graph, inside)

    def rounded(node: NodeProto) -> Iterator[NodeProto]:
        layer = node.input[1].removesuffix(_WEIGHT) if node.op_type == "Conv" else ""
        if quantization and layer in weights and layer not in quantization.kept:
            yield from _rounded(graph, node, weights[layer], quantization)

    ours = {node.output[0] for node in inside}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.output[0] in ours:
            _rename_inputs(node, body.entries, ".half")
            nodes += rounded(node)
        else:
            _rename_inputs(node, body.exits, ".single")
        nodes.append(node)
        for output in node.output:
            if output in body.entries:
                nodes.append(helper.make_node("Cast", [output], [f"{output}.half"], to=TensorProto.FLOAT16))
            elif output in body.exits:
                nodes.append(helper.make_node("Cast", [output], [f"{output}.single"], to=TensorProto.FLOAT))
    rebuilt = helper.make_graph(nodes, graph.name, graph.input, graph.output, graph.initializer)
    graph.CopyFrom(rebuilt)
    return lowered


def _rename_inputs(node: NodeProto, tensors: Collection[str], suffix: str) -> None:
    for at, name in enumerate(node.input):
        if name in tensors:
            node.input[at] = f"{name}{suffix}"


def _halve(graph: GraphProto, inside: list[NodeProto]) -> None:
    """Puts in half precision what nodes of the body take beside one another's outputs, and what they cast to."""
    from onnx import TensorProto, numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    names: dict[str, None] = {}
    constants = []
    for node in inside:
        single = _SINGLE_INPUTS.get(node.op_type, ())
        names |= dict.fromkeys(name for at, name in enumerate(node.input) if name in tensors and at not in single)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
            if attribute.HasField("t"):
                constants.append(attribute.t)
    for tensor in [*(tensors[name] for name in names), *constants]:
        if tensor.data_type == TensorProto.FLOAT:
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))


def _weights(model: ModelProto) -> dict[str, NDArray[np.float32]]:
    """Convolution -> its weight, in single precision."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    return {name: numpy_helper.to_array(tensors[f"{name}{_WEIGHT}"]) for name in convolutions(model)}


def _rounded(
    graph: GraphProto, node: NodeProto, exact: NDArray[np.float32], quantization: Quantization
) -> Iterator[NodeProto]:
    """Nodes for input and weight of a convolution; a scale of half precision is what half-precision nodes take."""
    from onnx import TensorProto, helper, numpy_helper

    weight = node.input[1]
    layer = weight.removesuffix(_WEIGHT)
    narrow, largest = FORMATS[quantization.format], quantization.ranges[layer]
    values, scales = _round_weights(exact, narrow)
    kind = TensorProto.DataType.Value(narrow.onnx_type)
    stored = next(tensor for tensor in graph.initializer if tensor.name == weight)
    stored.CopyFrom(helper.make_tensor(weight, kind, values.shape, values.tobytes(), raw=True))
    graph.initializer.extend(
        [
            numpy_helper.from_array(scales, f"{layer}.weight_scale"),
            helper.make_tensor(f"{layer}.weight_zero", kind, scales.shape, bytes(scales.size), raw=True),
            numpy_helper.from_array(np.array(_scale(largest, narrow), np.float16), f"{layer}.input_scale"),
            helper.make_tensor(f"{layer}.input_zero", kind, (), bytes(1), raw=True),
        ]
    )
    of_input, of_weight = ([f"{layer}.{part}_scale", f"{layer}.{part}_zero"] for part in ("input", "weight"))
    yield helper.make_node("DequantizeLinear", [weight, *of_weight], [f"{layer}.weight_rounded"], axis=0)
    yield helper.make_node("QuantizeLinear", [node.input[0], *of_input], [f"{layer}.input_narrow"])
    yield helper.make_node("DequantizeLinear", [f"{layer}.input_narrow", *of_input], [f"{layer}.input_rounded"])
    node.input[0], node.input[1] = f"{layer}.input_rounded", f"{layer}.weight_rounded"


def raised(model: ModelProto) -> ModelProto:
    """A lowered graph that computes in FP32 between its roundings, as a CPU can: all it rounds to is what it says.

    What half precision does to intermediate values is left out; weights, and what is rounded to a narrow format, are
    those of the graph.
    """
    import onnx
    from onnx import TensorProto, numpy_helper

    single = onnx.ModelProto()
    single.CopyFrom(model)
    for tensor in single.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in single.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT16:
                values = numpy_helper.to_array(attribute.t).astype(np.float32)
                attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))
    return single


def convolutions(model: ModelProto) -> list[str]:
    """The body's convolutions, such as ``features.denseblock1.denselayer1.conv1``, in the order they run in."""
    return [
        node.input[1].removesuffix(_WEIGHT)
        for node in model.graph.node
        if node.op_type == "Conv" and not node.input[1].endswith(HEAD)
    ]


def _scale(largest: NDArray[np.float32] | float, narrow: Format) -> NDArray[np.float32]:
    """What a narrow number is multiplied by, as half precision has it."""
    scale = np.maximum(np.asarray(largest, np.float32) / narrow.largest, HALF_LEAST)
    return np.asarray(scale.astype(np.float16), np.float32)


def _round_weights(weight: NDArray[np.float32], narrow: Format) -> tuple[NDArray[np.generic], NDArray[np.float16]]:
    """A convolution's weight (out, in, h, w) in a narrow format, and its scales (out,)."""
    scale = _scale(np.abs(weight).max((1, 2, 3)), narrow)
    scaled = np.clip(weight / scale[:, None, None, None], -narrow.largest, narrow.largest)
    if narrow.onnx_type == "INT8":
        return np.rint(scaled).astype(np.int8), scale.astype(np.float16)
    import ml_dtypes

    return scaled.astype(ml_dtypes.float8_e4m3fn), scale.astype(np.float16)

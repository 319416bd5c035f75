"""How a graph ends: what its scores are, and the linear tail behind which a class activation map stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

# They leave every number as it is; of scores, and of features that were pooled to one position, the order, too.
_SHAPES = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout")
_SQUASHERS = ("Sigmoid", "Softmax", "LogSoftmax")


class Ending(NamedTuple):
    """The last step of a graph."""

    squasher: str | None
    """``Sigmoid``, ``Softmax`` or ``LogSoftmax``; None of a graph that ends in none of them."""
    before: str
    """The tensor in front of that, or else the output itself."""


class Tail(NamedTuple):
    """Features, their mean over all positions, and one linear layer: numbers (n, outputs)."""

    features: str
    """The last features' tensor."""
    channels_last: bool
    """Whether that is (n, h, w, C), and not (n, C, h, w)."""
    weight: NDArray[np.float32]
    """(outputs, C)."""
    bias: NDArray[np.float32]
    """(outputs,)."""


class _Reader:
    """A graph read from its end."""

    def __init__(self, graph: GraphProto) -> None:
        self._made_by = {output: node for node in graph.node for output in node.output}
        self._stored = {tensor.name: tensor for tensor in graph.initializer}

    def maker(self, tensor: str) -> NodeProto | None:
        """What makes a tensor, but for what only changes its shape; None of an input or an initializer."""
        node = self._made_by.get(tensor)
        while node is not None and node.op_type in _SHAPES:
            node = self._made_by.get(node.input[0])
        return node

    def value(self, tensor: str) -> NDArray[Any] | None:
        """Of an initializer; None of what is computed."""
        from onnx import numpy_helper

        stored: TensorProto | None = self._stored.get(tensor)
        return None if stored is None else numpy_helper.to_array(stored)


def ending_of(graph: GraphProto, output: str) -> Ending:
    """What squashes the numbers of an output, if anything does."""
    node = _Reader(graph).maker(output)
    if node is None or node.op_type not in _SQUASHERS:
        return Ending(None, output)
    return Ending(node.op_type, node.input[0])


def tail_of(graph: GraphProto, scores: str) -> Tail | None:
    """The tail that ends in a tensor; None where the graph ends otherwise.

    What it finds has the right kind, not yet the right shape: that its numbers are the graph's is for a trial to show.
    """
    reader = _Reader(graph)
    node = reader.maker(scores)
    if node is None:
        return None
    linear = _linear(reader, node)
    if linear is None:
        return None
    source, weight, bias = linear
    pool = reader.maker(source)
    if pool is None:
        return None
    last = _pools(reader, pool)
    return None if last is None else Tail(pool.input[0], last, weight, bias)


def _linear(reader: _Reader, node: NodeProto) -> tuple[str, NDArray[np.float32], NDArray[np.float32]] | None:
    """Input, weight (outputs, C) and bias (outputs,) of a linear layer, by its last node."""
    bias: NDArray[Any] | None = None
    if node.op_type == "Add":
        found = [(reader.value(one), other) for one, other in (node.input, reversed(node.input))]
        known = [(values, other) for values, other in found if values is not None]
        if len(known) != 1:
            return None
        bias, rest = known[0]
        maker = reader.maker(rest)
        if maker is None or maker.op_type != "MatMul":
            return None
        node = maker
    if node.op_type not in ("MatMul", "Gemm", "Conv"):
        return None
    weight = reader.value(node.input[1])
    if weight is None:
        return None
    options = _attributes(node)
    if node.op_type == "MatMul":
        weight = weight.T
    elif node.op_type == "Gemm":
        if options.get("transA"):
            return None
        weight = options.get("alpha", 1.0) * (weight if options.get("transB") else weight.T)
    elif weight.shape[2:] != (1, 1) or options.get("group", 1) != 1:
        return None
    else:
        weight = weight[:, :, 0, 0]
    if weight.ndim != 2:
        return None
    if node.op_type != "MatMul" and len(node.input) > 2:
        bias = reader.value(node.input[2])
        if bias is None:
            return None
        bias = options.get("beta", 1.0) * bias
    added = np.zeros(1) if bias is None else np.ravel(bias)
    if len(added) not in (1, len(weight)):
        return None
    return node.input[0], weight.astype(np.float32), np.broadcast_to(added, len(weight)).astype(np.float32)


def _pools(reader: _Reader, node: NodeProto) -> bool | None:
    """Whether a node averages over all positions: True of (n, h, w, C), False of (n, C, h, w), None if it does not."""
    if node.op_type == "GlobalAveragePool":
        return False
    if node.op_type == "AveragePool":  # over all of them or not: the trial shows it
        options = _attributes(node)
        return None if any(options.get("pads", ())) else False
    if node.op_type != "ReduceMean":
        return None
    axes = _attributes(node).get("axes")
    if axes is None and len(node.input) > 1 and (given := reader.value(node.input[1])) is not None:
        axes = given.tolist()
    match sorted(axis % 4 for axis in axes or ()):
        case [2, 3]:
            return False
        case [1, 2]:
            return True
    return None


def _attributes(node: NodeProto) -> Mapping[str, Any]:
    from onnx import helper

    attributes: list[AttributeProto] = list(node.attribute)
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in attributes}

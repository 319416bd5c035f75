"""Somebody's graph with what a bundle's has around it: raw gray pixels in; probability, logit and map out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mura_trt.contract import InputContract
from mura_trt.networks.tail import Tail
from mura_trt.networks.told import CLASSES, LEAST_PROBABILITY, PROBABILITY, Facts
from mura_trt.precision import HEAD, NORMALISED, SCORES

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

PREFIX = "network/"  # of all its names, so that none is one of ours
LEAST_IR = 8  # version of the file format; the first that came with operators of a bundle's kind


class Wrapping:
    """Nodes and numbers that come to a graph's own.

    Parameters
    ----------
    contract
        What the bundle takes and gives.
    facts
        What the graph takes and gives.
    """

    def __init__(self, contract: InputContract, facts: Facts) -> None:
        self._contract, self._facts = contract, facts
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []

    def _node(self, kind: str, inputs: Iterable[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, [*inputs], [output], **attributes))
        return output

    def _number(self, name: str, values: NDArray[np.generic] | np.generic) -> str:
        from onnx import numpy_helper

        self.tensors.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def normalise(self) -> None:
        """``image`` to ``NORMALISED``, with a cast before the transposition as TensorRT-RTX wants it."""
        from onnx import TensorProto

        planes = self._node("Cast", ["image"], "pixels", to=TensorProto.FLOAT)
        shape = (1, 1, 1, -1)
        if self._facts.layout == "NCHW":
            planes, shape = self._node("Transpose", [planes], "planes", perm=[0, 3, 1, 2]), (1, -1, 1, 1)
        mean = 255 * np.array(self._contract.mean, np.float64)
        scale = 1 / (255 * np.array(self._contract.std, np.float64))
        centred = self._node("Sub", [planes, self._number("mean", np.float32(mean).reshape(shape))], "centred")
        self._node("Mul", [centred, self._number("scale", np.float32(scale).reshape(shape))], NORMALISED)

    def score_map(self, tail: Tail) -> None:
        """Last features to the map, and that to the logit: its mean plus the bias, as in our own networks."""
        features, facts = tail.features, self._facts
        if tail.channels_last:
            features = self._node("Transpose", [features], "features", perm=[0, 3, 1, 2])
        weight, bias = tail.weight[facts.abnormal], tail.bias[facts.abnormal]
        if facts.scores == CLASSES:
            weight, bias = weight - tail.weight[1 - facts.abnormal], bias - tail.bias[1 - facts.abnormal]
        head = self._number(HEAD, weight[None, :, None, None])
        plane = self._node("Conv", [features, head], "map")
        self._node("Squeeze", [plane, self._number("channel", np.array([1]))], "cam")
        mean = self._node("GlobalAveragePool", [plane], "mean_of_map")
        flat = self._node("Reshape", [mean, self._number("views", np.array([-1]))], "mean_of_view")
        self._node("Add", [flat, self._number("classifier.bias", np.float32(bias))], "logit")
        self._node("Sigmoid", ["logit"], "probability")

    def score(self) -> None:
        """``SCORES`` to logit and probability, of a graph with no map."""
        facts = self._facts
        rows = self._node("Reshape", [SCORES, self._number("rows", np.array([-1, facts.columns]))], "columns")
        wanted = self._column(rows, facts.abnormal, "wanted")
        if facts.scores == PROBABILITY:
            self._node("Identity", [wanted], "probability")
            ends = (
                self._number("least", np.float32(LEAST_PROBABILITY)),
                self._number("most", np.float32(1 - LEAST_PROBABILITY)),
            )
            inside = self._node("Clip", [wanted, *ends], "inside")
            other = self._node("Sub", [self._number("one", np.float32(1)), inside], "other")
            logs = [self._node("Log", [part], f"log_{part}") for part in (inside, other)]
            self._node("Sub", logs, "logit")
            return
        if facts.scores == CLASSES:
            self._node("Sub", [wanted, self._column(rows, 1 - facts.abnormal, "against")], "logit")
        else:
            self._node("Identity", [wanted], "logit")
        self._node("Sigmoid", ["logit"], "probability")

    def _column(self, rows: str, number: int, name: str) -> str:
        return self._node("Gather", [rows, self._number(f"{name}_at", np.array(number))], name, axis=1)


def wrapped(model: ModelProto, contract: InputContract, facts: Facts, before: str, tail: Tail | None) -> ModelProto:
    """A bundle's FP32 graph.

    Parameters
    ----------
    model
        A graph with a free batch; it is not changed.
    contract
        Its size, numbers and map.
    facts
        What it takes and gives; of what it gives, as ``before`` has it.
    before
        The tensor that its scores are taken from.
    tail
        Its end, which gives way to the map's; None where there is no map.
    """
    from onnx import TensorProto, compose, helper

    renamed = compose.add_prefix(model, PREFIX).graph
    new_names = {PREFIX + facts.input: NORMALISED}
    if tail is None:
        new_names[PREFIX + before] = SCORES
    else:
        tail = tail._replace(features=PREFIX + tail.features)
    for node in renamed.node:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                names[at] = new_names.get(name, name)
    start, end = Wrapping(contract, facts), Wrapping(contract, facts)
    start.normalise()
    if tail is None:
        end.score()
    else:
        end.score_map(tail)
    nodes = _needed([*start.nodes, *renamed.node, *end.nodes], contract.outputs)
    used = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in (*start.tensors, *renamed.initializer, *end.tensors) if tensor.name in used]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["views", contract.height, contract.width, 1])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["views", *contract.output_shape(name)])
        for name in contract.outputs
    ]
    graph = helper.make_graph(nodes, "mura-trt", [image], outputs, tensors)
    opsets = [helper.make_opsetid(one.domain, one.version) for one in model.opset_import]
    return helper.make_model(graph, opset_imports=opsets, ir_version=max(model.ir_version, LEAST_IR))


def _needed(nodes: list[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """Those that the outputs hang on, in order."""
    wanted, found = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            found.append(node)
            wanted |= set(node.input)
    return found[::-1]

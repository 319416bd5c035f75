"""The original ONNX file as a bundle's reference: its preprocessing in NumPy, its graph in FP32 by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mura_trt.contract import InputContract
from mura_trt.errors import UsageError
from mura_trt.networks.original import Batches, OnnxSession, Original
from mura_trt.networks.reading import read_model
from mura_trt.networks.told import Facts
from mura_trt.parity.reference import Reference
from mura_trt.precision import HALF_MAX

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# What they give is no larger than what they take.
_NOTHING_LARGER = (
    "Concat", "Dropout", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Relu", "Reshape", "Sigmoid", "Slice",
    "Softmax", "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip


class OnnxReference(Reference):
    """The file itself: nothing that was made of it is in what it gives.

    Parameters
    ----------
    path
        The ONNX file.
    contract, facts
        The bundle's: size and numbers of the pictures, and how the graph takes them and what it gives.
    ranges
        Have it note how large its values become, for which the graph is run once more.

    Raises
    ------
    UsageError
        The file cannot be used.
    """

    def __init__(self, path: Path, contract: InputContract, facts: Facts, ranges: bool) -> None:
        super().__init__()
        self._path, self._contract, self._facts = path, contract, facts
        self._original = Original(path, contract, facts)
        self._layers: list[str] = []
        if not ranges:
            return
        model = read_model(path)
        self._layers = watched(model)
        session = OnnxSession(model.SerializeToString(), path)
        self._batches = Batches(session, contract, facts.input, facts.layout, facts.batch)

    def scores(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Probability and logit, float32 (n,) each, of uint8 (n, H, W, 1)."""
        if self._layers:
            self._note(pixels)
        probability, logit = self._original.scores(pixels)
        return probability, logit

    def half_scores(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The probability where weights, and what each node gives, are rounded to half precision; sums are in FP32.

        That is how a GPU's tensor cores do it. ONNX Runtime's own half precision would show nothing on a CPU, where it
        computes one node after another in FP32 without rounding in between.
        """
        session = OnnxSession(in_half(read_model(self._path)).SerializeToString(), self._path, as_written=True)
        return Original(self._path, self._contract, self._facts, session).scores(pixels)[0]

    def _note(self, pixels: NDArray[np.uint8]) -> None:
        names = [name for layer in self._layers for name in (_largest(layer), _finite(layer))]
        for outputs in self._batches.run(pixels, names):
            for layer, largest, finite in zip(self._layers, outputs[::2], outputs[1::2], strict=True):
                value = float(largest) if float(finite) == 0 else np.inf
                self.largest[layer] = max(self.largest.get(layer, 0.0), value)


def watched(model: ModelProto) -> list[str]:
    """Adds outputs that tell how large each tensor becomes; returns the tensors' names.

    A maximum may pass over what is no number: beside it goes the sum of all values times 0, which then is none itself.
    """
    from onnx import TensorProto, helper, numpy_helper, shape_inference

    graph = model.graph
    inferred = shape_inference.infer_shapes(model).graph
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    layers = [value.name for value in graph.input if kinds[value.name] == TensorProto.FLOAT]
    layers += [
        output
        for node in graph.node
        for output in node.output
        if node.op_type not in _NOTHING_LARGER and kinds.get(output) == TensorProto.FLOAT
    ]
    if not layers:
        raise UsageError("the graph does not tell the types of its tensors, so that their range cannot be looked at")
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "mura-trt/nothing"))
    del graph.output[:]
    for layer in layers:
        graph.node.extend(
            [
                helper.make_node("Abs", [layer], [f"{layer}/size"]),
                helper.make_node("ReduceMax", [f"{layer}/size"], [_largest(layer)], keepdims=0),
                helper.make_node("Mul", [layer, "mura-trt/nothing"], [f"{layer}/nothing"]),
                helper.make_node("ReduceSum", [f"{layer}/nothing"], [_finite(layer)], keepdims=0),
            ]
        )
        for name in (_largest(layer), _finite(layer)):
            graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
    return layers


def in_half(model: ModelProto) -> ModelProto:
    """Rounds weights, the picture and all features to the 11 bits of half precision, and to infinity beyond its range.

    By Veltkamp's splitting in single precision: with c = 2^13 + 1, x is rounded to c x - (c x - x) (Dekker 1971). What
    is below the smallest normal number keeps its bits. Tensors of fewer than three dimensions, which a network's head
    has, are left as they are. ``model`` is changed and returned.
    """
    from onnx import TensorProto, helper, numpy_helper, shape_inference

    graph = model.graph
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    stored = {tensor.name for tensor in graph.initializer}  # of which some files tell the shape, too
    features = {
        value.name
        for value in (*inferred.input, *inferred.value_info)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and len(value.type.tensor_type.shape.dim) > 2
    } - stored
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            with np.errstate(over="ignore"):  # to infinity, as it is meant
                half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half.astype(np.float32), tensor.name))

    def rounding(name: str) -> list[NodeProto]:
        return [
            helper.make_node("Mul", [name, "mura-trt/split"], [f"{name}/wide"]),
            helper.make_node("Sub", [f"{name}/wide", name], [f"{name}/rest"]),
            helper.make_node("Sub", [f"{name}/wide", f"{name}/rest"], [f"{name}/short"]),
            helper.make_node("Abs", [f"{name}/short"], [f"{name}/size"]),
            helper.make_node("Greater", [f"{name}/size", "mura-trt/most"], [f"{name}/beyond"]),
            helper.make_node("Mul", [f"{name}/short", "mura-trt/huge"], [f"{name}/infinite"]),
            helper.make_node("Where", [f"{name}/beyond", f"{name}/infinite", f"{name}/short"], [f"{name}/half"]),
        ]

    nodes = [node for value in graph.input for node in rounding(value.name)]
    for node in graph.node:
        for at, name in enumerate(node.input):
            if name in features:
                node.input[at] = f"{name}/half"
        nodes.append(node)
        nodes += [node for name in node.output if name in features for node in rounding(name)]
    constants = {"mura-trt/split": 2.0**13 + 1, "mura-trt/most": HALF_MAX, "mura-trt/huge": 3e38}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()
    )
    rebuilt = helper.make_graph(nodes, graph.name, graph.input, graph.output, graph.initializer)
    graph.CopyFrom(rebuilt)
    return model


def _largest(layer: str) -> str:
    return f"{layer}/largest"


def _finite(layer: str) -> str:
    return f"{layer}/finite"

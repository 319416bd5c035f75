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

if TYPE_CHECKING:
    from onnx import ModelProto

# What they give is no larger than what they take.
_NOTHING_LARGER = (
    "Concat", "Dropout", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Relu", "Reshape", "Sigmoid", "Slice",
    "Softmax", "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip


class OnnxReference(Reference):
    """The file itself: nothing that was made of it is in what it gives.

    It has no half precision: ONNX Runtime computes that in FP32 on a CPU, which would show nothing.

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
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}
    layers = [
        output
        for node in graph.node
        for output in node.output
        if node.op_type not in _NOTHING_LARGER and kinds.get(output) == TensorProto.FLOAT
    ]
    if not layers:
        raise UsageError("the graph does not tell the types of its tensors, so that their range cannot be looked at")
    graph.initializer.append(numpy_helper.from_array(np.float32(0), "nothing"))
    del graph.output[:]
    for layer in layers:
        graph.node.extend(
            [
                helper.make_node("Abs", [layer], [f"{layer}/size"]),
                helper.make_node("ReduceMax", [f"{layer}/size"], [_largest(layer)], keepdims=0),
                helper.make_node("Mul", [layer, "nothing"], [f"{layer}/nothing"]),
                helper.make_node("ReduceSum", [f"{layer}/nothing"], [_finite(layer)], keepdims=0),
            ]
        )
        for name in (_largest(layer), _finite(layer)):
            graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
    return layers


def _largest(layer: str) -> str:
    return f"{layer}/largest"


def _finite(layer: str) -> str:
    return f"{layer}/finite"

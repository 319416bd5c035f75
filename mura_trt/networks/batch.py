"""A graph that takes one picture, or a fixed number of them, made to take any number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mura_trt.networks.reading import Input

if TYPE_CHECKING:
    from onnx import ModelProto


def freed(model: ModelProto, taken: Input) -> ModelProto:
    """The graph with any number of pictures of one size as its input.

    What was exported for a fixed batch has that number in its shapes: in those of inputs and outputs, which only tell,
    and in the targets of reshapes, where it is replaced by "what is left", or, where something else is that already, by
    "as it was". Whether the graph then computes for each picture what it did is for a trial to show.

    Parameters
    ----------
    model
        With constants among the initializers; it is not changed.
    taken
        How it takes pictures.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    found = onnx.ModelProto()
    found.CopyFrom(model)
    graph = found.graph
    del graph.input[:], graph.value_info[:]
    graph.input.append(helper.make_tensor_value_info(taken.name, TensorProto.FLOAT, taken.shape("views")))
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    if taken.batch is None:
        return found
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for number, node in enumerate(graph.node):
        if node.op_type != "Reshape" or node.input[1] not in stored:
            continue
        target = numpy_helper.to_array(stored[node.input[1]])
        zero_is_zero = any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute)
        if not target.size or target[0] != taken.batch or (-1 in target and zero_is_zero):
            continue
        free = np.array([0 if -1 in target else -1, *target[1:]], np.int64)
        name = f"{node.input[1]}.of_node_{number}"
        graph.initializer.append(numpy_helper.from_array(free, name))
        node.input[1] = name
    return found

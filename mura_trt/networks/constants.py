"""Numbers of an ONNX graph that are the same for every picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto

_RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")


def gather_constants(model: ModelProto) -> None:
    """Has every number that does not hang on the picture among the initializers, where it is looked for.

    It may be a node of its own, or computed of others: a weight that two layers share comes by way of an Identity.

    Parameters
    ----------
    model
        Of standard operators; it is changed.
    """
    _take_nodes(model)
    _compute(model)


def _take_nodes(model: ModelProto) -> None:
    from onnx import numpy_helper

    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type != "Constant":
            kept.append(node)
            continue
        (attribute,) = node.attribute
        match attribute.name:
            case "value":
                tensor = attribute.t
            case "value_float" | "value_floats":
                values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
                tensor = numpy_helper.from_array(np.array(values, np.float32))
            case "value_int" | "value_ints":
                values = attribute.i if attribute.name == "value_int" else list(attribute.ints)
                tensor = numpy_helper.from_array(np.array(values, np.int64))
            case _:  # texts and sparse ones
                kept.append(node)
                continue
        added = graph.initializer.add()
        added.CopyFrom(tensor)
        added.name = node.output[0]
    del graph.node[:]
    graph.node.extend(kept)
    # Old files list initializers among the inputs, too.
    inputs = [value for value in graph.input if value.name not in stored]
    del graph.input[:]
    graph.input.extend(inputs)


def _compute(model: ModelProto) -> None:
    """Nodes that take initializers alone, and those that take what they give, are replaced by what they give."""
    from onnx import TensorProto, helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    known = {tensor.name for tensor in graph.initializer}
    ready, rest = [], []
    for node in graph.node:
        inputs = [name for name in node.input if name]
        if inputs and known.issuperset(inputs) and node.op_type not in _RANDOM:
            ready.append(node)
            known |= set(node.output)
        else:
            rest.append(node)
    used = {name for node in rest for name in node.input} | {value.name for value in graph.output}
    wanted = [name for node in ready for name in node.output if name in used]
    if wanted:
        outputs = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in wanted]
        part = helper.make_graph(ready, "constants", [], outputs, graph.initializer)
        values = ReferenceEvaluator(helper.make_model(part, opset_imports=model.opset_import)).run(None, {})
        graph.initializer.extend(
            numpy_helper.from_array(np.asarray(value), name) for name, value in zip(wanted, values, strict=True)
        )
    del graph.node[:]
    graph.node.extend(rest)

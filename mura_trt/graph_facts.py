"""What an ONNX graph consists of, and how much it computes for a view."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mura_trt.errors import BundleError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


@dataclass(frozen=True)
class GraphFacts:
    """Of one graph."""

    operators: dict[str, int]
    """Kind -> how many, most frequent first."""
    parameters: int
    """Numbers that the graph stores: weights, statistics and scales."""
    convolutions: dict[str, int]
    """Precision that it computes in (``fp32``, ``fp16``, ``int8``, ``fp8``) -> how many."""
    gflop: dict[str, float]
    """Likewise: 10^9 operations for one view, a multiplication and an addition being two; convolutions and matrices
    only."""

    @property
    def gflop_per_view(self) -> float:
        """Of all precisions."""
        return sum(self.gflop.values())


def graph_facts(path: Path) -> GraphFacts:
    """Counts an ONNX file.

    Raises
    ------
    BundleError
        It cannot be read, or its shapes cannot be told.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx.shape_inference import InferenceError, infer_shapes

    try:
        model = onnx.load(path)
        for value in model.graph.input:  # one view, so that all that follows is of one
            value.type.tensor_type.shape.dim[0].dim_value = 1
        model = infer_shapes(model, strict_mode=True, data_prop=True)
    except (OSError, DecodeError, InferenceError) as error:
        raise BundleError(f"{path}: not a readable ONNX graph: {error}") from error
    graph = model.graph
    kinds = Counter(node.op_type for node in graph.node)
    shapes, types = _tensors(model)
    made_by = {output: node for node in graph.node for output in node.output}
    convolutions: Counter[str] = Counter()
    operations: Counter[str] = Counter()
    for node in graph.node:
        try:
            done = _multiplications(node, shapes)
        except KeyError as error:
            raise BundleError(
                f"{path}: the shape of tensor {error} cannot be told without running the graph"
            ) from error
        if done is None:
            continue
        precision = _precision(node, types, made_by)
        operations[precision] += 2 * done
        if node.op_type == "Conv":
            convolutions[precision] += 1
    return GraphFacts(
        operators=dict(kinds.most_common()),
        parameters=sum(math.prod(tensor.dims) for tensor in graph.initializer),
        convolutions=dict(convolutions.most_common()),
        gflop={precision: count / 1e9 for precision, count in operations.most_common()},
    )


def _tensors(model: ModelProto) -> tuple[dict[str, list[int]], dict[str, int]]:
    """Shape and ONNX data type of every tensor."""
    graph = model.graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        shapes[value.name] = [dimension.dim_value for dimension in tensor.shape.dim]
        types[value.name] = tensor.elem_type
    return shapes, types


def _multiplications(node: NodeProto, shapes: dict[str, list[int]]) -> int | None:
    """Of a convolution or a product of matrices; None of anything else."""
    if node.op_type not in ("Conv", "MatMul", "Gemm"):
        return None
    outputs = math.prod(shapes[node.output[0]])
    if node.op_type == "Conv":
        _, *of_one_output = shapes[node.input[1]]
        return outputs * math.prod(of_one_output)
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return outputs * shapes[node.input[0]][0 if transposed else -1]


def _precision(node: NodeProto, types: dict[str, int], made_by: dict[str, NodeProto]) -> str:
    """What a node's first input comes in: of one that is rounded to a narrow format, this."""
    from onnx import TensorProto

    names: dict[int, str] = {
        TensorProto.FLOAT: "fp32",
        TensorProto.FLOAT16: "fp16",
        TensorProto.INT8: "int8",
        TensorProto.FLOAT8E4M3FN: "fp8",
    }
    tensor = node.input[0]
    source = made_by.get(tensor)
    if source is not None and source.op_type == "DequantizeLinear":
        tensor = source.input[0]
    kind = types[tensor]
    return names.get(kind) or str(TensorProto.DataType.Name(kind)).lower()

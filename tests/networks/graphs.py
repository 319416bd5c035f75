"""Small networks in ONNX files, as somebody else might have exported them, with the ends that people really use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

FEATURES = 16


@dataclass(frozen=True)
class Small:
    """Two convolutions with ReLU, a pool and an end."""

    head: str = "gemm"
    """See ``_HEADS``."""
    columns: int = 1
    squash: str | None = None
    """``Sigmoid``, ``Softmax`` or ``LogSoftmax``."""
    layout: str = "NCHW"
    channels: int = 3
    size: tuple[int | str, int | str] = (48, 32)
    batch: int | str = "n"
    opset: int = 17
    seed: int = 0

    @property
    def shape(self) -> list[int | str]:
        if self.layout == "NCHW":
            return [self.batch, self.channels, *self.size]
        return [self.batch, *self.size, self.channels]

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Of sizes that make logits of about 1."""
        random = np.random.default_rng(self.seed)

        def normal(*shape: int) -> NDArray[np.float32]:
            return random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)

        wide = normal(self.columns, FEATURES) * 2
        return {
            "first": normal(8, self.channels, 3, 3),
            "second": normal(FEATURES, 8, 3, 3),
            "weight": wide,
            "bias": np.linspace(-0.5, 0.5, self.columns, dtype=np.float32)
            if self.columns > 1
            else np.array([0.25], np.float32),
        }

    def model(self) -> onnx.ModelProto:
        weights = self.weights()
        nodes: list[NodeProto] = []
        tensors = {name: weights[name] for name in ("first", "second")}

        def node(kind: str, inputs: Iterable[str], output: str, **attributes: Any) -> str:
            nodes.append(helper.make_node(kind, [*inputs], [output], name=f"node_{output}", **attributes))
            return output

        x = "picture"
        if self.layout == "NHWC":
            x = node("Transpose", [x], "planes", perm=[0, 3, 1, 2])
        x = node("Conv", [x, "first"], "conv1", pads=[1, 1, 1, 1], strides=[4, 4])
        x = node("Relu", [x], "relu1")
        x = node("Conv", [x, "second"], "conv2", pads=[1, 1, 1, 1], strides=[2, 2])
        x = node("Relu", [x], "features")
        scores, more = _HEADS[self.head](self, node, x, weights)
        tensors |= more
        if self.squash:
            scores = node(self.squash, [scores], "squashed", **({} if self.squash == "Sigmoid" else {"axis": 1}))
        graph = helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info("picture", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(scores, TensorProto.FLOAT, [self.batch, self.columns])],
            [numpy_helper.from_array(np.asarray(values), name) for name, values in tensors.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def write(self, path: Path) -> Path:
        onnx.save(self.model(), path)
        return path


def _gemm(net: Small, node: Any, x: str, weights: Any) -> Any:
    flat = node("Flatten", [node("GlobalAveragePool", [x], "pooled")], "flat")
    tensors = {"weight": weights["weight"], "bias": weights["bias"]}
    return node("Gemm", [flat, "weight", "bias"], "scores", transB=1), tensors


def _matmul(net: Small, node: Any, x: str, weights: Any) -> Any:
    """The axes are an attribute, or from version 18 of the operators on an input."""
    tensors = {"weight": weights["weight"].T.copy(), "bias": weights["bias"]}
    if net.opset < 18:
        pooled = node("ReduceMean", [x], "pooled", axes=[-2, -1], keepdims=0)
    else:
        pooled = node("ReduceMean", [x, "axes"], "pooled", keepdims=0)
        tensors["axes"] = np.array([-1, -2])
    return node("Add", ["bias", node("MatMul", [pooled, "weight"], "product")], "scores"), tensors


def _conv(net: Small, node: Any, x: str, weights: Any) -> Any:
    pooled = node("GlobalAveragePool", [x], "pooled")
    maps = node("Conv", [pooled, "weight", "bias"], "maps")
    return node("Flatten", [maps], "scores"), {
        "weight": weights["weight"][:, :, None, None],
        "bias": weights["bias"],
    }


def _last(net: Small, node: Any, x: str, weights: Any) -> Any:
    """Features with their channels last, as TensorFlow has them."""
    moved = node("Transpose", [x], "moved", perm=[0, 2, 3, 1])
    pooled = node("ReduceMean", [node("Relu", [moved], "relu3")], "pooled", axes=[1, 2], keepdims=0)
    tensors = {"weight": weights["weight"].T.copy(), "bias": weights["bias"]}
    return node("Gemm", [pooled, "weight", "bias"], "scores", alpha=1.0, beta=2.0), tensors


def _average(net: Small, node: Any, x: str, weights: Any) -> Any:
    """The whole of the features, by a pool that is told their size."""
    flat = node("Flatten", [node("AveragePool", [x], "pooled", kernel_shape=[6, 4])], "flat")
    tensors = {"weight": weights["weight"], "bias": weights["bias"]}
    return node("Gemm", [flat, "weight", "bias"], "scores", transB=1), tensors


def _reshape(net: Small, node: Any, x: str, weights: Any) -> Any:
    """The batch written into the graph, as old exporters did."""
    flat = node("Reshape", [node("GlobalAveragePool", [x], "pooled"), "flat_shape"], "flat")
    tensors = {
        "weight": weights["weight"],
        "bias": weights["bias"],
        "flat_shape": np.array([net.batch, FEATURES], np.int64),
    }
    return node("Gemm", [flat, "weight", "bias"], "scores", transB=1), tensors


def _deep(net: Small, node: Any, x: str, weights: Any) -> Any:
    """Two layers: no map is linear in the features there."""
    flat = node("Flatten", [node("GlobalAveragePool", [x], "pooled")], "flat")
    hidden = node("Relu", [node("Gemm", [flat, "hidden"], "deep")], "relu3")
    hidden_weight = np.random.default_rng(9).normal(0, 0.4, (FEATURES, FEATURES)).astype(np.float32)
    tensors = {"weight": weights["weight"], "bias": weights["bias"], "hidden": hidden_weight}
    return node("Gemm", [hidden, "weight", "bias"], "scores", transB=1), tensors


def _maximum(net: Small, node: Any, x: str, weights: Any) -> Any:
    flat = node("Flatten", [node("GlobalMaxPool", [x], "pooled")], "flat")
    tensors = {"weight": weights["weight"], "bias": weights["bias"]}
    return node("Gemm", [flat, "weight", "bias"], "scores", transB=1), tensors


def _parts(net: Small, node: Any, x: str, weights: Any) -> Any:
    """An average of each half: it looks like the whole one, and has twice the features."""
    flat = node("Flatten", [node("AveragePool", [x], "pooled", kernel_shape=[3, 4], strides=[3, 4])], "flat")
    both = np.concatenate([weights["weight"], -weights["weight"]], 1)
    return node("Gemm", [flat, "weight", "bias"], "scores", transB=1), {"weight": both, "bias": weights["bias"]}


def _corner(net: Small, node: Any, x: str, weights: Any) -> Any:
    """An average of the first rows alone, which has the shape of the whole one."""
    flat = node("Flatten", [node("AveragePool", [x], "pooled", kernel_shape=[5, 4], strides=[5, 4])], "flat")
    tensors = {"weight": weights["weight"], "bias": weights["bias"]}
    return node("Gemm", [flat, "weight", "bias"], "scores", transB=1), tensors


def _coupled(net: Small, node: Any, x: str, weights: Any) -> Any:
    """Batch statistics, as of a network that was exported while it was trained."""
    mean = node("ReduceMean", [x], "batch_mean", axes=[0, 2, 3], keepdims=1)
    return _gemm(net, node, node("Sub", [x, mean], "centred"), weights)


def _own_deviation(net: Small, node: Any, x: str, weights: Any) -> Any:
    """Divides by the picture's own spread: no number where there is none."""
    mean = node("ReduceMean", ["picture"], "own_mean", axes=[1, 2, 3], keepdims=1)
    off = node("Sub", ["picture", mean], "off")
    spread = node("ReduceMax", [node("Abs", [off], "size")], "spread", axes=[1, 2, 3], keepdims=1)
    ratio = node("Div", [spread, spread], "ratio")
    return _gemm(net, node, node("Mul", [x, ratio], "rated"), weights)


def _constants(net: Small, node: Any, x: str, weights: Any) -> Any:
    """Numbers as nodes of their own, of every kind, and a weight under another name."""
    half = node("Constant", [], "half", value_float=0.5)
    twice = node("Constant", [], "twice", value=numpy_helper.from_array(np.array([2], np.float32)))
    x = node("Mul", [node("Mul", [x, half], "halved"), twice], "same")
    shape = node("Constant", [], "shape", value_ints=[-1, FEATURES])
    flat = node("Reshape", [node("GlobalAveragePool", [x], "pooled"), shape], "flat")
    zero = node("Constant", [], "zero", value_floats=[0.0])
    node("Constant", [], "unused", value_int=3)
    named = node("Identity", ["weight"], "named")
    scores = node("Gemm", [node("Add", [flat, zero], "again"), named, "bias"], "scores", transB=1)
    return scores, {"weight": weights["weight"], "bias": weights["bias"]}


def _gemm_without_bias(net: Small, node: Any, x: str, weights: Any) -> Any:
    pooled = node("GlobalAveragePool", [x], "pooled")
    doubled = node("Gemm", [node("Flatten", [pooled], "flat"), "weight"], "doubled", alpha=0.5)
    return node("Add", [doubled, "bias"], "scores"), {"weight": 2 * weights["weight"].T, "bias": weights["bias"]}


def _of_one(net: Small, node: Any, x: str, weights: Any) -> Any:
    """Something of the very size of the batch that it was exported for."""
    flat = node("Flatten", [node("GlobalAveragePool", [x], "pooled")], "flat")
    both = node("Concat", [flat, "prior"], "both", axis=1)
    tensors = {
        "weight": np.concatenate([weights["weight"]] * 2, 1),
        "bias": weights["bias"],
        "prior": np.ones((1, FEATURES), np.float32),
    }
    return node("Gemm", [both, "weight", "bias"], "scores", transB=1), tensors


def _upsampled(net: Small, node: Any, x: str, weights: Any) -> Any:
    """Features brought to twice their size, whose factor is computed in single precision, as Resize wants it."""
    size = node("Cast", [node("Shape", [x], "shape")], "size", to=TensorProto.FLOAT)
    factor = node("Mul", [node("Div", [size, size], "ones"), "twice"], "factor")
    larger = node("Resize", [x, "", factor], "larger", mode="nearest")
    scores, tensors = _gemm(net, node, larger, weights)
    return scores, tensors | {"twice": np.array([1, 1, 2, 2], np.float32)}


def _enlarged(net: Small, node: Any, x: str, weights: Any) -> Any:
    """The same by a factor that the graph stores."""
    larger = node("Resize", [x, "", "twice"], "larger", mode="nearest")
    scores, tensors = _gemm(net, node, larger, weights)
    return scores, tensors | {"twice": np.array([1, 1, 2, 2], np.float32)}


_HEADS = {
    "upsampled": _upsampled,
    "enlarged": _enlarged,
    "constants": _constants,
    "gemm without bias": _gemm_without_bias,
    "of one": _of_one,
    "gemm": _gemm,
    "matmul": _matmul,
    "conv": _conv,
    "channels last": _last,
    "average": _average,
    "reshape": _reshape,
    "deep": _deep,
    "maximum": _maximum,
    "parts": _parts,
    "corner": _corner,
    "coupled": _coupled,
    "own deviation": _own_deviation,
}

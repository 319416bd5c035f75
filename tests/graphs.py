"""Small ONNX graphs that take what the network takes, for tests that build many plans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 32  # pixels


def tiny_graph(path: Path, channels: int = 8, seed: int = 0) -> Path:
    """Raw pixels (views, 32, 32, 1) to one 3 x 3 convolution of so many channels and its mean over the picture."""
    weight = np.random.default_rng(seed).normal(size=(channels, 1, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["single"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["single"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weight"], ["features"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["features"], ["mean"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["views", SIZE, SIZE, 1])
    mean = helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["views", channels, 1, 1])
    graph = helper.make_graph(nodes, "tiny", [image], [mean], [numpy_helper.from_array(weight, "weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path

"""A bundle with a network that takes no time, and an archive of few views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from mura_trt.bundle import FILES, REQUIRED, Bundle, Manifest, describe_file, write_manifest
from mura_trt.contract import InputContract
from mura_trt.parity.bounds import BOUNDS


def mean_graph(path: Path) -> None:
    """Raw pixels (views, 320, 320, 1) to their means: of squares of 32 pixels as the map, of all as the logit."""
    nodes = [
        helper.make_node("Cast", ["image"], ["single"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["single"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["pooled"], kernel_shape=[32, 32], strides=[32, 32]),
        helper.make_node("Squeeze", ["pooled", "channel"], ["cam"]),
        helper.make_node("ReduceMean", ["cam", "both"], ["logit"], keepdims=0),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    constants = {"channel": [1], "both": [1, 2]}
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["views", 320, 320, 1])
    one: list[str | int | None] = ["views"]
    outputs = {"probability": one, "logit": one, "cam": [*one, 10, 10]}
    graph = helper.make_graph(
        nodes,
        "mean",
        [image],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


@pytest.fixture(scope="session")
def quick_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Never compared with PyTorch."""
    folder = tmp_path_factory.mktemp("quick")
    for role in REQUIRED:
        mean_graph(folder / FILES[role])
    manifest = Manifest(
        name="mean",
        precision="fp32",
        contract=InputContract(),
        checkpoints_sha256=["0" * 64, "1" * 64],  # as of an ensemble of two
        builder=None,
        versions={},
        quantization=None,
        bounds=BOUNDS["fp32"],
        parity=None,
        export_seconds=0.0,
        files={role: describe_file(folder / FILES[role]) for role in REQUIRED},
    )
    write_manifest(folder, manifest)
    return Bundle.open(folder)


@pytest.fixture(scope="session")
def few_views(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies of three gray PNG files, one of them cut short, and a text file."""
    root = tmp_path_factory.mktemp("few")
    rng = np.random.default_rng(0)
    for view in range(6):
        path = root / f"study{view // 3}" / f"image{view}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (120, 90), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-40])
    (root / "notes.txt").write_text("nothing")
    return root

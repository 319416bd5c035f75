"""A network that is a bundle's in all but size, so that each runtime can be tried in a second: its score is known."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

import mura_trt
from mura_trt.bundle import FILES, Bundle, Manifest, describe_file, write_manifest
from mura_trt.contract import InputContract
from mura_trt.plan import build_plan

if TYPE_CHECKING:
    from onnx import ModelProto

BOUND = 5e-3  # of |dp|: half precision, and TF32, round in the fourth digit
BATCH = (1, 1, 2)  # views that a plan takes: least, tuned for, most
OPSET = 20
_CHANNELS = 8
_CONTRACT = InputContract()
_SIDE = 32  # pixels, of a position of the map
_MEAN, _SCALE = 255 * _CONTRACT.mean[0], 255 * _CONTRACT.std[0]


class Weights(NamedTuple):
    """float32: ``stem`` (8, 1, 32, 32) goes in strides of its own size, ``head`` (1, 8, 1, 1) makes the map of it."""

    stem: NDArray[np.float32]
    head: NDArray[np.float32]
    bias: float


def weights() -> Weights:
    """The same ones each time."""
    random = np.random.default_rng(7)
    stem = random.normal(0, 1 / _SIDE, (_CHANNELS, 1, _SIDE, _SIDE))
    return Weights(stem.astype(np.float32), random.normal(0, 1, (1, _CHANNELS, 1, 1)).astype(np.float32), 0.25)


def normalised(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 (H, W, 1) to what the stem takes, float32 (1, 1, H, W)."""
    return ((pixels[None, None, ..., 0] - np.float32(_MEAN)) / np.float32(_SCALE)).astype(np.float32)


def expected(pixels: NDArray[np.uint8]) -> float:
    """The probability of a view, uint8 (H, W, 1), by plain arithmetic in double precision."""
    stem, head, bias = weights()
    rows, columns = _CONTRACT.height // _SIDE, _CONTRACT.width // _SIDE
    patches = normalised(pixels).astype(np.float64).reshape(rows, _SIDE, columns, _SIDE)
    features = np.maximum(0, np.einsum("iajb,cab->cij", patches, stem[:, 0].astype(np.float64)))
    logit = np.einsum("cij,c->ij", features, head[0, :, 0, 0].astype(np.float64)).mean() + bias
    return float(1 / (1 + np.exp(-logit)))


def graph() -> ModelProto:
    """The FP32 graph, with the inputs, outputs and names of weights of one that ``export`` makes."""
    from onnx import TensorProto, helper, numpy_helper

    stem, head, bias = weights()
    height, width = _CONTRACT.size
    constants: dict[str, NDArray[np.generic]] = {
        "mean": np.array(_MEAN, np.float32),
        "scale": np.array(_SCALE, np.float32),
        "features.conv0.weight": stem,
        "classifier.weight": head,
        "classifier.bias": np.array(bias, np.float32),
        "channel": np.array([1], np.int64),
        "positions": np.array([1, 2], np.int64),
    }
    side = [_SIDE] * 2
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["planes", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "features.conv0.weight"], ["patches"], kernel_shape=side, strides=side),
        helper.make_node("Relu", ["patches"], ["features"]),
        helper.make_node("Conv", ["features", "classifier.weight"], ["map"], kernel_shape=[1, 1]),
        helper.make_node("Squeeze", ["map", "channel"], ["cam"]),
        helper.make_node("ReduceMean", ["cam", "positions"], ["mean_of_map"], keepdims=0),
        helper.make_node("Add", ["mean_of_map", "classifier.bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    outputs: list[tuple[str, list[str | int]]] = [
        ("probability", ["views"]),
        ("logit", ["views"]),
        ("cam", ["views", *_CONTRACT.output_shape("cam")]),
    ]
    made = helper.make_graph(
        nodes,
        "doctor",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["views", height, width, 1])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    # The IR version that came with the operators, so that no ONNX Runtime is too old for it.
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def write_bundle(folder: Path) -> Bundle:
    """A bundle in half precision without a plan; ``folder`` is made."""
    import onnx

    from mura_trt.precision import lower

    folder.mkdir()
    single = graph()
    onnx.checker.check_model(single, full_check=True)
    onnx.save(single, folder / FILES["fp32_onnx"])
    onnx.save(lower(single), folder / FILES["onnx"])
    return _described(folder, None)


def with_plan(bundle: Bundle, builder: str, folder: Path) -> Bundle:
    """A copy with a plan; ``folder`` is made."""
    shutil.copytree(bundle.folder, folder)
    return _described(folder, build_plan(builder, folder / FILES["onnx"], folder / FILES["plan"], BATCH))


def _described(folder: Path, builder: dict[str, object] | None) -> Bundle:
    manifest = Manifest(
        name="doctor",
        precision="fp16",
        contract=_CONTRACT,
        checkpoints_sha256=[],
        builder=builder,
        versions={"mura_trt": mura_trt.__version__},
        quantization=None,
        bounds={"model.dp_max": BOUND},
        parity=None,
        export_seconds=0.0,
        files={role: describe_file(folder / name) for role, name in FILES.items() if (folder / name).exists()},
    )
    write_manifest(folder, manifest)
    return Bundle.open(folder)

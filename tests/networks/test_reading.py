"""ONNX files that can be worked with, and what is said of those that cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mura_trt.errors import UsageError
from mura_trt.networks.imported import opened
from mura_trt.networks.reading import files_of, input_of, opset_of, read_model
from mura_trt.networks.told import Told, parsed_numbers, parsed_size
from tests.networks.graphs import Small


def told(path: Path) -> Told:
    return Told(path, (0.5,), (0.25,))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.onnx"


def test_a_sound_file_is_read_as_it_is(path: Path) -> None:
    model = read_model(Small().write(path))
    taken = input_of(model, told(path))
    assert (taken.name, taken.layout, taken.batch, taken.channels, taken.size) == ("picture", "NCHW", None, 3, (48, 32))
    assert files_of(path) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an ONNX file, or one whose graph is empty"),
        (b"\x08\x08no graph at all, but a text of some length", "not an ONNX file"),
        (None, "no such ONNX file"),
    ],
)
def test_what_is_no_onnx_file_is_told(content: bytes | None, message: str, path: Path) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"net\.onnx: {message}"):
        opened(told(path))


@pytest.mark.parametrize("name", ["net.prototxt", "net.json", "net.onnxtxt"])
def test_a_file_is_read_by_what_it_holds_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    Small().write(tmp_path / "net.onnx").rename(tmp_path / name)
    assert read_model(tmp_path / name).graph.node
    (tmp_path / name).write_text("layer { name: 'data' }")
    with pytest.raises(UsageError, match="not an ONNX file"):
        opened(told(tmp_path / name))


def test_a_file_that_was_cut_off_is_told(path: Path) -> None:
    Small().write(path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UsageError, match=r"net\.onnx: not a"):
        opened(told(path))


def with_a_second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("age", TensorProto.FLOAT, ["n", 1]))


def in_half(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def with_a_runtimes_operator(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type, model.graph.node[1].domain = "QuickGelu", "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def with_an_unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Rectify"


def with_a_branch(model: onnx.ModelProto) -> None:
    out = helper.make_tensor_value_info("branched", TensorProto.FLOAT, None)
    part = helper.make_graph([helper.make_node("Relu", ["conv1"], ["branched"])], "part", [], [out])
    node = model.graph.node[1]
    node.CopyFrom(helper.make_node("If", ["always"], ["relu1"], then_branch=part, else_branch=part))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))


def of_three_dimensions(model: onnx.ModelProto) -> None:
    del model.graph.input[0].type.tensor_type.shape.dim[3]


def with_two_outputs(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 16, 6, 4]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (with_a_second_input, r"has 2 inputs \(picture, age\); wanted one"),
        (in_half, r"takes float16, not float32; export the network in single precision"),
        (with_a_runtimes_operator, r"outside the ONNX standard \(com.microsoft.QuickGelu\).*export the network again"),
        (with_an_unknown_operator, r"not a sound ONNX graph: .*Rectify"),
        (with_a_branch, r"branches or loops \(If\).*dynamo=True"),
        (of_three_dimensions, r"has 3 dimensions; wanted 4"),
        (with_two_outputs, r"has 2 outputs \(scores, features\); tell which one: --output scores"),
    ],
)
def test_a_graph_of_another_kind_is_told(spoil: Callable[[onnx.ModelProto], None], message: str, path: Path) -> None:
    model = Small().model()
    spoil(model)
    onnx.save(model, path)
    with pytest.raises(UsageError, match=rf"net\.onnx: .*{message}"):
        opened(told(path))


def test_the_output_that_is_named_is_taken(path: Path) -> None:
    model = Small().model()
    with_two_outputs(model)
    onnx.save(model, path)
    assert opened(replace(told(path), output="scores")).facts.output == "scores"
    with pytest.raises(UsageError, match=r"its output features has shape \(1, 16, 6, 4\).*--output"):
        opened(replace(told(path), output="features"))
    with pytest.raises(UsageError, match="no output logits; there are scores, features"):
        opened(replace(told(path), output="logits"))


@pytest.mark.parametrize(
    ("net", "changes", "message"),
    [
        (Small(size=("h", "w")), {}, "leaves height and width of the picture open.*--size 224x224"),
        (Small(), {"size": (64, 64)}, "takes pictures of 48 x 32, not --size 64x64"),
        (Small(channels=3, size=(3, 3)), {}, r"shape \(\?, 3, 3, 3\) does not say where the channels are.*--layout"),
        (Small(), {"layout": "NHWC"}, "as NHWC, its input picture of shape .* has 32 channels; wanted 1 or 3"),
        (Small(), {"mean": (0.1, 0.2)}, "--mean has 2 numbers, and the network's input 3 channels"),
        (Small(channels=1), {"std": (0.1, 0.2, 0.3)}, "--std has 3 numbers, and the network's input 1 channel;"),
    ],
)
def test_what_is_left_open_or_does_not_agree_is_told(
    net: Small, changes: dict[str, tuple[float, ...]], message: str, path: Path
) -> None:
    net.write(path)
    with pytest.raises(UsageError, match=message):
        opened(replace(told(path), **changes))  # type: ignore[arg-type]


def test_a_free_size_is_the_one_that_is_told(path: Path) -> None:
    Small(size=("h", "w")).write(path)
    contract = opened(replace(told(path), size=(64, 40))).contract
    assert (contract.height, contract.width, contract.map_shape) == (64, 40, (8, 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"std": (0.0,)}, r"--std 0.0: numbers above 0"),
        ({"std": (float("nan"),)}, r"--std nan"),
        ({"mean": (float("inf"),)}, r"--mean inf: finite"),
        ({"layout": "CHW"}, "--layout CHW: choose from NCHW, NHWC"),
        ({"scores": "softmax"}, "--scores softmax: choose from logit, probability, classes"),
        ({"pixels": "255"}, r"--pixels 255: choose from 0\.\.1, 0\.\.255"),
        ({"abnormal": -1}, "--abnormal -1: columns are counted from 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, object], message: str, path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        Told(path, **{"mean": (0.5,), "std": (0.25,), **options})  # type: ignore[arg-type]


def test_what_is_typed_is_parsed() -> None:
    assert (parsed_size("224x192"), parsed_size("224"), parsed_size(None)) == ((224, 192), (224, 224), None)
    assert parsed_numbers("mean", "0.485,0.456,0.406") == (0.485, 0.456, 0.406)
    with pytest.raises(UsageError, match="--size 0x3"):
        parsed_size("0x3")
    with pytest.raises(UsageError, match="--std a,b: give one number"):
        parsed_numbers("std", "a,b")
    with pytest.raises(UsageError, match=r"--mean is not in the graph.*--mean 0.485,0.456,0.406 --std"):
        parsed_numbers("mean", None)


def test_weights_beside_the_file_are_taken_and_missed(path: Path) -> None:
    onnx.save(Small().model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert [file.name for file in files_of(path)] == ["net.onnx", "weights.bin"]
    found = opened(told(path))
    assert found.contract.map_shape == (6, 4)
    assert not any(tensor.external_data for tensor in found.graph.graph.initializer)
    (path.parent / "weights.bin").unlink()
    with pytest.raises(UsageError, match=r"its weights lie in weights\.bin beside it, which is missing"):
        opened(told(path))


@pytest.mark.parametrize("opset", [9, 11, 17, 21])
def test_operators_of_other_versions_are_brought_up(opset: int, path: Path) -> None:
    Small(opset=opset).write(path)
    found = opened(told(path))
    assert opset_of(found.graph) == max(opset, 13)
    assert found.contract.map_shape == (6, 4)


def test_operators_that_cannot_be_brought_up_are_told(path: Path) -> None:
    nodes = [
        helper.make_node("Pad", ["picture"], ["padded"], paddings=[0] * 8),
        helper.make_node("GlobalAveragePool", ["padded"], ["scores"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, 8, 8]) for name in ("picture", "scores")]
    graph = helper.make_graph(nodes, "old", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 1)], ir_version=8), path)
    with pytest.raises(UsageError, match=r"operators are of version 1, and cannot be brought to 13.*opset_version=13"):
        opened(told(path))

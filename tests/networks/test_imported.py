"""What a bundle's graph makes of somebody else's: the same scores, and the map of those that end in one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from mura_trt.errors import UsageError
from mura_trt.networks.imported import Imported, _Opened, opened
from mura_trt.networks.told import Told
from mura_trt.networks.trial import pictures
from mura_trt.precision import lower, raised
from tests.networks.graphs import Small

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXELS = pictures(48, 32)
WITH_MAP = ("gemm", "matmul", "conv", "channels last", "average")
WITHOUT = ("deep", "maximum", "parts", "corner")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.onnx"


def imported(path: Path, net: Small, **changes: object) -> _Opened:
    return opened(replace(Told(net.write(path), MEAN, STD), **changes))  # type: ignore[arg-type]


def run(model: onnx.ModelProto, pixels: NDArray[np.uint8] = PIXELS) -> dict[str, NDArray[np.float32]]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": pixels}), strict=True))


def in_torch(net: Small, pixels: NDArray[np.uint8] = PIXELS) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (n, C, h, w) and scores (n, columns) of a network that ends in a linear layer, step by step."""
    weights = {name: torch.from_numpy(values) for name, values in net.weights().items()}
    gray = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    x = (gray.repeat(1, 3, 1, 1) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    x = torch.relu(torch.nn.functional.conv2d(x, weights["first"], padding=1, stride=4))
    features = torch.relu(torch.nn.functional.conv2d(x, weights["second"], padding=1, stride=2))
    bias = weights["bias"] * (2 if net.head == "channels last" else 1)
    return features, features.mean((2, 3)) @ weights["weight"].T + bias


def close(found: NDArray[np.float32], expected: torch.Tensor, bound: float = 1e-4) -> None:
    np.testing.assert_allclose(found, expected.numpy(), atol=bound, rtol=0)


@pytest.mark.parametrize("net", [*(Small(head=head) for head in WITH_MAP), Small(head="matmul", opset=21)])
def test_scores_and_map_are_those_of_torch(net: Small, path: Path) -> None:
    features, scores = in_torch(net)
    assert scores.std() > 0.05  # the pictures differ, or the comparison would say little
    found = imported(path, net)
    assert found.contract.map_shape == (6, 4)
    outputs = run(found.graph)
    weight = torch.from_numpy(net.weights()["weight"])
    close(outputs["logit"], scores[:, 0])
    close(outputs["probability"], torch.sigmoid(scores[:, 0]))
    close(outputs["cam"], torch.einsum("c,nchw->nhw", weight[0], features), 1e-3)
    bias = scores[:, 0] - features.mean((2, 3)) @ weight[0]
    close(outputs["cam"].mean((1, 2)), scores[:, 0] - bias, 1e-4)


@pytest.mark.parametrize("squash", [None, "Softmax", "LogSoftmax"])
@pytest.mark.parametrize("abnormal", [0, 1])
def test_of_two_classes_the_map_is_that_of_their_difference(squash: str | None, abnormal: int, path: Path) -> None:
    net = Small(columns=2, squash=squash)
    features, scores = in_torch(net)
    found = imported(path, net, abnormal=abnormal, scores=None if squash else "classes")
    outputs = run(found.graph)
    close(outputs["probability"], torch.softmax(scores, 1)[:, abnormal])
    close(outputs["logit"], scores[:, abnormal] - scores[:, 1 - abnormal])
    weight = torch.from_numpy(net.weights()["weight"])
    close(outputs["cam"], torch.einsum("c,nchw->nhw", weight[abnormal] - weight[1 - abnormal], features), 1e-3)


def test_of_labels_with_a_sigmoid_each_one_is_taken(path: Path) -> None:
    net = Small(columns=4, squash="Sigmoid")
    features, scores = in_torch(net)
    outputs = run(imported(path, net, abnormal=2).graph)
    close(outputs["probability"], torch.sigmoid(scores[:, 2]))
    close(outputs["logit"], scores[:, 2])
    weight = torch.from_numpy(net.weights()["weight"])
    close(outputs["cam"], torch.einsum("c,nchw->nhw", weight[2], features), 1e-3)


def test_of_many_classes_there_is_a_probability_and_no_map(path: Path) -> None:
    net = Small(columns=5, squash="Softmax")
    _, scores = in_torch(net)
    found = imported(path, net, abnormal=3)
    outputs = run(found.graph)
    assert set(outputs) == {"probability", "logit"} and found.contract.map_shape is None
    close(outputs["probability"], torch.softmax(scores, 1)[:, 3])
    close(outputs["logit"], torch.logit(torch.softmax(scores, 1)[:, 3]), 1e-3)


def test_a_probability_that_rounds_to_one_has_a_finite_logit(path: Path) -> None:
    model = Small(columns=3, squash="Softmax").model()
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([200, 0, 0], np.float32), "bias"))
    onnx.save(model, path)
    for abnormal, sign in ((0, 1), (1, -1)):
        outputs = run(opened(Told(path, MEAN, STD, abnormal=abnormal)).graph)
        assert np.isfinite(outputs["logit"]).all() and (sign * outputs["logit"] > 15).all()


@pytest.mark.parametrize("head", ["constants", "gemm without bias", "enlarged"])
def test_an_end_of_another_form_scores_as_well_with_a_map_or_without(head: str, path: Path) -> None:
    net = Small(head=head)
    found = imported(path, net)
    close(run(found.graph)["logit"], in_torch(net)[1][:, 0])
    half = lower(found.graph)
    onnx.checker.check_model(half, full_check=True)
    assert np.abs(run(raised(half))["probability"] - run(found.graph)["probability"]).max() < 2e-3


@pytest.mark.parametrize("head", WITHOUT)
def test_where_no_map_is_linear_there_is_none(head: str, path: Path) -> None:
    net = Small(head=head)
    found = imported(path, net)
    assert found.contract.map_shape is None and found.contract.outputs == ("probability", "logit")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    gray = PIXELS.astype(np.float32).transpose(0, 3, 1, 2) / 255
    picture = (gray - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    (expected,) = session.run(None, {"picture": picture.astype(np.float32)})
    np.testing.assert_allclose(run(found.graph)["logit"], expected[:, 0], atol=1e-4)


@pytest.mark.parametrize("net", [Small(layout="NHWC"), Small(layout="NHWC", head="channels last")])
def test_channels_may_come_last(net: Small, path: Path) -> None:
    found = imported(path, net)
    assert found.facts.layout == "NHWC"
    close(run(found.graph)["logit"], in_torch(net)[1][:, 0])


def test_a_network_for_gray_pictures_takes_one_channel(path: Path) -> None:
    net = Small(channels=1)
    found = imported(path, net, mean=(0.5,), std=(0.25,))
    weights = {name: torch.from_numpy(values) for name, values in net.weights().items()}
    x = (torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    x = torch.relu(torch.nn.functional.conv2d(x, weights["first"], padding=1, stride=4))
    x = torch.relu(torch.nn.functional.conv2d(x, weights["second"], padding=1, stride=2))
    close(run(found.graph)["logit"], x.mean((2, 3)) @ weights["weight"][0] + weights["bias"])


def test_pixels_of_0_to_255_are_255_times_those_of_0_to_1(path: Path) -> None:
    """A network whose first weights are a 255th takes them, and gives what the other does."""
    net = Small()
    model = net.model()
    first = next(tensor for tensor in model.graph.initializer if tensor.name == "first")
    first.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(first) / np.float32(255), "first"))
    onnx.save(model, path)
    found = opened(Told(path, MEAN, STD, pixels="0..255"))
    close(run(found.graph)["logit"], in_torch(net)[1][:, 0])
    assert found.contract.std == pytest.approx(np.array(STD) / 255)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("head", ["gemm", "reshape"])
def test_a_fixed_batch_is_made_free(batch: int, head: str, path: Path) -> None:
    found = imported(path, Small(head=head, batch=batch))
    assert found.facts.batch == batch
    expected = in_torch(Small())[1][:, 0]
    for size in (1, 2, 3):
        close(run(found.graph, PIXELS[:size])["logit"], expected[:size])


def test_a_batch_that_cannot_be_free_is_refused(path: Path) -> None:
    with pytest.raises(UsageError, match=r"exported for a batch of 1, and cannot.*changes by .*torch\.export\.Dim"):
        imported(path, Small(head="coupled", batch=1))
    with pytest.raises(UsageError, match=r"does not score each picture by itself.*model\.eval\(\)"):
        imported(path, Small(head="coupled"))
    with pytest.raises(UsageError, match=r"exported for a batch of 1, .*: on 2 pictures it fails .*export it again"):
        imported(path, Small(head="of one", batch=1))
    model = Small(head="reshape", batch=2).model()
    shape = next(tensor for tensor in model.graph.initializer if tensor.name == "flat_shape")
    shape.CopyFrom(onnx.numpy_helper.from_array(np.array([2, 4, 4], np.int64), "flat_shape"))
    model.graph.node[6].input[0] = "flat2"
    model.graph.node.insert(6, onnx.helper.make_node("Reshape", ["flat", "again"], ["flat2"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 16], np.int64), "again"))
    onnx.save(model, path)
    assert opened(Told(path, MEAN, STD)).facts.batch == 2  # however many there are


def test_a_graph_that_is_not_the_same_twice_is_refused(path: Path) -> None:
    model = Small().model()
    noise = onnx.helper.make_node("RandomNormalLike", ["features"], ["noise"], scale=3.0)
    model.graph.node.insert(4, onnx.helper.make_node("Add", ["features", "noise"], ["noisy"]))
    model.graph.node.insert(4, noise)
    model.graph.node[6].input[0] = "noisy"
    onnx.save(model, path)
    with pytest.raises(UsageError, match=r"model\.eval\(\)"):
        opened(Told(path, MEAN, STD))


def test_pictures_that_have_no_score_are_told_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    imported(path, Small(head="own deviation", channels=1), mean=(0.5,), std=(0.25,))
    assert "no finite number for a picture that is 0 or 128 or 255 all over" in caplog.text
    caplog.clear()
    imported(path, Small())
    assert "no finite number" not in caplog.text


def test_weights_that_are_no_numbers_are_refused(path: Path) -> None:
    model = Small().model()
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([np.nan], np.float32), "bias"))
    onnx.save(model, path)
    with pytest.raises(UsageError, match=r"gives \[nan, nan, nan\] for ordinary pictures"):
        opened(Told(path, MEAN, STD))


@pytest.mark.parametrize(
    ("net", "changes", "message"),
    [
        (Small(columns=2), {}, "gives 2 numbers for a picture, and neither.*--scores classes"),
        (Small(columns=2), {"scores": "classes"}, "tell which is the abnormal class's: --abnormal 1"),
        (Small(columns=2, squash="Softmax"), {}, "--abnormal 1"),
        (Small(columns=2, squash="Softmax"), {"abnormal": 2}, "--abnormal 2, and its columns are 0 to 1"),
        (Small(), {"abnormal": 1}, "--abnormal 1, and it gives one number"),
        (Small(squash="Sigmoid"), {"scores": "logit"}, "ends in Sigmoid, so that what it gives is a probability"),
        (Small(columns=3), {"scores": "classes", "abnormal": 0}, "takes two classes, and it gives 3 numbers"),
        (Small(), {"scores": "classes"}, "takes two classes, and it gives 1 number;"),
        (Small(squash="Softmax"), {}, "Softmax of one number is 1"),
    ],
)
def test_scores_that_can_be_taken_in_two_ways_are_told(
    net: Small, changes: dict[str, object], message: str, path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        imported(path, net, **changes)


@pytest.mark.parametrize("head", ["gemm", "channels last", "deep"])
def test_half_precision_keeps_input_normalisation_and_head(head: str, path: Path) -> None:
    found = imported(path, Small(head=head))
    half = lower(found.graph)
    onnx.checker.check_model(half, full_check=True)
    types = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert {types["network/first"], types["network/second"]} == {onnx.TensorProto.FLOAT16}
    ours = {"mean", "scale", "classifier.weight", "classifier.bias"} & set(types)
    assert {types[name] for name in ours} == {onnx.TensorProto.FLOAT}
    exact, lowered, emulated = run(found.graph), run(half), run(raised(half))
    for outputs in (lowered, emulated):
        off = np.abs(outputs["probability"] - exact["probability"]).max()
        assert 0 < off < 2e-3


def test_what_half_precision_cannot_be_is_refused(path: Path) -> None:
    origin = Imported(Told(Small(head="upsampled").write(path), MEAN, STD))
    close(run(origin.graph())["logit"], in_torch(Small())[1][:, 0])
    with pytest.raises(UsageError, match=r"cannot be put in half precision \(.*Resize.*take --precision fp32"):
        origin.lowered(origin.graph(), None)

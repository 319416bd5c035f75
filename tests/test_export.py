"""The exported graphs against torch."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from mura_trt.bundle import Bundle
from mura_trt.cli import app
from mura_trt.errors import BundleError
from mura_trt.export import load_exported
from mura_trt.model import MuraNet


def run(path: Path, image: NDArray[np.uint8], outputs: list[str] | None = None) -> list[NDArray[np.float32]]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    results: list[NDArray[np.float32]] = session.run(outputs or ["probability", "logit", "cam"], {"image": image})
    return results


@pytest.mark.parametrize("views", [1, 3, 8])
def test_onnxruntime_agrees_with_torch(bundle: Bundle, model: MuraNet, pixels: NDArray[np.uint8], views: int) -> None:
    with torch.inference_mode():
        expected = [tensor.numpy() for tensor in model(torch.from_numpy(pixels[:views]))]
    probability, logit, cam = run(bundle.path("fp32_onnx"), pixels[:views])
    assert (probability.shape, logit.shape, cam.shape) == ((views,), (views,), (views, 10, 10))
    np.testing.assert_allclose(probability, expected[0], atol=1e-5, rtol=0)
    np.testing.assert_allclose(logit, expected[1], atol=1e-4, rtol=0)
    np.testing.assert_allclose(cam, expected[2], atol=1e-3, rtol=0)


def test_stem_of_the_graph_is_exact_up_to_the_border(
    bundle: Bundle, model: MuraNet, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    graph = onnx.load(bundle.path("fp32_onnx"))
    stem = next(node for node in graph.graph.node if node.input[1:2] == ["features.conv0.weight"])
    graph.graph.output.append(onnx.helper.make_tensor_value_info(stem.output[0], onnx.TensorProto.FLOAT, None))
    onnx.save(graph, tmp_path / "stem.onnx")
    (ours,) = run(tmp_path / "stem.onnx", pixels[:2], [stem.output[0]])
    with torch.inference_mode():
        expected = model.features[0](model.normalise(torch.from_numpy(pixels[:2]))).numpy()
    np.testing.assert_allclose(ours, expected, atol=2e-5, rtol=0)


def test_graph_carries_the_weights_under_their_names(bundle: Bundle, model: MuraNet) -> None:
    loaded = load_exported(bundle.path("fp32_onnx")).state_dict()
    for name, tensor in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(loaded[name], tensor), name


def test_fp16_graph_is_half_but_for_normalisation_and_head(bundle: Bundle) -> None:
    graph = onnx.load(bundle.path("onnx")).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert {types[name] for name in types if name.startswith("features.")} == {onnx.TensorProto.FLOAT16}
    assert {types[name] for name in ("mean", "scale", "classifier.weight", "classifier.bias")} == {
        onnx.TensorProto.FLOAT
    }
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert {value.type.tensor_type.elem_type for value in graph.output} == {onnx.TensorProto.FLOAT}


def test_fp16_graph_agrees_with_torch_half(bundle: Bundle, model: MuraNet, pixels: NDArray[np.uint8]) -> None:
    """One view, for torch's half precision takes some 10 s a view on a CPU; ONNX Runtime computes in FP32 there.

    The bound is that of this network, whose random head magnifies small differences; a fitted one stays below 5e-3.
    """
    import copy

    with torch.inference_mode():
        half = copy.deepcopy(model).half_body()(torch.from_numpy(pixels[:1]))[0].numpy()
        full = model(torch.from_numpy(pixels[:1]))[0].numpy()
    (probability,) = run(bundle.path("onnx"), pixels[:1], ["probability"])
    np.testing.assert_allclose(half, full, atol=2e-2, rtol=0)
    np.testing.assert_allclose(probability, half, atol=2e-2, rtol=0)


def test_fp16_graph_is_no_fp32_reference(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="FP32"):
        load_exported(bundle.path("onnx"))


def test_the_command_writes_no_graph_over_a_checkpoint_nor_where_none_can_lie(checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "mine.safetensors"
    shutil.copy(checkpoint, copy)
    for out, told in (
        (copy, "which is read; name another file for the graph"),
        (tmp_path / "absent" / "a.onnx", "no folder that can be written to"),
        (tmp_path, "no regular file"),
    ):
        result = CliRunner().invoke(app, ["export", str(copy), "-o", str(out)])
        assert (result.exit_code, told in result.output) == (2, True), result.output
    assert copy.read_bytes() == checkpoint.read_bytes()

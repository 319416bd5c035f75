"""Graphs in half precision, INT8 and FP8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from mura_trt.bundle import Bundle
from mura_trt.contract import NARROW
from mura_trt.plan import build_plan
from mura_trt.precision import FORMATS, HALF_LEAST, Quantization, convolutions, lower, raised

STEM = "features.conv0"
FIRST = "features.denseblock1.denselayer1.conv1"


@pytest.fixture(scope="module")
def graph(bundle: Bundle) -> onnx.ModelProto:
    return onnx.load(bundle.path("fp32_onnx"))


def test_every_narrow_format_of_a_bundle_has_a_type_in_graphs() -> None:
    assert tuple(FORMATS) == NARROW


def ranges_of(graph: onnx.ModelProto, largest: float = 12.0) -> dict[str, float]:
    return dict.fromkeys(convolutions(graph), largest)


def tensors_of(graph: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in graph.graph.initializer}


def run(graph: onnx.ModelProto, image: NDArray[np.uint8], *names: str) -> list[NDArray[np.float32]]:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(list(names), {"image": image})]


def test_the_body_has_every_convolution_but_the_head(graph: onnx.ModelProto) -> None:
    names = convolutions(graph)
    assert len(names) == 168  # of 169 weight layers one is the head
    assert names[:2] == [STEM, FIRST]
    assert names[-1] == "features.denseblock4.denselayer32.conv2"


def test_lowering_leaves_the_graph_it_was_given_alone(graph: onnx.ModelProto) -> None:
    before = graph.SerializeToString()
    lower(graph, Quantization("int8", ranges_of(graph)))
    assert graph.SerializeToString() == before


def test_int8_rounds_every_convolution_but_those_kept(graph: onnx.ModelProto) -> None:
    lowered = lower(graph, Quantization("int8", ranges_of(graph), kept=[STEM, FIRST]))
    onnx.checker.check_model(lowered, full_check=True)
    kinds = {name: tensor.data_type for name, tensor in tensors_of(lowered).items() if name.endswith(".weight")}
    in_half = {f"{STEM}.weight", f"{FIRST}.weight"}
    for name in convolutions(graph):
        weight = f"{name}.weight"
        assert kinds[weight] == (onnx.TensorProto.FLOAT16 if weight in in_half else onnx.TensorProto.INT8), name
    assert kinds["classifier.weight"] == onnx.TensorProto.FLOAT
    # Each pair stands right behind the ReLU that only its convolution sees, and nothing else is rounded.
    makers = {output: node.op_type for node in lowered.graph.node for output in node.output}
    rounding = [node for node in lowered.graph.node if node.op_type == "QuantizeLinear"]
    assert len(rounding) == 166
    assert {makers[node.input[0]] for node in rounding} == {"Relu", "AveragePool"}


def test_rounded_weights_are_within_half_a_step(graph: onnx.ModelProto) -> None:
    lowered = tensors_of(lower(graph, Quantization("int8", ranges_of(graph))))
    exact = tensors_of(graph)
    for name in convolutions(graph):
        weight = numpy_helper.to_array(exact[f"{name}.weight"])
        rounded = numpy_helper.to_array(lowered[f"{name}.weight"]).astype(np.float32)
        scale = numpy_helper.to_array(lowered[f"{name}.weight_scale"]).astype(np.float32)[:, None, None, None]
        # Half a step, and what the largest loses where its scale was rounded down to half precision.
        assert np.all(np.abs(rounded * scale - weight) <= 0.5001 * scale + np.abs(weight) * 2**-11), name
        assert np.abs(rounded).max((1, 2, 3)).min() >= 126


def test_inputs_beyond_the_range_are_taken_for_its_end(graph: onnx.ModelProto, pixels: NDArray[np.uint8]) -> None:
    lowered = raised(lower(graph, Quantization("int8", {**ranges_of(graph), FIRST: 1.27}, kept=[STEM])))
    for name in (f"{FIRST}.input_rounded", "exact"):
        lowered.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    source = next(node.input[0] for node in lowered.graph.node if node.output[0] == f"{FIRST}.input_narrow")
    lowered.graph.output[-1].name = source
    rounded, exact = run(lowered, pixels[:1], f"{FIRST}.input_rounded", source)
    step = float(np.float32(np.float16(0.01)))
    assert exact.max() > 1.5
    np.testing.assert_allclose(rounded, np.clip(np.rint(exact / step), -128, 127) * step, atol=1e-6)


def test_a_channel_of_zeros_stays_zero(graph: onnx.ModelProto) -> None:
    emptied = onnx.ModelProto()
    emptied.CopyFrom(graph)
    weight = tensors_of(emptied)[f"{FIRST}.weight"]
    values = numpy_helper.to_array(weight).copy()
    values[3] = 0
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    lowered = tensors_of(lower(emptied, Quantization("int8", ranges_of(graph))))
    assert not numpy_helper.to_array(lowered[f"{FIRST}.weight"])[3].any()
    assert float(numpy_helper.to_array(lowered[f"{FIRST}.weight_scale"])[3]) == HALF_LEAST


@pytest.mark.parametrize("narrow", ["int8", "fp8"])
def test_plans_of_narrow_formats_build(narrow: str, graph: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(lower(graph, Quantization(narrow, ranges_of(graph), kept=[STEM])), tmp_path / "model.onnx")
    built = build_plan("tensorrt-rtx", tmp_path / "model.onnx", tmp_path / "plan", (1, 64, 256))
    assert built["plan_bytes"] > 10_000_000


def test_fp8_rounds_to_four_significant_bits(graph: onnx.ModelProto, pixels: NDArray[np.uint8]) -> None:
    lowered = raised(lower(graph, Quantization("fp8", ranges_of(graph), kept=[STEM])))
    source = next(node.input[0] for node in lowered.graph.node if node.output[0] == f"{FIRST}.input_narrow")
    for name in (f"{FIRST}.input_rounded", source):
        lowered.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    rounded, exact = run(lowered, pixels[:1], f"{FIRST}.input_rounded", source)
    normal = (exact > 0.01) & (exact < 12)  # above the format's subnormal numbers, and within the range
    assert np.all(np.abs(rounded - exact)[normal] <= exact[normal] * 2**-4 * 1.001)
    assert np.abs(rounded - exact)[normal].max() > 0.05  # it is not half precision

"""Counts of a graph against counts by hand, and the network's against what is known of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mura_trt.bundle import Bundle
from mura_trt.errors import BundleError
from mura_trt.graph_facts import graph_facts
from mura_trt.model import MuraNet
from mura_trt.precision import Quantization, convolutions, lower
from tests.graphs import SIZE, tiny_graph


def test_network_has_its_parameters_convolutions_and_12_6_gflop(bundle: Bundle, model: MuraNet) -> None:
    facts = graph_facts(bundle.path("onnx"))
    assert facts.gflop_per_view == pytest.approx(12.59, abs=0.05)
    assert facts.gflop["fp16"] == pytest.approx(facts.gflop_per_view, rel=1e-3)
    assert facts.convolutions == {"fp16": 168, "fp32": 1}  # the head is a convolution, too
    assert facts.operators["Conv"] == 169
    assert facts.operators["BatchNormalization"] == 169
    state = [value.numel() for name, value in model.state_dict().items() if not name.endswith("tracked")]
    # Beside them: the convolutions' biases, all zero, and the constants of the normalisation.
    assert sum(state) < facts.parameters < 1.002 * sum(state)
    assert graph_facts(bundle.path("fp32_onnx")).convolutions == {"fp32": 169}


def test_rounded_convolutions_count_as_what_they_compute_in(bundle: Bundle, tmp_path: Path) -> None:
    model = onnx.load(bundle.path("fp32_onnx"))
    names = convolutions(model)
    for precision in ("int8", "fp8"):
        ranges = dict.fromkeys(names, 4.0)
        onnx.save(lower(model, Quantization(precision, ranges, kept=names[:8])), tmp_path / "g.onnx")
        facts = graph_facts(tmp_path / "g.onnx")
        assert facts.convolutions == {precision: 160, "fp16": 8, "fp32": 1}
        assert facts.gflop_per_view == pytest.approx(12.59, abs=0.05)


def test_convolution_is_counted_by_hand(tmp_path: Path) -> None:
    facts = graph_facts(tiny_graph(tmp_path / "g.onnx", channels=8))
    assert facts.gflop == {"fp32": 2 * 8 * SIZE * SIZE * 9 / 1e9}
    assert facts.parameters == 8 * 9
    assert facts.operators == {"Cast": 1, "Transpose": 1, "Conv": 1, "GlobalAveragePool": 1}


@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_are_counted_by_hand(transposed: bool, tmp_path: Path) -> None:
    shape = [6, 5] if transposed else [5, 6]
    nodes = [
        helper.make_node("Gemm", ["a", "b"], ["c"], transA=int(transposed)),
        helper.make_node("MatMul", ["c", "d"], ["e"]),
    ]
    arrays = {"a": np.ones(shape, np.float16), "b": np.ones((6, 7), np.float16), "d": np.ones((7, 3), np.float16)}
    result = helper.make_tensor_value_info("e", TensorProto.FLOAT16, [5, 3])
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], [result], weights)), tmp_path / "g.onnx")
    facts = graph_facts(tmp_path / "g.onnx")
    assert facts.gflop == {"fp16": 2 * (5 * 6 * 7 + 5 * 7 * 3) / 1e9}
    assert facts.convolutions == {}


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(b"no graph")
    for name in ("g.onnx", "absent.onnx"):
        with pytest.raises(BundleError, match=rf"{name}: not a readable ONNX graph"):
            graph_facts(tmp_path / name)

"""Other networks of torchvision, and other exporters: what is read of them, put in half precision and built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from mura_trt.networks.imported import Imported
from mura_trt.networks.told import Told
from mura_trt.networks.trial import pictures
from mura_trt.plan import build_plan
from tests.networks.resnet import MEAN, STD, exported, normalised, quietly, resnet18
from tests.oracle import torchvision_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("name", "size", "map_shape"),
    [
        ("resnet50", 224, (7, 7)),
        ("mobilenet_v2", 224, (7, 7)),
        ("efficientnet_b0", 224, (7, 7)),
        ("regnet_y_400mf", 224, (7, 7)),
        ("inception_v3", 299, (8, 8)),
        ("convnext_tiny", 224, None),  # a norm between pool and linear layer
        ("mobilenet_v3_small", 224, None),  # two linear layers
        ("vit_b_16", 224, None),
    ],
)
def test_a_network_of_torchvision_becomes_a_plan(
    name: str, size: int, map_shape: tuple[int, int] | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    more = {"init_weights": True} if name == "inception_v3" else {}
    network = getattr(torchvision_models(), name)(num_classes=1, **more).eval()
    origin = Imported(Told(exported(network, tmp_path / f"{name}.onnx", size), MEAN, STD))
    assert origin.contract.map_shape == map_shape
    (tmp_path / "half.onnx").write_bytes(origin.lowered(origin.graph(), None).SerializeToString())
    built = build_plan("tensorrt-rtx", tmp_path / "half.onnx", tmp_path / "plan", (1, 8, 16))
    assert built["plan_bytes"] > 1_000_000


@pytest.mark.parametrize(
    "options",
    [
        {"opset_version": 17, "input_names": ["input"], "dynamic_axes": {"input": {0: "batch"}}},
        {"opset_version": 13, "do_constant_folding": False},
        {"opset_version": 11},
    ],
)
def test_what_the_old_exporter_writes_is_read(options: dict[str, Any], tmp_path: Path) -> None:
    """With a free batch, and with one of a single picture, which is made free."""
    pixels = pictures(224, 224)
    network, file = resnet18(1, pixels), tmp_path / "old.onnx"
    with quietly():  # that it is the old one
        torch.onnx.export(network, (torch.zeros(1, 3, 224, 224),), str(file), dynamo=False, **options)
    origin = Imported(Told(file, MEAN, STD))
    assert origin.contract.map_shape == (7, 7)
    session = ort.InferenceSession(origin.graph().SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = network(normalised(pixels))[:, 0].numpy()
    np.testing.assert_allclose(session.run(["logit"], {"image": pixels})[0], expected, atol=1e-4)

"""A ResNet-18 of torchvision from its export to its heatmaps, as a lab would bring it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from mura_trt.bundle import Bundle
from mura_trt.cli import app
from mura_trt.runtimes import SessionOptions, open_session
from tests.networks.resnet import NUMBERS, SIZE, exported, features, normalised, resnet18
from tests.test_docs import ROOT, commands_in

pytestmark = pytest.mark.slow  # for PyTorch's exporter

COMMANDS = [
    one for one in commands_in((ROOT / "docs/networks.md").read_text()) if {"engines/resnet18", "out"} & set(one)
]


def type_in(folder: Path, command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mura_trt", *command],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def small_pixels(archive: Path) -> NDArray[np.uint8]:
    """uint8 (12, 224, 224, 1): views of the archive."""
    found = []
    for path in sorted(archive.rglob("*.png"))[::5][:12]:
        with Image.open(path) as image:
            found.append(np.asarray(image.convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR))[..., None])
    return np.stack(found)


@pytest.fixture(scope="module")
def network(small_pixels: NDArray[np.uint8]) -> nn.Module:
    return resnet18(1, small_pixels)


@pytest.fixture(scope="module")
def file(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(network, tmp_path_factory.mktemp("resnet") / "resnet18.onnx")


def typed(*arguments: object) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def lab(file: Path, archive: Path) -> Path:
    """The folder of a reader of docs/networks.md, who has typed its first command: FP16, with a TensorRT-RTX plan."""
    (file.parent / "archive").symlink_to(archive)
    type_in(file.parent, COMMANDS[0])
    return file.parent


@pytest.fixture(scope="module")
def engine(lab: Path) -> Bundle:
    return Bundle.open(lab / "engines" / "resnet18")


def test_it_is_built(engine: Bundle) -> None:
    assert set(engine.manifest.files) == {"plan", "onnx", "fp32_onnx"}
    assert engine.manifest.builder is not None and engine.manifest.builder["plan_bytes"] > 20_000_000
    assert engine.manifest.parity is not None and engine.manifest.parity["kept"]
    assert (engine.manifest.network, engine.contract.map_shape) == ("resnet18", (7, 7))


def test_its_scores_and_maps_are_pytorchs(engine: Bundle, network: nn.Module, small_pixels: NDArray[np.uint8]) -> None:
    with torch.inference_mode():
        expected = network(normalised(small_pixels))[:, 0]
        weight = network.fc.weight[0]  # type: ignore[union-attr, index]
        cam = torch.einsum("c,nchw->nhw", weight, features(network, small_pixels))
    session, _ = open_session("onnxruntime", engine, SessionOptions(batch=12))
    found = session.run(small_pixels)
    assert found.cam is not None and expected.std() > 1
    np.testing.assert_allclose(found.probability, torch.sigmoid(expected).numpy(), atol=1e-5)
    np.testing.assert_allclose(found.logit, expected.numpy(), atol=1e-4)
    np.testing.assert_allclose(found.cam, cam.numpy(), atol=1e-3)
    session.close()


def test_it_agrees_with_its_file(engine: Bundle, file: Path, archive: Path) -> None:
    command = ("parity", engine.folder, archive, "--checkpoint", file, "--studies", 4, "--json")
    found = json.loads(typed(*command, "--bound", "studies.flip_share=1", "--bound", "clinical.kappa=2"))
    assert found["kept"] and found["runtime"] in ("emulated", "tensorrt_rtx")
    assert found["reference"] == "its ONNX file"


def test_an_archive_is_scored_drawn_and_evaluated(
    engine: Bundle, network: nn.Module, archive: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    typed("score", archive, "--engine", engine.folder, "-o", out, "--heatmaps", "all", "--runtime", "onnxruntime")
    table = pd.read_csv(out / "heatmaps.csv")
    maps = table[[f"m{at}" for at in range(49)]].to_numpy()
    views = pd.read_csv(out / "views.csv")
    bias = network.fc.bias.item()  # type: ignore[union-attr, operator]
    np.testing.assert_allclose(maps.mean(1) + bias, views["logit"], atol=1e-3)
    with Image.open(out / table["file"][0]) as picture:
        assert picture.size == (SIZE, SIZE)
    found: dict[str, Any] = json.loads(typed("evaluate", out, "--resamples", 50, "--json"))
    assert found["overall"]["studies"] == 24


def test_of_two_outputs_the_map_is_that_of_their_difference(small_pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    network = resnet18(2, small_pixels)
    file = exported(network, tmp_path / "two.onnx")
    options = (*NUMBERS, "--scores", "classes", "--abnormal", 0, "--builder", "none", "--precision", "fp32")
    typed("import-onnx", file, "--engine", tmp_path / "engine", *options, "--no-check")
    session, _ = open_session("onnxruntime", Bundle.open(tmp_path / "engine"), SessionOptions(batch=12))
    found = session.run(small_pixels)
    assert found.cam is not None
    with torch.inference_mode():
        expected = torch.softmax(network(normalised(small_pixels)), 1)[:, 0]
        weight = network.fc.weight[0] - network.fc.weight[1]  # type: ignore[union-attr, index]
        cam = torch.einsum("c,nchw->nhw", weight, features(network, small_pixels))
    np.testing.assert_allclose(found.probability, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.cam, cam.numpy(), atol=1e-3)
    session.close()


def test_the_commands_of_the_documentation_do_what_it_says(lab: Path, archive: Path) -> None:
    assert [one[0] for one in COMMANDS] == [
        "import-onnx", "inspect", "parity", "score", "evaluate", "report", "heatmap", "doctor", "bench",
    ]  # fmt: skip
    image = next(iter(sorted(archive.rglob("*.png")))).relative_to(archive.parent)
    for command in COMMANDS[1:]:
        # The page's picture is one of its reader's archive.
        arguments = [re.sub(r"archive/.*\.png", str(image), argument) for argument in command]
        arguments += ["--rounds", "1", "--seconds", "1", "--no-sweep"] if command[0] == "bench" else []
        type_in(lab, arguments)
    assert (lab / "out/report.html").exists() and (lab / "one.png").exists()

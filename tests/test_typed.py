"""Types the commands of the README and of pages about one subject, on files such as their reader has."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnxruntime as ort
import pytest
import torch

from mura_trt.checkpoint import load_checkpoint
from tests.networks.graphs import Small
from tests.test_docs import ELSEWHERE, ROOT, TYPED, blocks_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CHECKPOINT = ROOT / "engines" / "demo" / "model.safetensors"
# What the reader would leave to its default, and wait for.
SHORTER = {
    "bench": ["--rounds", "1", "--seconds", "1", "--no-sweep"],
    "train": ["--epochs", "1", "--size", "64"],
    "parity": ["--studies", "4"],
    "evaluate": ["--resamples", "100"],
}


def typed(line: str, folder: Path) -> str:
    """Runs a line as it stands, from a folder; what it printed."""
    command = [sys.executable, "-m", "mura_trt", *shlex.split(line, comments=True)[1:]]
    command += SHORTER.get(command[3], [])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages say a reader has."""
    folder = tmp_path_factory.mktemp("reader")
    typed("mura-trt demo archive --studies 8 --seed 5", folder)
    typed("mura-trt demo MURA-v1.1 --studies 8 --train-studies 20 --seed 6", folder)
    state = load_checkpoint(CHECKPOINT).float().state_dict()
    for name in ("CHECKPOINT.pth", "mine.pth"):
        torch.save(state, folder / name)
    thousand = {"classifier.weight": torch.randn(1000, 1664), "classifier.bias": torch.randn(1000)}
    torch.save({**state, **thousand}, folder / "densenet169-imagenet.pth")
    for name in ("valid_image_paths.csv", "valid_labeled_studies.csv"):
        shutil.copy(folder / "archive" / name, folder)
    shutil.copy(folder / "valid_labeled_studies.csv", folder / "labels.csv")
    shutil.copy(next((folder / "archive").rglob("*.png")), folder / "image.png")
    (folder / "MODEL.onnx").write_bytes(Small().model().SerializeToString())
    (folder / "engines").mkdir()
    for recipe in (ROOT / "engines").glob("*.toml"):
        shutil.copy(recipe, folder / "engines")
    return folder


def to_type(page: str) -> Iterator[str]:
    for line in blocks_of(ROOT / page):
        if line.startswith("mura-trt ") and not any(re.search(what, line) for what in ELSEWHERE):
            yield line


def test_what_the_pages_say_to_type_does_it(reader: Path) -> None:
    """In the pages' order: what the README made, later ones go on with."""
    for page in TYPED:
        lines = list(to_type(page))
        assert lines
        for line in lines:
            words = shlex.split(line, comments=True)
            # Each line stands for itself: it is not hindered by what an earlier one left.
            if words[1] == "score" and not {"--resume", "--update"} & set(words):
                shutil.rmtree(reader / "out", ignore_errors=True)
            if words[1] == "train":
                (reader / "mine.safetensors").unlink(missing_ok=True)
                shutil.rmtree(reader / "mine-training", ignore_errors=True)
            if words[1] == "demo":
                (reader / "elsewhere").mkdir()
            typed(line, reader / "elsewhere" if words[1] == "demo" else reader)
    session = ort.InferenceSession(str(reader / "model.onnx"), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape[1:]) == ("image", "tensor(uint8)", [320, 320, 1])
    assert [output.name for output in session.get_outputs()] == ["probability", "logit", "cam"]

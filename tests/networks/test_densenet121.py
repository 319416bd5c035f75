"""DenseNet-121 of our own module, from a checkpoint in torchvision's layout on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from mura_trt.bundle import Bundle
from mura_trt.checkpoint import load_checkpoint, load_network, save_checkpoint
from mura_trt.errors import CheckpointError
from mura_trt.export import load_exported
from mura_trt.model import MuraNet
from tests.conftest import spread
from tests.oracle import torchvision_models


@pytest.fixture(scope="module")
def densenet121(pixels: NDArray[np.uint8]) -> MuraNet:
    torch.manual_seed(121)
    return spread(MuraNet("densenet121"), pixels[:6])


@pytest.fixture(scope="module")
def checkpoint121(densenet121: MuraNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint121") / "model.safetensors"
    save_checkpoint(densenet121, path)
    return path


def test_a_checkpoint_is_known_by_its_weights(densenet121: MuraNet, checkpoint121: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(checkpoint121)
    assert (loaded.architecture, loaded.title) == ("densenet121", "densenet121")
    for name, tensor in densenet121.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(loaded.state_dict()[name], tensor), name
    torch.save({"state_dict": torchvision_models().densenet121(num_classes=1).state_dict()}, tmp_path / "theirs.pth")
    assert load_checkpoint(tmp_path / "theirs.pth").architecture == "densenet121"


def test_one_that_is_not_whole_is_told_by_its_own_names(checkpoint121: Path, tmp_path: Path) -> None:
    state = load_file(checkpoint121)
    del state["features.denseblock2.denselayer1.conv1.weight"]
    save_file(state, tmp_path / "cut.safetensors")
    with pytest.raises(CheckpointError, match=r"1 weights missing \(features\.denseblock2\.denselayer1\.conv1"):
        load_checkpoint(tmp_path / "cut.safetensors")


def test_an_ensemble_may_be_mixed(checkpoint: Path, checkpoint121: Path, pixels: NDArray[np.uint8]) -> None:
    network = load_network([checkpoint, checkpoint121, checkpoint121])
    assert network.title == "densenet169, densenet121 x 2"
    with torch.inference_mode():
        alone = [load_checkpoint(path)(torch.from_numpy(pixels[:1]))[0] for path in (checkpoint, checkpoint121)]
        probability = network(torch.from_numpy(pixels[:1]))[0]
    torch.testing.assert_close(probability, (alone[0] + 2 * alone[1]) / 3)


@pytest.mark.slow  # for the exporter
def test_it_goes_all_the_way(
    densenet121: MuraNet, checkpoint121: Path, archive: Path, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    from tests.networks.test_resnet import typed

    (tmp_path / "few.toml").write_text(
        'name = "121"\nbuilder = "tensorrt-rtx"\ncheck_views = 8\n[parity.model]\ndp_mean = 0.01\ndp_max = 0.03\n'
    )
    engine, out = tmp_path / "engine", tmp_path / "out"
    typed("build-engine", tmp_path / "few.toml", "--checkpoint", checkpoint121, "-o", engine, "--calibrate", archive)
    bundle = Bundle.open(engine)
    assert (bundle.manifest.network, bundle.manifest.imported) == ("densenet121", None)
    loaded = load_exported(bundle.path("fp32_onnx")).state_dict()
    for name, tensor in densenet121.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(loaded[name], tensor), name
    wrists = next(archive.rglob("XR_WRIST"))
    typed("score", wrists, "--engine", engine, "-o", out, "--runtime", "torch", "--heatmaps", "all")
    typed("evaluate", out, "--resamples", 50)
    loose = ("studies.flip_share=1", "clinical.kappa=2", "clinical.auroc=1", "half.dp_max=0.05", "studies.dp_max=0.05")
    bounds = [word for one in loose for word in ("--bound", one)]
    command = ("parity", engine, archive, "--checkpoint", checkpoint121, "--studies", 2, "--runtime", "onnxruntime")
    typed(*command, *bounds)

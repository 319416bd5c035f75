"""The network against torchvision's, and what the graph adds in front of and behind it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mura_trt.contract import IMAGENET_MEAN, IMAGENET_STD
from mura_trt.model import ARCHITECTURES, MuraNet, architecture_of
from tests.conftest import set_batch_norms
from tests.oracle import torchvision_models


@pytest.fixture(scope="module")
def torchvision_densenet() -> nn.Module:
    """The densenet169 of torchvision, with one output."""
    network: nn.Module = torchvision_models().densenet169(num_classes=1)
    return network.eval()


def as_torchvision_takes_it(pixels: NDArray[np.uint8]) -> Tensor:
    """float32 (n, 3, H, W): gray repeated three times and normalised, step by step."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).repeat(1, 3, 1, 1).float() / 255
    return (x - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]


def test_state_dict_is_torchvisions(torchvision_densenet: nn.Module) -> None:
    ours, theirs = MuraNet().state_dict(), torchvision_densenet.state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }
    assert len(ours) == 1015
    assert sum(parameter.numel() for parameter in MuraNet().parameters()) == 12_486_145


def test_probability_is_torchvisions(
    torchvision_densenet: nn.Module, model: MuraNet, pixels: NDArray[np.uint8]
) -> None:
    torchvision_densenet.load_state_dict(model.state_dict())
    with torch.inference_mode():
        expected = torchvision_densenet(as_torchvision_takes_it(pixels[:4]))[:, 0]
        probability, logit, _ = model(torch.from_numpy(pixels[:4]))
    assert expected.std() > 0.1  # the views differ, or the comparison would say little
    torch.testing.assert_close(probability, torch.sigmoid(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(logit, expected, atol=5e-5, rtol=0)


def test_stem_sees_the_normalised_image_up_to_the_border(model: MuraNet, pixels: NDArray[np.uint8]) -> None:
    """Folding the mean into the padded convolution would be off by 2.45 at the border here, and hide in dp."""
    stem = model.features[0]
    with torch.inference_mode():
        ours = stem(model.normalise(torch.from_numpy(pixels[:2])))
        expected = stem(as_torchvision_takes_it(pixels[:2]))
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)


def test_logit_is_the_maps_mean_plus_bias(model: MuraNet, pixels: NDArray[np.uint8]) -> None:
    with torch.inference_mode():
        image = torch.from_numpy(pixels[:2])
        probability, logit, cam = model(image)
        pooled_first = model.classifier(model.activation(image).mean((2, 3)))[:, 0]
    assert cam.shape == (2, 10, 10)
    torch.testing.assert_close(logit, cam.mean((1, 2)) + model.classifier.bias)
    torch.testing.assert_close(logit, pooled_first, atol=5e-5, rtol=0)
    torch.testing.assert_close(probability, torch.sigmoid(logit))


def test_half_body_keeps_input_and_head_in_fp32(model: MuraNet) -> None:
    import copy

    half = copy.deepcopy(model).half_body()
    assert {tensor.dtype for tensor in half.features.parameters()} == {torch.float16}
    assert half.classifier.weight.dtype == half.mean.dtype == half.scale.dtype == torch.float32


def test_densenet121_is_torchvisions(pixels: NDArray[np.uint8]) -> None:
    theirs = torchvision_models().densenet121(num_classes=1).eval()
    ours = MuraNet("densenet121").eval()
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == {
        name: tensor.shape for name, tensor in theirs.state_dict().items()
    }
    assert sum(parameter.numel() for parameter in ours.parameters()) == 6_954_881  # its paper's, with one output
    set_batch_norms(ours, pixels[:4])
    theirs.load_state_dict(ours.state_dict())
    with torch.inference_mode():
        expected = theirs(as_torchvision_takes_it(pixels[:3]))[:, 0]
        _, logit, cam = ours(torch.from_numpy(pixels[:3]))
    assert expected.std() > 1e-3
    torch.testing.assert_close(logit, expected, atol=5e-5, rtol=0)
    assert cam.shape == (3, 10, 10)


def test_architectures_are_told_by_their_blocks() -> None:
    for name in ARCHITECTURES:
        with torch.device("meta"):
            names = list(MuraNet(name).state_dict())
        assert architecture_of(names) == architecture_of(f"members.1.{one}" for one in names) == name
        assert architecture_of(one for one in names if "denseblock3" not in one) is None
    assert architecture_of(["layer1.0.conv1.weight"]) is architecture_of([]) is None

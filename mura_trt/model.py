"""DenseNets for MURA as torch modules that take raw gray pixels and return every view's score and map."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Self, cast

from mura_trt.contract import DENSENET169, IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from torch import Tensor

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ModuleNotFoundError:  # the module imports all the same; whoever makes a network meets the missing library first

    class nn:  # type: ignore[no-redef]
        """Stands in for torch.nn as a base class."""

        Module = object


# Layers per block, by architecture; channels added by a layer, and channels out of the stem (Huang et al. 2017, table
# 1). The MURA paper's is DenseNet-169.
ARCHITECTURES = {"densenet121": (6, 12, 24, 16), DENSENET169: (6, 12, 32, 32)}
GROWTH = 32
STEM_CHANNELS = 64
BOTTLENECK = 4  # a layer's 1x1 convolution makes BOTTLENECK * GROWTH channels
_LAYER = re.compile(r"denseblock(\d+)\.denselayer(\d+)\.")


class DenseLayer(nn.Module):
    """BN-ReLU-conv1x1-BN-ReLU-conv3x3; returns its input with GROWTH new channels behind."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, BOTTLENECK * GROWTH, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK * GROWTH)
        self.conv2 = nn.Conv2d(BOTTLENECK * GROWTH, GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """float32 or float16 (N, C, H, W) to (N, C + GROWTH, H, W)."""
        new = self.conv1(F.relu(self.norm1(x)))
        new = self.conv2(F.relu(self.norm2(new)))
        return torch.cat([x, new], 1)


def architecture_of(names: Iterable[str]) -> str | None:
    """The architecture that names of a state dict are of, by the layers of its blocks; None where it is none of ours.

    Parameters
    ----------
    names
        Such as ``features.denseblock4.denselayer32.conv2.weight``, with anything in front.
    """
    found: dict[int, int] = {}
    for name in names:
        if match := _LAYER.search(name):
            block, layer = int(match[1]), int(match[2])
            found[block] = max(layer, found.get(block, 0))
    layers = tuple(found[block] for block in sorted(found))
    return next((name for name, wanted in ARCHITECTURES.items() if wanted == layers), None)


def _dense_block(channels: int, layers: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict((f"denselayer{i + 1}", DenseLayer(channels + i * GROWTH)) for i in range(layers)))


def _transition(channels: int) -> nn.Sequential:
    # The paper pools behind the convolution. Both are linear and a 1x1 convolution sees one position at a time, so that
    # the order changes nothing but rounding, and a quarter of the positions are left to convolve: 8 % of all work less.
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(channels),
            relu=nn.ReLU(),
            pool=nn.AvgPool2d(2),
            conv=nn.Conv2d(channels, channels // 2, 1, bias=False),
        )
    )


class Network(nn.Module):
    """What can be exported and scored with: one network, or several that vote."""

    @property
    def title(self) -> str:
        """Its architecture, and of an ensemble how many there are of each."""
        members = [module.architecture for module in self.modules() if isinstance(module, MuraNet)]
        counts = {name: members.count(name) for name in members}
        return ", ".join(name if count == 1 else f"{name} x {count}" for name, count in counts.items())

    def convolutions(self) -> Iterator[tuple[str, nn.Conv2d]]:
        """The body's convolutions with their names, in the order they run in."""
        return ((name, module) for name, module in self.named_modules() if isinstance(module, nn.Conv2d))

    def half_body(self) -> Self:
        """Puts everything up to the last feature map in half precision; input, normalisation and head stay FP32."""
        for module in self.modules():
            if isinstance(module, MuraNet):
                module.features.half()
        return self


class MuraNet(Network):
    """A DenseNet with one output; ``state_dict`` has the names of torchvision's, as ``densenet169(num_classes=1)``.

    The normalisation numbers are buffers outside the state dict, so a checkpoint never carries or overrides them.

    Parameters
    ----------
    architecture
        A key of ``ARCHITECTURES``.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, architecture: str = DENSENET169) -> None:
        super().__init__()
        self.architecture = architecture
        blocks = ARCHITECTURES[architecture]
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=nn.Conv2d(3, STEM_CHANNELS, 7, stride=2, padding=3, bias=False),
            norm0=nn.BatchNorm2d(STEM_CHANNELS),
            relu0=nn.ReLU(),
            pool0=nn.MaxPool2d(3, stride=2, padding=1),
        )
        channels = STEM_CHANNELS
        for number, layers in enumerate(blocks, start=1):
            parts[f"denseblock{number}"] = _dense_block(channels, layers)
            channels += layers * GROWTH
            if number < len(blocks):
                parts[f"transition{number}"] = _transition(channels)
                channels //= 2
        parts["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(parts)
        self.classifier = nn.Linear(channels, 1)
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / (255 * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)), persistent=False)

    def normalise(self, image: Tensor) -> Tensor:
        """Gray pixels as the three normalised channels that ImageNet networks take.

        Cast comes before transpose (TensorRT-RTX refuses uint8 in a transpose), and the mean is subtracted before the
        convolution pads with zeros: folding it into the convolution is wrong at the borders.

        Parameters
        ----------
        image : Tensor
            uint8 (N, H, W, 1).

        Returns
        -------
        Tensor
            float32 (N, 3, H, W).
        """
        return (image.float().permute(0, 3, 1, 2) - self.mean) * self.scale

    def activation(self, image: Tensor) -> Tensor:
        """The last feature map behind its ReLU: float32 (N, C, H/32, W/32) of uint8 (N, H, W, 1)."""
        x = self.normalise(image).to(cast("Tensor", self.features[0].weight).dtype)
        return F.relu(cast("Tensor", self.features(x))).float()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores raw views.

        Parameters
        ----------
        image : Tensor
            uint8 (N, H, W, 1), gray levels 0..255; H and W divisible by 32.

        Returns
        -------
        probability, logit, cam : Tensor
            float32 (N,), (N,) and (N, H/32, W/32).
        """
        return self.score(self.activation(image))

    def score(self, activation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probability, logit and class activation map of the last feature map, float32 (N, C, h, w).

        The class activation map M = sum_k w_k f_k (Zhou et al. 2016) comes first and the logit is its mean plus the
        bias, which equals pooling first: both are linear.
        """
        cam = F.conv2d(activation, self.classifier.weight[:, :, None, None])[:, 0]
        logit = cam.mean((1, 2)) + self.classifier.bias
        return torch.sigmoid(logit), logit, cam


class Ensemble(Network):
    """Several networks whose probabilities are averaged, as the MURA paper does with five (section 3.1)."""

    def __init__(self, members: Sequence[MuraNet]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores raw views as :meth:`MuraNet.forward` does.

        The probability is the members' mean; the logit is the probability's, so it is not the mean of the map, which is
        the mean of the members' maps.
        """
        return vote([member(image) for member in self.members])


def vote(outputs: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """An ensemble's outputs from its members', as :meth:`Ensemble.forward` has them."""
    probability = torch.stack([probability for probability, _, _ in outputs]).mean(0)
    logits = torch.stack([logit for _, logit, _ in outputs])
    # Of the mean of p, by way of log p and log (1 - p), which hold where p rounds to 0 or 1.
    logit = torch.logsumexp(F.logsigmoid(logits), 0) - torch.logsumexp(F.logsigmoid(-logits), 0)
    return probability, logit, torch.stack([cam for _, _, cam in outputs]).mean(0)


def network_of(members: Sequence[MuraNet]) -> Network:
    """The only one, or the ensemble of several."""
    return members[0] if len(members) == 1 else Ensemble(members)

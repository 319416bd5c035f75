"""A demo model fitted on the spot: a random DenseNet-169 with a logistic regression on its pooled features.

It knows synthetic pictures and nothing else. What it is for: a checkpoint of the right shape, whose scores mean
something on the demo archive, so that every later step has real input.
"""

from __future__ import annotations

import logging
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from mura_trt.contract import InputContract
from mura_trt.cores import usable_cores
from mura_trt.decode import Decoder
from mura_trt.demo.archive import DemoPlan, demo_studies
from mura_trt.errors import UsageError
from mura_trt.model import MuraNet

# Far from the seeds that people give `mura-trt demo`, so that the fit never sees the archive it is shown on.
FIT_SEED = 1_000_003
STATISTICS_VIEWS = 24  # batch-norm statistics come from one forward pass over these
# C of scikit-learn. With a weaker pull the scores hang on the last gray level: between DALI's and Pillow's resize a
# study's probability moved by 0.004 at most at 3e-4, by 0.009 at 1e-3 and by 0.06 at 1e-2 (45 studies).
INVERSE_REGULARISATION = 5e-4
BATCH = 8

logger = logging.getLogger(__name__)


def fit_demo_model(studies: int, seed: int = FIT_SEED) -> MuraNet:
    """Fits the demo model on views drawn in memory.

    Parameters
    ----------
    studies
        How many synthetic studies to fit on; some 2.7 views each, 170 ms a view on 2 cores.
    seed
        Of the network's random weights and of the studies.

    Raises
    ------
    UsageError
        The studies are all of one class.
    """
    import torch
    from sklearn.linear_model import LogisticRegression

    pixels, labels = _draw(studies, seed)
    if len(set(labels.tolist())) < 2:
        raise UsageError(f"{studies} studies hold one class only; fit on more")
    torch.manual_seed(seed)
    model = MuraNet()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _set_batch_norms(model, pixels)
    logger.info("computing features of %d views", len(pixels))
    features = _pooled_features(model, pixels)
    mean, std = features.mean(0), features.std(0) + 1e-6
    regression = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=2000)
    regression.fit((features - mean) / std, labels)
    # The classifier takes features as they are: w'(f - m)/s + b = (w/s)'f + (b - (w/s)'m).
    weight = regression.coef_[0] / std
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(weight[None]))
        model.classifier.bias.copy_(torch.tensor([regression.intercept_[0] - weight @ mean]))
    return model.eval()


def _draw(studies: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels uint8 (n, H, W, 1) through the decoder that scoring uses, and labels (n,)."""
    contract = InputContract()
    views = [view for study in demo_studies(DemoPlan(studies, seed)) for view in study]
    logger.info("drew %d views of %d studies", len(views), studies)
    decoder = Decoder((contract.height, contract.width), usable_cores(), BATCH)
    pixels = []
    remaining = iter(views)
    while files := [view.png for view in islice(remaining, BATCH)]:
        decoder.submit(files)
        pixels.append(decoder.collect().pixels.copy())
    return np.concatenate(pixels), np.array([view.label for view in views])


def _set_batch_norms(model: MuraNet, pixels: NDArray[np.uint8]) -> None:
    """Gives every batch norm the statistics of real activations, layer by layer in one forward pass."""
    import torch
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    chosen = np.random.default_rng(0).permutation(len(pixels))[:STATISTICS_VIEWS]
    model.train()
    with torch.no_grad():
        model(torch.from_numpy(pixels[chosen]))
    model.eval()


def _pooled_features(model: MuraNet, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 (n, 1664): the last feature map's mean, which is all that the classifier sees."""
    import torch

    with torch.inference_mode():
        parts = [
            model.activation(torch.from_numpy(pixels[at : at + BATCH])).mean((2, 3)).numpy()
            for at in range(0, len(pixels), BATCH)
        ]
    return np.concatenate(parts)

"""The demo model's fit, on a few studies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mura_trt.checkpoint import load_checkpoint, save_checkpoint
from mura_trt.demo import model as demo_model
from mura_trt.demo.model import fit_demo_model
from mura_trt.errors import UsageError

STUDIES, SEED = 10, 4


def test_fit_is_a_checkpoint_that_tells_its_own_studies_apart(tmp_path: Path) -> None:
    save_checkpoint(fit_demo_model(STUDIES, SEED), tmp_path / "model.safetensors")
    model = load_checkpoint(tmp_path / "model.safetensors")
    pixels, labels = demo_model._draw(STUDIES, SEED)
    assert len(pixels) == len(labels)
    with torch.inference_mode():
        probability = np.concatenate([model(torch.from_numpy(image[None]))[0].numpy() for image in pixels])
    assert roc_auc_score(labels, probability) > 0.8
    # The intercept carries the classes' shares, so the folded head must give their mean on average.
    assert abs(probability.mean() - labels.mean()) < 0.02


def test_one_class_cannot_be_fitted() -> None:
    with pytest.raises(UsageError, match="1 studies hold one class only"):
        fit_demo_model(1, SEED)

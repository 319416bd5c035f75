"""Tests of training, and the tiny labelled archives that they train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def add_study(root: Path, name: str, *views: NDArray[np.uint8]) -> Path:
    """Writes gray views as ``root/name/image1.png`` and so on; returns the study's folder."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, view in enumerate(views, start=1):
        Image.fromarray(view).save(folder / f"image{number}.png")
    return folder


def study_name(split: str, patient: int, abnormal: bool, part: str = "WRIST", number: int = 1) -> str:
    """``train/XR_WRIST/patient00001/study1_positive``; without the first folder where ``split`` is empty."""
    sign = "positive" if abnormal else "negative"
    return str(Path(split) / f"XR_{part}" / f"patient{patient:05d}" / f"study{number}_{sign}")


def noise_archive(root: Path, train: int, valid: int, size: int, seed: int) -> Path:
    """One view of noise a patient, the label by turns: nothing but learning it by heart tells one from the other."""
    rng = np.random.default_rng(seed)
    for split, first, patients in (("train", 0, train), ("valid", 1000, valid)):
        for patient in range(first, first + patients):
            view = rng.integers(0, 256, (size, size), np.uint8)
            add_study(root, study_name(split, patient, abnormal=patient % 2 == 1), view)
    return root

"""The table and the picture that a run leaves."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mura_trt.training.record import Epoch, draw_curves, write_log

FIRST = Epoch(
    epoch=1,
    learning_rate=1e-4,
    train_loss=0.4512345678,
    valid_loss=0.39,
    auroc=0.7,
    auroc_low=0.6,
    auroc_high=0.8,
    kappa=0.3,
    kappa_low=0.2,
    kappa_high=0.4,
    views_per_s=12.5,
)
NAN = math.nan
UNKNOWN = replace(FIRST, auroc=NAN, auroc_low=NAN, auroc_high=NAN, kappa=NAN, kappa_low=NAN, kappa_high=NAN)


def test_the_log_has_a_line_an_epoch_under_the_names_of_its_columns(tmp_path: Path) -> None:
    write_log([FIRST, replace(UNKNOWN, epoch=2, learning_rate=1e-5)], tmp_path / "log.csv")
    with (tmp_path / "log.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert " ".join(header) == (
        "epoch learning_rate train_loss valid_loss auroc auroc_low auroc_high kappa kappa_low kappa_high views_per_s"
    )
    assert rows[0] == ["1", "0.0001", "0.451235", "0.39", "0.7", "0.6", "0.8", "0.3", "0.2", "0.4", "12.5"]
    assert rows[1][:2] == ["2", "1e-05"] and rows[1][4:10] == ["nan"] * 6
    assert len(rows) == 2


def test_an_epoch_in_words() -> None:
    assert str(FIRST) == (
        "epoch 1: loss 0.4512, validation loss 0.3900, AUROC 0.700 (0.600 to 0.800), kappa 0.300 (0.200 to 0.400),"
        " 12.5 views/s"
    )


def colours(path: Path) -> int:
    """How many of the picture's pixels have a colour, as its curves do and its axes do not."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(path) as image:
        assert image.width >= 600 and image.height >= 250
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return int((pixels.max(2) - pixels.min(2) > 40).sum())


@pytest.mark.parametrize(
    "epochs",
    [
        [FIRST],
        [UNKNOWN],
        [FIRST, replace(FIRST, epoch=2, learning_rate=1e-5, valid_loss=0.3), replace(UNKNOWN, epoch=3)],
        [UNKNOWN, replace(UNKNOWN, epoch=2)],
    ],
    ids=["one", "one without figures", "three", "two without figures"],
)
def test_the_picture_shows_curves(epochs: list[Epoch], tmp_path: Path) -> None:
    draw_curves(epochs, tmp_path / "curves.png")
    assert colours(tmp_path / "curves.png") > 50


def test_the_picture_follows_the_figures(tmp_path: Path) -> None:
    second = replace(FIRST, epoch=2)
    for name, epoch in (("a", second), ("b", replace(second, kappa=0.5)), ("c", replace(second, learning_rate=1e-5))):
        draw_curves([FIRST, epoch], tmp_path / f"{name}.png")
    pictures = {(tmp_path / f"{name}.png").read_bytes() for name in "abc"}
    assert len(pictures) == 3
    draw_curves([FIRST, second], tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "a.png").read_bytes()

"""``mura-trt score`` against the forty-line reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from mura_trt.bundle import Bundle
from mura_trt.host_decode import open_decoder
from mura_trt.model import MuraNet
from mura_trt.score import score
from mura_trt.score_options import ScoreOptions
from tests import reference


@pytest.fixture(scope="module")
def scored(archive: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> pd.Series:
    out = tmp_path_factory.mktemp("scored") / "out"
    score(ScoreOptions(archive, bundle.folder, out, runtime="onnxruntime"))
    return pd.read_csv(out / "studies.csv").set_index("study")["probability"]


def test_studies_agree_with_pillow_and_torch(scored: pd.Series, archive: Path, model: MuraNet) -> None:
    expected = pd.Series(reference.score_studies(archive, model))
    assert set(scored.index) == set(expected.index)
    expected = expected[scored.index]
    assert expected.std() > 0.05  # studies differ, or agreement would say little
    assert (scored - expected).abs().max() <= 0.02
    clear = (expected - 0.5).abs() > 0.02
    assert clear.sum() > 10
    assert ((scored > 0.5) == (expected > 0.5))[clear].all()


@pytest.mark.slow
def test_studies_agree_closely_on_the_same_pixels(scored: pd.Series, archive: Path, model: MuraNet) -> None:
    decoder = open_decoder((320, 320), threads=1, batch=1)

    def decode(path: Path) -> NDArray[np.uint8]:
        decoder.submit([path.read_bytes()])
        pixels: NDArray[np.uint8] = decoder.collect().pixels[0]
        return pixels

    expected = pd.Series(reference.score_studies(archive, model, decode))[scored.index]
    assert (scored - expected).abs().max() <= 1e-4

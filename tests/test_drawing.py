"""Drawing in a process of its own: what hangs or dies in it, and what that costs."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from mura_trt import drawing
from mura_trt.archives.folder import FolderSource
from mura_trt.archives.listing import Listing, Reference
from mura_trt.contract import InputContract
from mura_trt.errors import EnvironmentProblem
from mura_trt.heatmaps import heatmap_tables, picture_name
from mura_trt.ledger import Rows, scores_of

MAP = InputContract().map_shape


@dataclass(frozen=True)
class TrapSource(FolderSource):
    """A folder in which some files hang whoever reads them, and others kill."""

    def open(self) -> TrapSource:
        return self

    def read(self, reference: Reference) -> bytes:
        data = super().read(reference)
        if data == b"hang":
            time.sleep(600)
        if data == b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        return data


def listing_of(root: Path, count: int) -> Listing:
    return Listing(
        TrapSource(str(root)),
        pa.array([b"s/%03d.png" % at for at in range(count)], pa.large_binary()),
        np.zeros(count, np.int32),
        pa.array([b"s"], pa.large_binary()),
    )


def committed(count: int) -> list[Rows]:
    """Shards of seven views, each view's map filled with its number."""
    rows = []
    for start in range(0, count, 7):
        views = np.arange(start, min(start + 7, count))
        maps = np.broadcast_to(views[:, None, None], (len(views), *MAP)).astype(np.float32)
        rows.append(Rows(start, start + len(views), views, scores_of(views / 10, views / 1000, maps=maps)))
    return rows


def drawn(root: Path, views: list[int], count: int) -> pd.DataFrame:
    parts = heatmap_tables(
        listing_of(root, count), np.array(views, np.int64), iter(committed(count)), root / "out", root / "worker.log"
    )
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def root(tmp_path: Path, make_png: Callable[[str], Path]) -> Path:
    for at in range(40):
        make_png(f"s/{at:03d}.png")
    return tmp_path


def check(table: pd.DataFrame, root: Path, views: list[int]) -> None:
    assert table["view"].tolist() == [f"s/{at:03d}.png" for at in views]
    assert table["file"].tolist() == [picture_name(at) for at in views]
    assert table["m57"].tolist() == views and np.allclose(table["probability"], np.array(views) / 1000)
    for file in table["file"]:
        with Image.open(root / "out" / file) as picture:
            assert picture.size == (320, 320)


def test_views_are_drawn_whatever_their_shards_and_in_runs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mura_trt.heatmaps.IN_A_RUN", 9)
    views = [0, 1, 6, 7, 8, 20, 21, 22, 23, 24, 25, 26, 27, 28, 39]
    check(drawn(root, views, 40), root, views)
    assert len(list((root / "out").rglob("*.jpg"))) == len(views)
    assert len(drawn(root, [], 40)) == 0


@pytest.mark.parametrize("trap", ["hang", "die"])
def test_a_view_on_which_the_process_is_lost_costs_no_other_its_picture(
    root: Path, trap: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(drawing, "PATIENCE", 8.0)
    monkeypatch.setattr("mura_trt.heatmaps.IN_A_RUN", 9)
    (root / "s/010.png").write_bytes(trap.encode())
    (root / "s/020.png").write_bytes(b"no picture")
    views = [*range(5, 15), *range(18, 25)]
    with caplog.at_level(logging.WARNING, "mura_trt"):
        table = drawn(root, views, 40)
    check(table, root, [view for view in views if view not in (10, 20)])
    how = "hung for 8 s" if trap == "hang" else "died (exit code -9)"
    lost = [record.getMessage() for record in caplog.records if "process" in record.getMessage()]
    assert lost == [f"a view that was scored has no heatmap: the process that drew it {how}"]
    assert "not an image" in caplog.text.lower() or "neither" in caplog.text


def test_where_every_view_is_lost_drawing_ends(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "MAX_LOSSES_IN_A_ROW", 2)
    for at in range(40):
        (root / f"s/{at:03d}.png").write_bytes(b"die")
    with pytest.raises(
        EnvironmentProblem, match=r"died .*, 3 times with none drawn .* all scores are written.*--resume"
    ):
        drawn(root, list(range(12)), 40)


def test_a_picture_that_cannot_be_written_is_an_error_of_the_disk(root: Path) -> None:
    (root / "out").write_bytes(b"in the way")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        drawn(root, [1, 2], 40)

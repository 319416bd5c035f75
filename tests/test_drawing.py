"""Drawing in a process of its own: what hangs or dies in it, and what that costs."""

from __future__ import annotations

import logging
import os
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image

from mura_trt import drawing
from mura_trt.archives.folder import FolderSource
from mura_trt.archives.listing import Listing, Reference, Source
from mura_trt.contract import InputContract
from mura_trt.errors import EnvironmentProblem, UsageError
from mura_trt.heatmaps import heatmap_tables, picture_name
from mura_trt.overlay import encoded, overlay
from mura_trt.pixels import ViewDecoder
from mura_trt.rows import Rows, scores_of

CONTRACT = InputContract(map_shape=(10, 10))


@dataclass(frozen=True)
class TrapSource(FolderSource):
    """A folder in which some files hang or freeze whoever reads them, and others kill; it notes what was done to it."""

    def open(self) -> TrapSource:
        note(self.root, "opened")
        return self

    def read(self, reference: Reference) -> bytes:
        data = super().read(reference)
        note(self.root, f"read {os.fsdecode(reference) if isinstance(reference, bytes) else reference}")
        if data == b"hang":
            time.sleep(600)
        if data == b"freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        if data == b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        if data == b"die when a failure was told":
            while "told" not in noted(Path(self.root)):
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        return data


@dataclass(frozen=True)
class ClosedSource(TrapSource):
    """A folder that cannot be opened."""

    error: Exception

    def open(self) -> TrapSource:
        super().open()
        raise self.error


@dataclass(frozen=True)
class StuckSource(TrapSource):
    """A folder that does not come to be open."""

    def open(self) -> TrapSource:
        time.sleep(600)
        return self


@dataclass(frozen=True)
class SlowSource(TrapSource):
    """A folder on a slow disk."""

    def read(self, reference: Reference) -> bytes:
        time.sleep(0.5)
        return super().read(reference)


class Stream(TrapSource):
    """A folder's reader that passes over much to come to its first view, and tells that it moves."""

    def read(self, reference: Reference) -> bytes:
        if reference == b"s/000.png":
            for _ in range(80):
                time.sleep(0.1)
                type(self).moved_at = time.monotonic()
        return super().read(reference)


@dataclass(frozen=True)
class StreamSource(TrapSource):
    """A folder that is read as a stream is."""

    def open(self) -> TrapSource:
        super().open()
        return Stream(self.root)


def note(root: str, what: str) -> None:
    """For the test, whichever process it is that something happens in."""
    with (Path(root) / "notes").open("a") as file:
        file.write(what + "\n")


def noted(root: Path) -> list[str]:
    return (root / "notes").read_text().splitlines()


def listing_of(source: Source, count: int) -> Listing:
    return Listing(
        source,
        pa.array([b"s/%03d.png" % at for at in range(count)], pa.large_binary()),
        np.zeros(count, np.int32),
        pa.array([b"s"], pa.large_binary()),
    )


def gray_of(view: int) -> int:
    return 2 * view + 20


def map_of(view: int) -> NDArray[np.float32]:
    """With a peak at a place of its own."""
    cam = np.zeros((10, 10), np.float32)
    cam.flat[view] = view + 3
    return cam


def committed(count: int) -> list[Rows]:
    """Shards of seven views."""
    rows = []
    for start in range(0, count, 7):
        views = np.arange(start, min(start + 7, count))
        maps = np.stack([map_of(view) for view in views.tolist()])
        rows.append(Rows(start, start + len(views), views, scores_of(views / 10, views / 1000, maps=maps)))
    return rows


def drawn(root: Path, views: list[int], count: int, source: Source | None = None) -> pd.DataFrame:
    listing = listing_of(source or TrapSource(str(root)), count)
    parts = heatmap_tables(
        listing, np.array(views, np.int64), iter(committed(count)), root / "out", root / "worker.log", CONTRACT
    )
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "s").mkdir()
    for at in range(90):
        Image.fromarray(np.full((120, 90), gray_of(at), np.uint8)).save(tmp_path / f"s/{at:03d}.png")
    return tmp_path


def check(table: pd.DataFrame, root: Path, views: list[int]) -> None:
    assert table["view"].tolist() == [f"s/{at:03d}.png" for at in views]
    assert table["file"].tolist() == [picture_name(at) for at in views]
    assert np.allclose(table["probability"], np.array(views) / 1000)
    assert np.array_equal(table[[f"m{at}" for at in range(100)]], [map_of(view).ravel() for view in views])
    for view, file in zip(views, table["file"], strict=True):
        drawing = encoded(overlay(np.full((320, 320), gray_of(view), np.uint8), map_of(view)))
        assert (root / "out" / file).read_bytes() == drawing, view


def test_views_are_drawn_whatever_their_shards_and_in_runs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mura_trt.heatmaps.IN_A_RUN", 9)
    views = [0, 1, 6, 7, 8, 20, 21, 22, 23, 24, 25, 26, 27, 28, 39]
    check(drawn(root, views, 40), root, views)
    assert len(list((root / "out").rglob("*.jpg"))) == len(views)
    assert len(drawn(root, [], 40)) == 0


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("trap", "how"),
    [
        ("die", r"died \(exit code -9, .*worker\.log: .*\)"),
        pytest.param("hang", "hung: read takes more than 5 s", marks=pytest.mark.slow),
        pytest.param("freeze", "hung: no sign of life for 5 s", marks=pytest.mark.slow),
        pytest.param("picture", "hung: draw takes more than 5 s", marks=pytest.mark.slow),
    ],
)
def test_a_view_on_which_the_process_is_lost_costs_no_other_its_picture(
    root: Path, trap: str, how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(drawing, "PATIENCE", 5.0)
    monkeypatch.setattr("mura_trt.heatmaps.IN_A_RUN", 9)
    if trap == "picture":
        fifo = root / "out" / picture_name(10)
        fifo.parent.mkdir(parents=True)
        os.mkfifo(fifo)  # which nobody reads from
    else:
        (root / "s/010.png").write_bytes(trap.encode())
    (root / "s/020.png").write_bytes(b"no picture")
    views = [*range(5, 15), *range(18, 25)]
    table = drawn(root, views, 40)
    check(table, root, [view for view in views if view not in (10, 20)])
    lost, failed = warnings(caplog)
    assert re.fullmatch(f"a view that was scored has no heatmap: the process that drew it {how}", lost)
    assert "neither PNG" in failed


def test_a_view_that_failed_is_not_tried_again_after_a_loss(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Far enough from each other that the failure is told before the process dies."""
    (root / "s/003.png").write_bytes(b"no picture")
    (root / "s/085.png").write_bytes(b"die when a failure was told")

    class Telling(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note(str(root), "told")

    logger, telling = logging.getLogger("mura_trt.drawing"), Telling(logging.WARNING)
    logger.addHandler(telling)
    try:
        table = drawn(root, list(range(90)), 90)
    finally:
        logger.removeHandler(telling)
    check(table, root, [view for view in range(90) if view not in (3, 85)])
    failed, lost = warnings(caplog)
    assert "neither PNG" in failed and "died" in lost
    reads = Counter(noted(root))
    assert reads["read s/003.png"] == 1
    assert reads["read s/085.png"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("source", [SlowSource, StreamSource])
def test_who_is_slow_and_moves_is_given_time(
    root: Path, source: type[TrapSource], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its first picture comes long after the patience with one that hangs."""
    monkeypatch.setattr(drawing, "PATIENCE", 4.0)
    check(drawn(root, list(range(40)), 40, source(str(root))), root, list(range(40)))
    assert noted(root).count("opened") == 1 and not warnings(caplog)


def test_what_may_take_long_to_decode_is_given_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ViewDecoder(FolderSource(str(root)), (320, 320)) as decoder:
        assert decoder.standstill() == ("idle", 0.0)
        for allowance in (0.0, 30.0):
            monkeypatch.setattr(type(decoder._decoder), "attempted_at", time.monotonic() - 100)
            started = time.monotonic()
            with decoder._doing("decode", allowance):
                begun = time.monotonic()
                time.sleep(0.2)
                waited = time.monotonic() - begun
                stage, seconds = decoder.standstill()
            assert stage == "decode" and waited <= seconds + allowance <= time.monotonic() - started
        for _ in range(2):  # as often as asked
            parts = list(decoder.decoded([b"s/000.png", b"absent"]))
            assert [part.views for part in parts] == [[], [0]]
            assert [failure.view for failure in parts[0].failures] == [1]
        assert decoder.standstill() == ("idle", 0.0)


@pytest.mark.parametrize(
    ("error", "expected", "told"),
    [
        (
            FileNotFoundError(2, "No such file", "a.zip"),
            EnvironmentProblem,
            r"cannot be drawn: .*No such file: 'a.zip'",
        ),
        (ModuleNotFoundError("No module named 'zstandard'"), EnvironmentProblem, r"named 'zstandard'; .*--resume"),
        (UsageError("a.zip: no archive"), UsageError, "^a.zip: no archive$"),
    ],
)
def test_what_keeps_it_from_drawing_at_all_is_told_at_once(
    root: Path, error: Exception, expected: type[Exception], told: str
) -> None:
    with pytest.raises(expected, match=told):
        drawn(root, [1, 2, 3], 40, ClosedSource(str(root), error))
    assert noted(root) == ["opened"]


def test_who_does_not_get_ready_is_not_tried_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "START_SECONDS", 4.0)
    with pytest.raises(EnvironmentProblem, match=r"did not get ready within 4 s; .*worker\.log.*--resume"):
        drawn(root, [1, 2, 3], 40, StuckSource(str(root)))


def test_losses_with_a_picture_in_between_do_not_end_the_drawing(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One of all that were in hand, and one of each view at fault."""
    monkeypatch.setattr(drawing, "MAX_LOSSES_IN_A_ROW", 2)
    deadly = [2, 5, 8]
    for at in deadly:
        (root / f"s/{at:03d}.png").write_bytes(b"die")
    check(drawn(root, list(range(12)), 40), root, [view for view in range(12) if view not in deadly])
    assert len(warnings(caplog)) == len(deadly) > drawing.MAX_LOSSES_IN_A_ROW


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

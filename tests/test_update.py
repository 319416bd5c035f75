"""Archives that grow: what was scored and has not changed is taken over, and the rest is scored."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mura_trt.archives import list_archive
from mura_trt.bundle import Bundle
from mura_trt.earlier import Earlier, hashes_of
from mura_trt.errors import UsageError
from mura_trt.recipe import RECIPE
from mura_trt.results import EARLIER_FILE, UPDATING
from mura_trt.rows import score_type, scores_of
from mura_trt.score import score
from mura_trt.score_options import ScoreOptions


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 20), np.uint8)).save(path)


@pytest.fixture
def growing(tmp_path: Path) -> Path:
    root = tmp_path / "archive"
    for number in range(20):
        draw(root / f"study{number // 2:02d}/image{number % 2}.png", number)
    (root / "study03/image0.png").write_bytes(b"broken")
    return root


def run(archive: Path, bundle: Bundle, out: Path, **options: object) -> dict[str, object]:
    return score(ScoreOptions(archive, bundle.folder, out, runtime="null", shard_views=4, **options))  # type: ignore[arg-type]


def tables(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("studies.csv", "views.csv", "failures.csv")}


def test_views_that_store_color_are_told_by_every_run(growing: Path, bundle: Bundle, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, mode in (("study01/image0.png", "RGB"), ("study04/image1.png", "P"), ("study06/image0.png", "RGBA")):
        depth = len(mode)
        Image.frombytes(mode, (20, 20), rng.bytes(400 * depth)).save(growing / name)
    Image.frombytes("RGB", (20, 20), rng.bytes(1200)).save(growing / "study07/image0.jpg")
    Image.frombytes("LA", (20, 20), rng.bytes(800)).save(growing / "study07/image1.png")
    out = tmp_path / "out"
    told = []
    for options in ({}, {"retry_failed": True}, {"update": True}):
        run(growing, bundle, out, **options)
        views = pd.read_csv(out / "views.csv")
        told.append(views["view"][views["color"] == 1].tolist())
    assert told == 3 * [["study01/image0.png", "study04/image1.png", "study06/image0.png", "study07/image0.jpg"]]


def grow(root: Path) -> None:
    """One study more, in front of the others, one less, one view changed, one mended."""
    draw(root / "a_new/image0.png", 100)
    shutil.rmtree(root / "study08")
    draw(root / "study05/image1.png", 101)
    draw(root / "study03/image0.png", 102)


@pytest.mark.parametrize("table_format", ["csv", "parquet"])
def test_an_update_scores_what_is_new_changed_or_failed(
    growing: Path, bundle: Bundle, tmp_path: Path, table_format: str
) -> None:
    out = tmp_path / "out"
    first = run(growing, bundle, out, update=True, table_format=table_format)
    assert (first["listed"], first["failed"], first["resumed_views"], first["vanished_views"]) == (20, 1, 0, None)
    grow(growing)
    second = run(growing, bundle, out, update=True)
    run(growing, bundle, tmp_path / "clean")
    assert tables(out) == tables(tmp_path / "clean")
    assert (second["listed"], second["failed"], second["resumed_views"], second["vanished_views"]) == (19, 0, 16, 2)
    assert pd.read_csv(out / "vanished.csv")["view"].tolist() == ["study08/image0.png", "study08/image1.png"]
    assert not (out / EARLIER_FILE).exists()

    third = run(growing, bundle, out, update=True)
    assert (third["resumed_views"], third["vanished_views"]) == (19, 0)
    assert tables(out) == tables(tmp_path / "clean")
    assert run(growing, bundle, out, resume=True)["resumed_views"] == 19


def test_members_of_a_zip_are_known_again(growing: Path, bundle: Bundle, tmp_path: Path) -> None:
    path, out = tmp_path / "archive.zip", tmp_path / "out"

    def pack() -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(growing.rglob("*.png")):
                archive.write(file, file.relative_to(growing))

    pack()
    run(path, bundle, out)
    draw(growing / "study99/image0.png", 100)  # behind the others, which stay where they are
    pack()
    assert run(path, bundle, out, update=True)["resumed_views"] == 19
    run(path, bundle, tmp_path / "clean")
    assert tables(out) == tables(tmp_path / "clean")


def test_an_update_needs_the_same_engine_and_archive(growing: Path, bundle: Bundle, tmp_path: Path) -> None:
    run(growing, bundle, tmp_path / "out")
    before = tables(tmp_path / "out")
    with pytest.raises(UsageError, match="runtime null, now onnxruntime"):
        score(ScoreOptions(growing, bundle.folder, tmp_path / "out", runtime="onnxruntime", update=True))
    other = tmp_path / "other"
    shutil.copytree(growing, other)
    with pytest.raises(UsageError, match="the run began with archive"):
        run(other, bundle, tmp_path / "out", update=True)
    with pytest.raises(UsageError, match="choose one"):
        run(growing, bundle, tmp_path / "out", update=True, resume=True)
    assert tables(tmp_path / "out") == before


def test_an_update_that_was_stopped_before_it_began_is_gone_on_with_by_another(
    growing: Path, bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(growing, bundle, out)
    recipe = json.loads((out / RECIPE).read_text())
    (out / RECIPE).write_text(json.dumps({**recipe, "listing": UPDATING}))
    with pytest.raises(UsageError, match="run it again: --update"):
        run(growing, bundle, out, resume=True)
    assert run(growing, bundle, out, update=True)["resumed_views"] == 19
    (out / "hashes.dat").unlink()
    with pytest.raises(UsageError, match=r"hashes\.dat.*--overwrite"):
        run(growing, bundle, out, update=True)


def test_a_view_is_known_by_its_path_size_and_time(growing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = list_archive(growing)
    before = hashes_of(listing)
    monkeypatch.setattr("mura_trt.earlier._AT_ONCE", 3)  # views for a thread
    assert len(np.unique(before, axis=0)) == 20
    np.testing.assert_array_equal(hashes_of(listing), before)
    os.utime(growing / "study00/image0.png", ns=(0, 0))
    (growing / "study00/image1.png").unlink()
    after = hashes_of(listing)
    assert (after != before).any(axis=1).nonzero()[0].tolist() == [0, 1]
    assert not after[1].any()


def test_scores_are_found_by_hash_and_never_for_what_cannot_be_told() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(1, 1 << 63, (50, 2)).astype(np.uint64)
    hashes[7] = 0
    logit = rng.normal(size=50).astype(np.float32)
    scores = np.zeros(50, score_type(3))
    scores["logit"], scores["color"][12] = logit, True
    earlier = Earlier(hashes, scores)
    assert len(earlier) == 49
    asked = np.concatenate([hashes[10:18], rng.integers(1, 9, (3, 2)).astype(np.uint64), hashes[5:9]])
    rows = list(earlier.rows(asked, 6, done=set()))
    assert [(part.start, part.stop) for part in rows] == [(0, 6), (6, 8), (11, 12), (12, 13), (14, 15)]
    np.testing.assert_array_equal(
        np.concatenate([part.scores["logit"] for part in rows]), logit[[*range(10, 18), 5, 6, 8]]
    )
    assert [view for part in rows for view in part.views[part.scores["color"]].tolist()] == [2]
    assert [part.start for part in earlier.rows(asked, 6, done={0, 12})] == [6, 11]
    assert list(Earlier.of(asked, [], 3).rows(asked, 6, done=set())) == []


def test_of_two_scores_the_newer_counts(tmp_path: Path) -> None:
    hashes = np.array([[1, 2], [3, 4]], np.uint64)
    old, new = (scores_of([value] * 2, [0] * 2, maps=np.full((2, 3), value, np.float32)) for value in (1, 2))
    both = Earlier(hashes[:1], new[:1]).and_also(Earlier(hashes, old))
    both.write(tmp_path / "earlier.dat")
    (rows,) = Earlier.read(tmp_path / "earlier.dat", 3).rows(hashes, 2, done=set())
    assert rows.scores["logit"].tolist() == [2, 1]
    again = Earlier(hashes[:1], new[:1]).and_also(Earlier.read(tmp_path / "earlier.dat", 3))
    assert len(again) == 2  # however often an update is interrupted
    assert Earlier(hashes[:0], new[:0]).and_also(again) is again
    assert rows.scores["map"].tolist() == [[2, 2, 2], [1, 1, 1]]

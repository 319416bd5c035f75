"""Pictures of views: from overlays, from archives of all kinds, and none where the views are not those any more."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.runs import MadeStudy, made_of, write_run
from mura_trt.archives import list_archive
from mura_trt.archives.disclosure import Disclosure
from mura_trt.report.data import read_run
from mura_trt.report.thumbnails import VIEWS_A_STUDY, Pictures, chosen_views, pictures
from mura_trt.report.worklist import worklist
from tests.test_dicom import real


@pytest.fixture
def small(archive: Path, tmp_path: Path) -> Path:
    """The studies of one body part."""
    target = tmp_path / "small"
    shutil.copytree(archive / "valid" / "XR_WRIST", target / "valid" / "XR_WRIST")
    return target


def made(archive: Path, out: Path) -> Path:
    listing = list_archive(archive)
    return write_run(out, made_of(listing), listing)


def drawn(out: Path, salt: Path | None = None) -> Pictures:
    run = read_run(out)
    return pictures(run, chosen_views(run, 1000), salt, lambda _: None)


def test_a_picture_is_what_the_network_sees(small: Path, tmp_path: Path) -> None:
    found = drawn(made(small, tmp_path / "out"))
    assert len(found.jpegs) == len(list(small.rglob("*.png"))) and not found.notes
    for view, jpeg in found.jpegs.items():
        with Image.open(small / view) as file, Image.open(io.BytesIO(jpeg)) as picture:
            expected = np.asarray(file.convert("L").resize((112, 112)), float)
            assert np.abs(np.asarray(picture, float) - expected).mean() < 6
            assert len(jpeg) < 6000


def test_a_study_has_pictures_of_its_highest_views(tmp_path: Path) -> None:
    views = {f"a/{at}.png": 0.9 - 0.1 * at if at != 2 else None for at in range(8)}
    run = read_run(write_run(tmp_path / "out", [MadeStudy("a", "", views), MadeStudy("b", "", {"b/1.png": 0.01})]))
    assert chosen_views(run, 1) == ["a/0.png", "a/1.png", "a/3.png", "a/4.png"]
    assert VIEWS_A_STUDY == 4 and chosen_views(run, 0) == []
    assert chosen_views(run, 9)[-1] == "b/1.png"


def test_an_archive_that_is_gone_or_another_gives_no_pictures(small: Path, tmp_path: Path) -> None:
    out = made(small, tmp_path / "out")
    views = sorted(small.rglob("*.png"))
    views[0].unlink()
    os.utime(views[1], ns=(1, 1))
    found = drawn(out)
    assert len(found.jpegs) == len(views) - 2
    assert ["they are not in the archive any more" in note or "have changed" in note for note in found.notes] == [
        True
    ] * 2
    for view in views[1:]:
        view.rename(view.with_name(f"other-{view.name}"))
    (note,) = drawn(out).notes
    assert "none of the views that were scored is in it" in note
    shutil.rmtree(small)
    gone = drawn(out)
    assert not gone.jpegs and "no such folder or file" in gone.notes[0]


def test_archives_are_found_from_another_folder(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(path.relative_to(small).as_posix() for path in small.rglob("*.png"))
    packed = tmp_path / "small.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            archive.write(small / name, name)
    named = tmp_path / "list.csv"
    named.write_text("\n".join(names) + "\n")
    for number, (place, root) in enumerate(((small, None), (packed, None), (named, small))):
        listing = list_archive(place, root=root)
        relative = place.name if root is None else str(place)
        out = write_run(tmp_path / f"out{number}", made_of(listing), listing, archive=relative)
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "elsewhere")
        found = drawn(out)
        assert len(found.jpegs) == len(names) and not found.notes, found.notes


def test_hashed_names_need_their_salt(tmp_path: Path) -> None:
    folder, salt = tmp_path / "archive", tmp_path / "salt"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(real("MR_small_RLE.dcm"))
    listing = list_archive(folder, disclosure=Disclosure(salt))
    out = write_run(tmp_path / "out", made_of(listing), listing)
    assert len(drawn(out, salt).jpegs) == 1
    absent = tmp_path / "absent"
    found = drawn(out, absent)
    assert not found.jpegs and "--uid-salt-file" in found.notes[0] and not absent.exists()
    other = tmp_path / "other"
    assert Disclosure(other).salt  # made
    assert "--uid-salt-file" in drawn(out, other).notes[0]


def with_heatmaps(out: Path, files: dict[str, str]) -> None:
    """The table that ``score --heatmaps`` leaves."""
    table = {"view": list(files), "study": "x", "probability": 0.9, "file": list(files.values())}
    pd.DataFrame({**table, **{f"m{at}": [0.0] * len(files) for at in range(100)}}).to_csv(
        out / "heatmaps.csv", index=False
    )


def test_overlays_come_first(small: Path, tmp_path: Path) -> None:
    out = made(small, tmp_path / "out")
    views = sorted(path.relative_to(small).as_posix() for path in small.rglob("*.png"))
    (out / "heatmaps" / "00000000").mkdir(parents=True)
    sound, broken = "heatmaps/00000000/000000000000.jpg", "heatmaps/00000000/000000000001.jpg"
    Image.new("RGB", (320, 320), (250, 20, 20)).save(out / sound)
    (out / broken).write_bytes((out / sound).read_bytes()[:200])
    Image.new("RGB", (320, 320), (20, 250, 20)).save(tmp_path / "secret.jpg")
    with_heatmaps(out, {views[0]: sound, views[1]: broken, views[2]: "../secret.jpg", views[3]: "absent.jpg"})
    found = drawn(out)
    assert found.overlays == {views[0]} and len(found.jpegs) == len(views)
    with Image.open(io.BytesIO(found.jpegs[views[0]])) as image:
        red, green, blue = np.asarray(image).mean((0, 1))
        assert red > 240 and green < 30 and blue < 30
    for view in views[1:4]:
        with Image.open(io.BytesIO(found.jpegs[view])) as image:
            assert image.mode == "L"
    run = read_run(out)
    for link, files in ((True, {sound, 0}), (False, {0})):
        rows = worklist(run, len(run.studies), {}, found, link).rows["views"]
        assert set(rows["file"]) == files and sum(rows["overlay"]) == 1
    shutil.rmtree(small)
    gone = drawn(out)
    assert list(gone.jpegs) == [views[0]] and gone.notes

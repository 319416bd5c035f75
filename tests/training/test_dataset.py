"""An archive as training sees it: who is on which side, what each view counts, and what its pixels are."""

from __future__ import annotations

import csv
import errno
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mura_trt.archives import list_archive
from mura_trt.errors import UsageError
from mura_trt.host_decode import open_decoder
from mura_trt.pixels import BATCH
from mura_trt.training.catalogue import Catalogue, read_catalogue
from mura_trt.training.views import Views, load_views
from tests.training import add_study, study_name

SIZE = 32


def flat(level: int = 100, side: int = 12) -> NDArray[np.uint8]:
    return np.full((side, side), level, np.uint8)


def smooth(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Gray waves, as smooth as an X-ray that was blurred."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = sum(np.sin(x * a / width + y * b / height + c) for a, b, c in rng.uniform(1, 9, (4, 3)))
    return np.asarray(127 + 30 * waves, np.uint8)


def load(archive: Path, folder: Path, size: int = SIZE, share: float = 0.3, seed: int = 0) -> Views:
    folder.mkdir(exist_ok=True)
    return load_views(read_catalogue(archive, share, seed), size, folder, lambda done, total: None)


def study_of(catalogue: Catalogue, row: Any) -> str:
    (name,) = catalogue.listing.study_names(catalogue.listing.study_of[[int(row)]])
    return name


def keys_of(archive: Path) -> list[str]:
    listing = list_archive(archive)
    return [key.decode() for key in listing.keys(0, len(listing))]


def patients(archive: Path, rows: NDArray[np.int64]) -> set[str]:
    keys = keys_of(archive)
    return {next(part for part in Path(keys[row]).parts if part.startswith("patient")) for row in rows}


def plain(root: Path, count: int, split: str = "", first: int = 1) -> Path:
    """Patients by turns normal and abnormal, one study of one view each."""
    for patient in range(first, first + count):
        add_study(root, study_name(split, patient, abnormal=patient % 2 == 0), flat(patient % 256))
    return root


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# --- the split ---


def test_muras_folders_are_the_split_and_a_shared_patient_is_for_validation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive = plain(plain(tmp_path / "a", 6, "train"), 4, "valid", first=100)
    add_study(archive, study_name("train", 101, abnormal=True, part="ELBOW"), flat(), flat())
    views = load(archive, tmp_path / "work")
    assert patients(archive, views.valid) == {f"patient{n:05d}" for n in range(100, 104)}
    assert patients(archive, views.train) == {f"patient{n:05d}" for n in range(1, 7)}
    assert len(views.train) == 6 and len(views.valid) == 4
    assert any("2 images of train/" in line and "patient00101" in line for line in warnings_of(caplog))


def test_of_a_shared_patient_it_is_warned_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = plain(plain(tmp_path / "a", 6, "train"), 4, "valid", first=100)
    add_study(archive, study_name("train", 101, abnormal=True, part="ELBOW"), flat())
    load(archive, tmp_path / "work")
    assert len([line for line in warnings_of(caplog) if "images of train/" in line]) == 1


@pytest.mark.parametrize("seed", range(8))
def test_without_muras_folders_patients_are_split_whole(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    archive = tmp_path / "a"
    count = int(rng.integers(12, 20))
    for patient in range(1, count + 1):
        for number in range(1, int(rng.integers(2, 4))):
            for part in rng.choice(["WRIST", "HAND", "ELBOW"], int(rng.integers(1, 4)), replace=False):
                name = study_name("train" if seed % 2 else "", patient, bool(rng.random() < 0.5), str(part), number)
                add_study(archive, name, *[flat()] * int(rng.integers(1, 3)))
    share = float(rng.uniform(0.3, 0.6))
    views = load(archive, tmp_path / "work", share=share, seed=seed)
    train, valid = patients(archive, views.train), patients(archive, views.valid)
    assert not train & valid
    assert len(valid) == round(share * count) and len(train) + len(valid) == count
    assert sorted([*views.train, *views.valid]) == list(range(len(keys_of(archive))))


@pytest.mark.parametrize("name", ["patient{:05d}/{}/study1", "case{:02d}/study{}"])
def test_a_patient_is_muras_number_or_the_folder_of_studies(name: str, tmp_path: Path) -> None:
    """The first has a folder between patient and study; in the second patients are named otherwise."""
    for patient in range(16):
        for number in (1, 2):
            abnormal = "positive" if patient % 2 else "negative"
            add_study(tmp_path / "a", f"XR_WRIST/{name.format(patient, number)}_{abnormal}", flat())
    keys = keys_of(tmp_path / "a")
    views = load(tmp_path / "a", tmp_path / "work", share=0.5)
    train, valid = ({keys[row].split("/")[1] for row in rows} for rows in (views.train, views.valid))
    assert not train & valid
    assert len(train) == len(valid) == 8


def test_the_split_follows_from_the_seed(tmp_path: Path) -> None:
    archive = plain(tmp_path / "a", 40)
    splits = [load(archive, tmp_path / "work", seed=seed).valid.tolist() for seed in (0, 0, 1, 2)]
    assert splits[0] == splits[1]
    assert len({tuple(split) for split in splits}) == 3


def test_the_split_has_nothing_to_do_with_the_order_of_names(tmp_path: Path) -> None:
    valid = load(plain(tmp_path / "a", 40), tmp_path / "work").valid
    assert 10 < valid.mean() < 29  # of 0..39; the first 12 would give 5.5


# --- labels and weights ---


def test_labels_parts_studies_and_weights(tmp_path: Path) -> None:
    archive = tmp_path / "a"
    counts = {"WRIST": (3, 5), "HAND": (1, 6), "ELBOW": (2, 0)}  # abnormal and normal training views
    patient = 0
    for part, (abnormal, normal) in counts.items():
        for label in [True] * abnormal + [False] * normal:
            patient += 1
            add_study(archive, study_name("train", patient, label, part), flat())
    for label in (True, False):
        for part in ("WRIST", "SHOULDER"):
            patient += 1
            add_study(archive, study_name("valid", patient, label, part), flat(), flat())
    views = load(archive, tmp_path / "work")
    weights = views.loss_weights()
    keys = keys_of(archive)
    assert weights.dtype == np.float32 and len(weights) == len(keys)
    assert views.pixels.shape == (len(keys), SIZE, SIZE, 1)
    for row, key in enumerate(keys):
        part = key.split("XR_")[1].split("/")[0]
        abnormal, normal = counts.get(part, (0, 0))
        total = max(1, abnormal + normal)
        assert views.labels[row] == float("positive" in key)
        assert views.parts[row] == part
        assert study_of(views, row) == str(Path(key).parent)
        assert weights[row] == pytest.approx((normal if "positive" in key else abnormal) / total)


def test_unlabelled_images_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = plain(tmp_path / "a", 10)
    add_study(archive, "XR_WRIST/patient00099/study1", flat(), flat())
    views = load(archive, tmp_path / "work")
    assert any("2 of 12 images have no label" in line for line in warnings_of(caplog))
    used = [*views.train, *views.valid]
    assert len(used) == 10 and not np.isnan(views.labels[used]).any()
    assert np.isnan(views.labels).sum() == 2


def test_no_label_at_all_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    add_study(tmp_path / "a", "XR_WRIST/patient00001/study1", flat())
    with pytest.raises(UsageError, match=r"no label.*studyN_positive.*XR_WRIST/patient00001/study1/image1\.png"):
        load(tmp_path / "a", tmp_path / "work")
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize("side", ["training", "validation"])
def test_one_class_on_a_side_is_refused_before_anything_is_decoded(side: str, tmp_path: Path) -> None:
    for split, first in (("train", 0), ("valid", 10)):
        for patient in range(first, first + 4):
            one_class = split == side[:5]
            add_study(tmp_path / "a", study_name(split, patient, one_class or patient % 2 == 0), flat())
    with pytest.raises(UsageError, match=f"{side} has 4 abnormal and 0 normal views.*--validation-share"):
        load(tmp_path / "a", tmp_path / "work")
    assert not list((tmp_path / "work").iterdir())


def test_of_a_study_type_of_one_class_it_is_warned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = plain(plain(tmp_path / "a", 6, "train"), 4, "valid", first=100)
    add_study(archive, study_name("train", 50, True, "HAND"), flat())
    weights = load(archive, tmp_path / "work").loss_weights()
    told = [line for line in warnings_of(caplog) if "one class only" in line]
    assert len(told) == 1 and told[0].startswith("HAND ")
    assert (weights == 0).sum() == 1


def test_where_every_study_type_is_of_one_class_there_is_nothing_to_learn(tmp_path: Path) -> None:
    archive = tmp_path / "a"
    for split, first in (("train", 0), ("valid", 10)):
        add_study(archive, study_name(split, first, True, "HAND"), flat())
        add_study(archive, study_name(split, first + 1, False, "WRIST"), flat())
    with pytest.raises(UsageError, match="nothing would count"):
        load(archive, tmp_path / "work").loss_weights()


# --- pixels ---


@pytest.fixture
def spoiled(tmp_path: Path) -> Path:
    """Eight good studies and, between them, a cut PNG, a text and a GIF named .png."""
    archive = tmp_path / "a"
    for patient in range(1, 9):
        split = "valid" if patient < 5 else "train"
        add_study(archive, study_name(split, patient, patient % 2 == 0), smooth(patient, 90 + 7 * patient, 130))
    cut = add_study(archive, study_name("valid", 2, True, number=2), smooth(20, 100, 100)) / "image1.png"
    cut.write_bytes(cut.read_bytes()[:-200])
    text = add_study(archive, study_name("valid", 4, True, number=2)) / "image1.png"
    text.write_text("this is no image, whatever its name says\n")
    gif = add_study(archive, study_name("train", 6, True, number=2)) / "image1.png"
    Image.fromarray(smooth(21, 100, 100)).save(gif, "GIF")
    return archive


def test_a_folder_that_cannot_be_listed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = plain(tmp_path / "archive", 12)
    usual = os.scandir

    def closed(folder: bytes) -> Any:
        if folder.endswith(b"patient00003/"):
            raise PermissionError(13, "Permission denied")
        return usual(folder)

    monkeypatch.setattr(os, "scandir", closed)
    read_catalogue(root, 0.5, 0)
    assert any(
        "patient00003/ could not be listed to its end: Permission denied" in line for line in warnings_of(caplog)
    )


def test_a_full_disk_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left on device: .*pixels"):
        load(plain(tmp_path / "archive", 12), tmp_path / "work")


def test_unreadable_images_are_left_out_and_named(
    spoiled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    views = load(spoiled, tmp_path / "work")
    with (tmp_path / "work" / "skipped.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    keys = keys_of(spoiled)
    found = {row["view"]: (row["stage"], row["code"]) for row in rows}
    assert found == {
        "valid/XR_WRIST/patient00002/study2_positive/image1.png": ("screen", "TRUNCATED"),
        "valid/XR_WRIST/patient00004/study2_positive/image1.png": ("screen", "NOT_AN_IMAGE"),
        "train/XR_WRIST/patient00006/study2_positive/image1.png": ("screen", "UNSUPPORTED_FORMAT"),
    }
    assert all(row["message"] and row["view"].startswith(row["study"] + "/") for row in rows)
    skipped = {keys.index(row["view"]) for row in rows}
    used = {*views.train.tolist(), *views.valid.tolist()}
    assert not used & skipped and used | skipped == set(range(len(keys)))
    assert not views.pixels[sorted(skipped)].any()
    assert any("3 images cannot be read" in line for line in warnings_of(caplog))


def test_pixels_are_the_decoders_and_pillows(spoiled: Path, tmp_path: Path) -> None:
    views = load(spoiled, tmp_path / "work", size=64)
    keys = keys_of(spoiled)
    decoder = open_decoder((64, 64), 1, 1)
    for row in [*views.train, *views.valid]:
        decoder.submit([(spoiled / keys[row]).read_bytes()])
        np.testing.assert_array_equal(views.pixels[row], decoder.collect().pixels[0])
        with Image.open(spoiled / keys[row]) as image:
            like_pillow = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(views.pixels[row, 1:-1, 1:-1, 0] - like_pillow[1:-1, 1:-1]).max() <= 1


def decoded_again(archive: Path, folder: Path, size: int = SIZE) -> bool:
    """Loads the archive and says whether its pixels were written anew."""
    before = (folder / "pixels.npy").stat()
    told: list[int] = []
    views = load_views(read_catalogue(archive, 0.3, 0), size, folder, lambda done, total: told.append(done))
    after = (folder / "pixels.npy").stat()
    same = (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert same == (not told)
    assert views.pixels.shape == (len(keys_of(archive)), size, size, 1)
    return not same


def test_pixels_are_taken_up_again_and_only_where_they_are_the_same(spoiled: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    first = load(spoiled, work)
    assert not decoded_again(spoiled, work)
    again = load(spoiled, work)
    np.testing.assert_array_equal(first.train, again.train)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert decoded_again(spoiled, work, size=64)
    assert not decoded_again(spoiled, work, size=64)
    add_study(spoiled, study_name("train", 77, True), flat())
    assert decoded_again(spoiled, work, size=64)
    twin = tmp_path / "twin"
    spoiled.rename(twin)  # the same names at another place may be other images
    assert decoded_again(twin, work, size=64)
    (work / "pixels.json").unlink()  # as after a kill within decoding
    assert decoded_again(twin, work, size=64)


def test_more_views_than_a_batch_keep_their_order(tmp_path: Path) -> None:
    count = 2 * BATCH + 22
    archive = plain(tmp_path / "a", count)
    bad = keys_of(archive)[70]
    (archive / bad).write_bytes(b"no image")
    seen: list[tuple[int, int]] = []
    (tmp_path / "work").mkdir()
    views = load_views(
        read_catalogue(archive, 0.3, 0), SIZE, tmp_path / "work", lambda done, total: seen.append((done, total))
    )
    expected = np.arange(1, count + 1)
    expected[70] = 0
    np.testing.assert_array_equal(views.pixels[:, SIZE // 2, SIZE // 2, 0], expected)
    assert len(seen) > 2 and all(total == count for _, total in seen)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_what_lies_neither_in_train_nor_in_valid_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = plain(plain(plain(tmp_path / "a", 6, "train"), 4, "valid", first=100), 4, "test", first=200)
    catalogue = read_catalogue(archive, 0.3, 0)
    keys = keys_of(archive)
    assert {keys[row].split("/")[0] for row in catalogue.train} == {"train"}
    assert {keys[row].split("/")[0] for row in catalogue.valid} == {"valid"}
    assert [line for line in warnings_of(caplog) if line.startswith("4 images lie neither")]

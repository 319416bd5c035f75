"""DICOM files among others: which are images, whose study they are, and headers that are read once."""

from __future__ import annotations

import logging
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from mura_trt.archives import list_archive
from mura_trt.archives.dicoms import HeaderIndex
from mura_trt.archives.disclosure import Disclosure
from mura_trt.archives.listing import Listing
from tests.test_dicom import changed, real

REPORT = real("reportsi.dcm")


def image(uid: str | None, **values: object) -> bytes:
    return changed("MR_small_RLE.dcm", StudyInstanceUID=uid, **values)


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture
def kept(tmp_path: Path) -> Disclosure:
    return Disclosure(tmp_path / "salt", keep_paths=True, keep_uids=True)


def studies(listing: Listing) -> dict[str, str]:
    keys = listing.view_names(listing.keys(0, len(listing)))
    return dict(zip(keys, listing.study_names(listing.study_of), strict=True))


FILES = {
    "a/1.dcm": image("1.2.3"),
    "a/2": image("1.2.4", BodyPartExamined="WRIST"),
    "a/3.png": b"",
    "b/1.9": image("1.2.3"),
    "b/4.dcm": image(None),
    "b/5.dcm": image(None),
    "b/6.dcm": b"no DICOM",
    "b/LICENSE": b"free",
    "c/REPORT": REPORT,
}
SORTED = {
    "a/1.dcm": "1.2.3", "a/2": "1.2.4", "a/3.png": "a", "b/1.9": "1.2.3",
    "b/4.dcm": "b/4.dcm", "b/5.dcm": "b/5.dcm", "b/6.dcm": "b/6.dcm",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["folder", ".zip", ".tar", ".tar.gz"])
def test_studies_go_by_uid_in_every_kind_of_archive(tmp_path: Path, kept: Disclosure, kind: str) -> None:
    root = write(tmp_path / "files", FILES)
    path = root if kind == "folder" else tmp_path / f"archive{kind}"
    if kind == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, data in FILES.items():
                packed.writestr(name, data)
    elif kind != "folder":
        with tarfile.open(path, "w:gz" if kind == ".tar.gz" else "w") as tar:
            for name in FILES:
                tar.add(root / name, name)
    listing = list_archive(path, disclosure=kept)
    assert studies(listing) == SORTED
    assert listing.ignored == {"": 1, "DICOM without an image": 1}
    assert listing.body_parts_of_studies() == ["", "WRIST", "", "", "", ""]
    reader = listing.source.open()
    assert [len(reader.read(place)) for place in listing.references(0, 2)] == [len(FILES["a/1.dcm"]), len(FILES["a/2"])]


def test_without_a_say_on_names_dicom_files_are_left_out(tmp_path: Path) -> None:
    listing = list_archive(write(tmp_path / "files", FILES))
    assert studies(listing) == {"a/3.png": "a"}
    assert listing.ignored == {".dcm": 4, "": 3, ".9": 1}


def test_names_are_hashed_unless_kept(tmp_path: Path) -> None:
    listing = list_archive(write(tmp_path / "files", FILES), disclosure=Disclosure(tmp_path / "salt"))
    told = [*studies(listing), *studies(listing).values(), listing.part_name("a")]
    assert [name for name in told if not (len(name) == 32 and set(name) <= set("0123456789abcdef"))] == []


def test_a_list_keeps_its_studies_and_all_that_it_names(tmp_path: Path, kept: Disclosure) -> None:
    root = write(tmp_path, FILES)
    (root / "list.csv").write_text("a/2\na/1.dcm\nb/LICENSE\nc/REPORT\n")
    listing = list_archive(root / "list.csv", disclosure=kept)
    found = studies(listing)
    assert list(found) == ["a/2", "a/1.dcm", "b/LICENSE", "c/REPORT"]
    assert (found["a/2"], found["a/1.dcm"], found["b/LICENSE"]) == ("1.2.4", "1.2.3", "b")
    (root / "list.csv").write_text("view,study\na/2,mine\na/1.dcm,mine\n")
    assert set(studies(list_archive(root / "list.csv", disclosure=kept)).values()) == {"mine"}


def test_what_cannot_be_read_is_kept_where_it_may_be_dicom(tmp_path: Path, kept: Disclosure) -> None:
    plain = write(tmp_path / "plain", {"a/1.png": b""})
    os.mkfifo(plain / "a/pipe")
    assert list(studies(list_archive(plain, disclosure=kept))) == ["a/1.png"]
    mixed = write(tmp_path / "mixed", {"a/1.dcm": image("1.2.3")})
    os.mkfifo(mixed / "a/pipe")
    (mixed / "a/gone.dcm").symlink_to("nowhere")
    assert studies(list_archive(mixed, disclosure=kept)) == {
        "a/1.dcm": "1.2.3", "a/gone.dcm": "a/gone.dcm", "a/pipe": "a/pipe",
    }  # fmt: skip


def test_a_header_longer_than_what_is_read_at_first_is_read_whole(tmp_path: Path, kept: Disclosure) -> None:
    root = write(tmp_path / "files", {"1.dcm": image("1.2.3", AdditionalPatientHistory="x" * 40_000)})
    assert studies(list_archive(root, disclosure=kept)) == {"1.dcm": "1.2.3"}


def test_headers_are_read_once(
    tmp_path: Path, kept: Disclosure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = write(tmp_path / "files", FILES)
    index = HeaderIndex()
    first = list_archive(root, disclosure=kept, index=index)
    assert len(index) == 6
    index.write(tmp_path / "headers.dat")

    read: list[int] = []
    monkeypatch.setattr("mura_trt.archives.dicoms.read_header", lambda head, whole: read.append(len(head)))
    again = HeaderIndex.read(tmp_path / "headers.dat")
    second = list_archive(root, disclosure=kept, index=again)
    assert read == []
    assert second.fingerprint() == first.fingerprint()
    assert second.body_parts_of_studies() == first.body_parts_of_studies()
    assert len(again) == 6
    monkeypatch.undo()

    write(root, {"a/1.dcm": image("1.2.9")})  # a changed file is another one
    os.utime(root / "a/1.dcm", ns=(0, 0))
    third = list_archive(root, disclosure=kept, index=HeaderIndex.read(tmp_path / "headers.dat"))
    assert studies(third)["a/1.dcm"] == "1.2.9"

    (tmp_path / "headers.dat").write_bytes(b"damaged")
    caplog.set_level(logging.WARNING)
    assert len(HeaderIndex.read(tmp_path / "headers.dat")) == 0
    assert "headers are read anew" in caplog.text
    assert len(HeaderIndex.read(tmp_path / "none.parquet")) == 0

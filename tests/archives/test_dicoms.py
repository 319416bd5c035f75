"""DICOM files among others: which are images, whose study they are, and headers that are read once."""

from __future__ import annotations

import errno
import io
import logging
import os
import tarfile
import zipfile
from pathlib import Path
from typing import IO, Any

import pytest

from mura_trt.archives import dicoms, list_archive, tars
from mura_trt.archives.dicoms import HeaderIndex
from mura_trt.archives.disclosure import Disclosure
from mura_trt.archives.folder import FolderSource
from mura_trt.archives.listing import DICOM, MAX_FILE_BYTES, UNREAD, Listing, Reference
from mura_trt.errors import UsageError
from mura_trt.readahead import ReadAhead
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Disclosure(tmp_path / "salt", keep_paths=True)
    root = write(tmp_path / "files", FILES)
    index = HeaderIndex()
    first = list_archive(root, disclosure=kept, index=index)
    assert len(index) == 6
    index.write(tmp_path / "headers.dat")
    assert len(index) == 0  # it is let go of

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
    assert studies(third)["a/1.dcm"] == kept.uid("1.2.9")

    (tmp_path / "headers.dat").write_bytes(b"damaged")
    caplog.set_level(logging.WARNING)
    assert len(HeaderIndex.read(tmp_path / "headers.dat")) == 0
    assert "headers are read anew" in caplog.text
    assert len(HeaderIndex.read(tmp_path / "none.parquet")) == 0


def test_an_index_that_would_name_uids_is_not_left(tmp_path: Path, kept: Disclosure) -> None:
    index = HeaderIndex()
    list_archive(write(tmp_path / "files", FILES), disclosure=kept, index=index)
    index.write(tmp_path / "headers.dat")
    assert not (tmp_path / "headers.dat").exists()


def test_uids_that_are_none_still_join_what_belongs_together(tmp_path: Path, kept: Disclosure) -> None:
    files = {f"{number}.dcm": image("1.2.840.ABC-7") for number in range(3)}
    found = studies(list_archive(write(tmp_path / "files", files), disclosure=kept))
    assert set(found.values()) == {kept.digest(b"1.2.840.ABC-7")}


def test_body_parts_are_known_words_and_no_names(tmp_path: Path) -> None:
    files = {
        "XR_MUELLER/1.dcm": image("1.1"),
        "XR_WRIST/2.dcm": image("1.2"),
        "x/3.dcm": image("1.3", BodyPartExamined="DOE JOHN"),
        "x/4.dcm": image("1.4", BodyPartExamined="TIBIA"),
    }
    listing = list_archive(write(tmp_path / "files", files), disclosure=Disclosure(tmp_path / "salt"))
    assert listing.body_parts_of_studies() == ["", "WRIST", "", "TIBIA"]


def test_images_beside_reports_alone_are_of_patients_too(tmp_path: Path) -> None:
    files = {"report.dcm": REPORT, "DOE_JANE.png": b"", "x.doe^john": b""}
    listing = list_archive(write(tmp_path / "files", files), disclosure=Disclosure(tmp_path / "salt"))
    assert len(listing) == 1 and "DOE" not in str(studies(listing))
    assert listing.told_ignored() == {"DICOM without an image": 1, "other": 1}
    (tmp_path / "files/DOE_JANE.png").unlink()
    with pytest.raises(UsageError, match="others seen: 1 other, 1 DICOM without an image") as refused:
        list_archive(tmp_path / "files", disclosure=Disclosure(tmp_path / "salt"))
    assert "doe" not in str(refused.value)


def test_a_header_that_cannot_be_read_now_is_not_guessed_at(
    tmp_path: Path, kept: Disclosure, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(tmp_path / "files", {f"{number}.dcm": image("1.2.3") for number in range(3)})
    monkeypatch.setattr("mura_trt.archives.dicoms._PAUSES", (0.0,))
    head, failed = FolderSource.head, []

    def failing(self: FolderSource, reference: Reference, count: int) -> bytes:
        if reference == b"1.dcm":
            failed.append(reference)
            raise OSError(errno.EIO, "Input/output error")
        return head(self, reference, count)

    monkeypatch.setattr(FolderSource, "head", failing)
    listing = list_archive(root, disclosure=kept)
    assert len(failed) == 2
    assert listing.kinds is not None and listing.kinds.tolist() == [DICOM, UNREAD, DICOM]
    monkeypatch.undo()
    ahead = ReadAhead(3, listing.source.open())
    ahead.add(0, listing.references(0, 3), listing.kinds_of(0, 3))
    ahead.flush()
    _, failures = ahead.next_batch()
    ahead.close()
    assert [(failure.view, failure.code) for failure in failures] == [(1, "HEADER_UNREAD")]


def test_a_stream_is_run_through_once_however_long_headers_are(
    tmp_path: Path, kept: Disclosure, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tar.gz"
    data = image("1.2.3", AdditionalPatientHistory="x" * 40_000)
    with tarfile.open(path, "w:gz") as tar:
        for number in range(5):
            member = tarfile.TarInfo(f"{number}.dcm")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    opened: list[str] = []
    unpacked = tars._unpacked

    def counted(path: str) -> tuple[IO[bytes], IO[bytes]]:
        opened.append(path)
        return unpacked(path)

    monkeypatch.setattr(tars, "_unpacked", counted)
    assert len(list_archive(path, disclosure=kept)) == 5
    assert len(opened) == 2


def test_a_large_file_that_is_no_dicom_is_no_view(tmp_path: Path, kept: Disclosure) -> None:
    write(tmp_path / "x", {"a.dcm": image("1.2.3"), "core": b""})
    os.truncate(tmp_path / "x" / "core", MAX_FILE_BYTES + 1)
    listing = list_archive(tmp_path / "x", disclosure=kept)
    assert listing.keys(0, len(listing)) == [b"a.dcm"]
    assert listing.ignored[""] == 1


def test_headers_are_let_go_of_whether_they_are_kept_or_not(tmp_path: Path, kept: Disclosure) -> None:
    write(tmp_path / "x", {"a.dcm": image("1.2.3")})
    for disclosure, file in ((kept, False), (Disclosure(tmp_path / "salt"), True)):
        index = HeaderIndex()
        list_archive(tmp_path / "x", disclosure=disclosure, index=index)
        assert len(index) == 1
        index.write(tmp_path / "headers.dat")
        assert (len(index), (tmp_path / "headers.dat").exists()) == (0, file)


def test_without_a_dicom_file_a_candidate_costs_no_memory(tmp_path: Path, kept: Disclosure) -> None:
    names = ["0007/LICENSE", *(f"{number:04d}/a.png" for number in range(200))]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        for name in names:
            packed.writestr(name, "free")
    sorting = []
    usual = dicoms._Sorting.listing

    def spied(self: Any) -> Listing:
        sorting.append(self)
        return usual(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dicoms._Sorting, "listing", spied)
        listing = list_archive(tmp_path / "x.zip", disclosure=kept)
    assert (len(listing), listing.ignored[""], listing.disclosure) == (200, 1, None)
    assert listing.studies.to_pylist() == [name[:4].encode() for name in names[1:]]  # as they appear, LICENSE or not
    assert "_studies" not in vars(sorting[0])  # a dictionary of them would be four times the listing

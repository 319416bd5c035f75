"""Zip and tar files are listed and read as the folder they were made from, and hostile ones harm nobody."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mura_trt.archives import list_archive, tars
from mura_trt.archives.keys import display
from mura_trt.archives.listing import MAX_FILE_BYTES, Listing, Unreadable
from mura_trt.archives.openers import file_absence
from mura_trt.errors import UsageError

RNG = np.random.default_rng(0)
FILES = {
    f"MURA/valid/XR_WRIST/patient{patient}/study1_{sign}/image{k}.png": RNG.bytes(200 + 37 * k) + bytes(500)
    for patient, sign in ((1, "positive"), (2, "negative"), (11, "positive"))
    for k in (1, 2, 3)
} | {"MURA/x.JPG": b"", "MURA/é/ü.jpeg": b"umlaut"}
OTHERS = {
    "MURA/README": b"text",
    "MURA/valid.csv": b"a,b",
    "__MACOSX/MURA/x.png": b"fork",
    "MURA/valid/._x.png": b"fork",
    "MURA/.cache/x.png": b"hidden",
}


def zipped(path: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.mkdir("MURA")
        for name, data in (FILES | OTHERS).items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, files: dict[str, bytes] = FILES | OTHERS, **options: object) -> Path:
    """A tar file, compressed as its name says."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:  # type: ignore[call-overload]
        folder = tarfile.TarInfo("MURA")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    path.write_bytes(compressed(path.suffix, buffer.getvalue()))
    return path


def compressed(suffix: str, data: bytes) -> bytes:
    if suffix == ".zst":
        packed: bytes = pa.compress(data, "zstd", asbytes=True)
        return packed
    packers: dict[str, Callable[[bytes], bytes]] = {
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
        ".tar": bytes,
    }
    return packers[suffix](data)


MAKERS: dict[str, Callable[[Path], Path]] = {
    "deflated.zip": zipped,
    "stored.ZIP": lambda path: zipped(path, zipfile.ZIP_STORED),
    "ustar.tar": lambda path: tarred(path, format=tarfile.USTAR_FORMAT),
    "gnu.tar": lambda path: tarred(path, format=tarfile.GNU_FORMAT),
    "pax.tar": lambda path: tarred(path, format=tarfile.PAX_FORMAT),
    "a.tar.gz": tarred,
    "a.tar.bz2": tarred,
    "a.tar.xz": tarred,
    "a.tar.zst": tarred,
}


def contents(listing: Listing) -> dict[str, bytes | str]:
    """Each view's bytes, or the code of its refusal, through a reader that has travelled."""
    reader = pickle.loads(pickle.dumps(listing.source)).open()
    found: dict[str, bytes | str] = {}
    for key, reference in zip(listing.keys(0, len(listing)), listing.references(0, len(listing)), strict=True):
        try:
            data: bytes | str = reader.read(reference)
        except Unreadable as error:
            data = error.code if str(error) else "no word"
        name = display(key)
        found[name if name not in found else name + " again"] = data
    return found


@pytest.mark.parametrize("name", MAKERS)
def test_what_was_packed_is_listed_and_read(tmp_path: Path, name: str) -> None:
    listing = list_archive(MAKERS[name](tmp_path / name))
    assert contents(listing) == FILES and not listing.source.absence()
    assert dict(listing.ignored) == {"": 1, ".csv": 1} and listing.unreadable == []
    studies = listing.study_names(listing.study_of)
    assert studies == [name.rsplit("/", 1)[0] for name in FILES]
    assert len(listing.studies) == 5


@pytest.mark.parametrize("name", MAKERS)
def test_members_can_be_read_in_any_order(tmp_path: Path, name: str) -> None:
    listing = list_archive(MAKERS[name](tmp_path / name))
    references, reader = listing.references(0, len(listing)), listing.source.open()
    expected = list(FILES.values())
    for at in (5, 2, 2, 9, 0, 10, 1):
        assert reader.read(references[at]) == expected[at]


def test_listings_differ_when_an_archive_is_packed_anew(tmp_path: Path) -> None:
    first, second = (list_archive(tarred(tmp_path / f"{n}.tar")).fingerprint() for n in (1, 2))
    changed = list_archive(tarred(tmp_path / "3.tar", {"MURA/more.png": b"", **FILES})).fingerprint()
    moved = list_archive(tarred(tmp_path / "4.tar", {"MURA/README": b"longer" * 99, **FILES})).fingerprint()
    assert first == second and len({first, changed, moved}) == 3


def test_places_take_little_memory(tmp_path: Path) -> None:
    for name in ("deflated.zip", "gnu.tar"):
        listing = list_archive(MAKERS[name](tmp_path / name))
        assert listing.places is not None and listing.places.itemsize <= 22


def test_study_depth_and_leading_dots(tmp_path: Path) -> None:
    names = {f"./a/b/{n}/image.png": b"" for n in range(3)}
    listing = list_archive(tarred(tmp_path / "a.tar", names), study_depth=2)
    assert listing.study_names(listing.study_of) == ["a/b"] * 3
    assert listing.keys(0, 1) == [b"a/b/0/image.png"]


def test_a_name_that_looks_like_bzip2_is_none(tmp_path: Path) -> None:
    listing = list_archive(tarred(tmp_path / "a.tar", {"BZh9/s1/b.png": b"1"}))
    path = tmp_path / "b.tar"
    path.write_bytes(raw_tar((member_of("BZhang.png"), b"2")))
    assert contents(listing) == {"BZh9/s1/b.png": b"1"} and contents(list_archive(path)) == {"BZhang.png": b"2"}


# Rows of tar files


def test_a_row_of_tar_files_is_one_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(FILES)
    for number in range(3):
        tarred(tmp_path / f"part-{number:03d}.tar", {name: FILES[name] for name in names[number::3]})
    listing = list_archive(tmp_path / "part-{000..002}.tar")
    assert contents(listing) == FILES
    assert len(listing.studies) == 5  # a study's views may lie in several files
    looks: list[str] = []

    def noted(path: str) -> str:
        looks.append(path)
        return file_absence(path)

    monkeypatch.setattr(tars, "file_absence", noted)
    for number in range(3):
        looks.clear()
        assert not listing.source.absence()  # as long as one is there
        assert len(looks) == number + 1  # for a row may be long
        (tmp_path / f"part-{number:03d}.tar").unlink()
    assert listing.source.absence() == "No such file or directory"


def test_of_a_row_what_is_missing_or_damaged_is_told_and_the_rest_is_there(tmp_path: Path) -> None:
    tarred(tmp_path / "p1.tar", {"a.png": b"1"})
    (tmp_path / "p3.tar").write_bytes(b"no tar")
    tarred(tmp_path / "p4.tar", {"a.png": b"2", "b.png": b"3"})
    listing = list_archive(tmp_path / "p{1..4}.tar")
    assert contents(listing) == {"a.png": b"1", "a.png again": "DUPLICATE_NAME", "b.png": b"3"}
    assert [name for name, _ in listing.unreadable] == ["p2.tar", "p3.tar"]
    assert listing.unreadable[0][1] == "No such file or directory"


def test_rows_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for numbers in ("{3..1}", "{0..9999999}"):
        with pytest.raises(UsageError, match="files; give 1 to"):
            list_archive(tmp_path / f"p{numbers}.tar")
    with pytest.raises(UsageError, match=r"no view found.*p1\.tar \(No such file"):
        list_archive(tmp_path / "p{1..2}.tar")
    tarred(tmp_path / "m1.tar"), (tmp_path / "m2.tar").write_bytes(tarred(tmp_path / "m.tar.gz").read_bytes())
    with pytest.raises(UsageError, match="some of the files are compressed"):
        list_archive(tmp_path / "m{1..2}.tar")


# Hostile zip files


def test_zip_members_that_must_not_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    link, pipe = zipfile.ZipInfo("link.png"), zipfile.ZipInfo("pipe.png")
    link.external_attr, pipe.external_attr = (stat.S_IFLNK | 0o777) << 16, (stat.S_IFIFO | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.png", b"good")
        for name in ("../up.png", "/etc/x.png", "a/../../y.png"):
            archive.writestr(name, b"bad")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("good.png", b"other")
        archive.writestr(link, "/etc/passwd")
        archive.writestr(pipe, b"")
        archive.writestr("bz.png", b"bz", zipfile.ZIP_BZIP2)
        archive.writestr("a/locked.png", b"")
        archive.writestr("nul@x.png", b"")
    data = path.read_bytes().replace(b"nul@x.png", b"nul\0x.png")
    at = data.rindex(b"a/locked.png") - 46
    assert data[at : at + 4] == b"PK\1\2"
    path.write_bytes(data[: at + 8] + b"\1" + data[at + 9 :])
    assert contents(list_archive(path)) == {
        "good.png": b"good",
        "../up.png": "UNSAFE_NAME",
        "/etc/x.png": "UNSAFE_NAME",
        "a/../../y.png": "UNSAFE_NAME",
        "good.png again": "DUPLICATE_NAME",
        "link.png": "LINK",
        "pipe.png": "NOT_A_FILE",
        "bz.png": "UNSUPPORTED_COMPRESSION",
        "a/locked.png": "ENCRYPTED",
        "nul\\x00x.png": "UNSAFE_NAME",
    }


def directory_entries(data: bytes) -> list[int]:
    """Where the entries of a zip file's central directory begin."""
    at, found = data.index(b"PK\1\2"), []
    while data[at : at + 4] == b"PK\1\2":
        found.append(at)
        at += 46 + sum(struct.unpack_from("<HHH", data, at + 28))
    return found


def with_field(data: bytes, entry: int, offset: int, kind: str, value: int) -> bytes:
    at = directory_entries(data)[entry] + offset
    changed = bytearray(data)
    struct.pack_into(kind, changed, at, value)
    return bytes(changed)


def small_zip(path: Path, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    with zipfile.ZipFile(path, "w", method) as archive:
        for number in range(3):
            archive.writestr(f"{number}.png", bytes(1000))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("offset", "kind", "value", "code"),
    [
        (16, "<I", 12345, "CORRUPT"),  # CRC-32
        (24, "<I", 999, "CORRUPT"),  # unpacked size: one less than there is
        (24, "<I", 1001, "CORRUPT"),
        (24, "<I", MAX_FILE_BYTES + 1, "TOO_LARGE"),
        (20, "<I", 5, "CORRUPT"),  # packed size
        (20, "<I", 5000, "OVERLAPPING"),
        (10, "<H", zipfile.ZIP_STORED, "CORRUPT"),  # method
        (10, "<H", 93, "UNSUPPORTED_COMPRESSION"),
        (42, "<I", 3, "OVERLAPPING"),  # where its header begins
        (42, "<I", 0, "OVERLAPPING"),
    ],
)
def test_a_zip_member_whose_entry_lies_is_named_and_costs_no_other_anything(
    tmp_path: Path, offset: int, kind: str, value: int, code: str
) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(with_field(small_zip(path), 1, offset, kind, value))
    found = contents(list_archive(path))
    assert found.pop("1.png") == code
    assert found == {"0.png": bytes(1000), "2.png": bytes(1000)}


def test_a_zip_bomb_unpacks_no_further_than_it_says(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(200_000_000))
    path.write_bytes(with_field(path.read_bytes(), 0, 24, "<I", 1000))
    tracemalloc.start()
    assert contents(list_archive(path)) == {"bomb.png": "CORRUPT"}
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_zip_that_is_cut_is_refused_with_a_way_out(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.zip"
    data = small_zip(path)
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UsageError, match=r"a\.zip: not a zip file that can be read .*unzip -t"):
        list_archive(path)


def test_a_zip_cut_after_it_was_listed_is_told_for_each_view(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    data = small_zip(path, zipfile.ZIP_STORED)
    listing = list_archive(path)
    path.write_bytes(data[:1500])
    assert contents(listing) == {"0.png": bytes(1000), "1.png": "TRUNCATED", "2.png": "TRUNCATED"}


def test_zips_from_other_systems(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    member = zipfile.ZipInfo("MURA\\study1\\image1.png")
    member.create_system = 0
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, b"from DOS")
        with archive.open(zipfile.ZipInfo("zip64.png"), "w", force_zip64=True) as file:
            file.write(b"big")
    with path.open("rb+") as packed:  # behind a program that unpacks it
        data = packed.read()
        packed.seek(0)
        packed.write(b"#!" + bytes(998) + data)
    assert contents(list_archive(path)) == {"MURA/study1/image1.png": b"from DOS", "zip64.png": b"big"}


# Hostile tar files


def raw_tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for member, data in members:
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def member_of(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize("suffix", [".tar", ".gz"])
def test_tar_members_that_must_not_be_read_are_named(tmp_path: Path, suffix: str) -> None:
    data = raw_tar(
        (member_of("good.png"), b"good"),
        (member_of("../up.png"), b"bad"),
        (member_of("/etc/x.png"), b"bad"),
        (member_of("good.png"), b"other"),
        (member_of("link.png", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (member_of("hard.png", tarfile.LNKTYPE, "good.png"), b""),
        (member_of("pipe.png", tarfile.FIFOTYPE), b""),
        (member_of("disk.png", tarfile.BLKTYPE), b""),
        (member_of("n" * 300 + ".png"), b"long"),
        (member_of("last.png"), b"last"),
    )
    path = tmp_path / f"a.tar{suffix.removeprefix('.tar')}"
    path.write_bytes(compressed(suffix, data))
    assert contents(list_archive(path)) == {
        "good.png": b"good",
        "../up.png": "UNSAFE_NAME",
        "/etc/x.png": "UNSAFE_NAME",
        "good.png again": "DUPLICATE_NAME",
        "link.png": "LINK",
        "hard.png": "LINK",
        "pipe.png": "NOT_A_FILE",
        "disk.png": "NOT_A_FILE",
        "n" * 300 + ".png": b"long",
        "last.png": b"last",
    }


def with_size(data: bytes, header: int, size: bytes) -> bytes:
    """A tar whose header at that byte gives this size field, its checksum set right."""
    block = bytearray(data[header : header + 512])
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return data[:header] + bytes(block) + data[header + 512 :]


THREE = raw_tar(*((member_of(f"{number}.png"), bytes([number]) * 700) for number in range(3)))
SECOND = 512 + 1024


@pytest.mark.parametrize("suffix", [".tar", ".gz", ".zst"])
@pytest.mark.parametrize(
    ("damage", "left", "told"),
    [
        (lambda data: data[: SECOND + 100], 1, "cut or damaged"),
        (lambda data: data[: SECOND + 600], 2, "unexpected end"),
        (lambda data: data[: 2 * SECOND], 2, "cut or damaged"),
        (lambda data: data[: 3 * SECOND], 3, "cut or damaged"),
        (lambda data: data[:SECOND] + bytes([255]) * 512 + data[SECOND + 512 :], 1, "cut or damaged"),
        (lambda data: with_size(data, SECOND, b"\xff" * 12), 1, ""),  # -1
        (lambda data: with_size(data, SECOND, b"\xff" * 10 + b"\xe0\0"), 1, ""),  # back by 8,192
        (lambda data: with_size(data, SECOND, b"\x80" + bytes(5) + b"\xff" * 6), 2, ""),
        (lambda data: with_size(data, SECOND, b"nonsense    "), 1, ""),
    ],
    ids=["in a header", "in a file", "at a header", "no end", "bad header", "-1", "back", "huge", "no number"],
)
def test_of_a_damaged_tar_what_comes_before_is_scored_and_the_damage_is_told(
    tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes], left: int, told: str
) -> None:
    path = tmp_path / f"a.tar{suffix.removeprefix('.tar')}"
    path.write_bytes(compressed(suffix, damage(THREE)))
    listing = list_archive(path)
    ((name, reason),) = listing.unreadable
    assert name == path.name and told in reason and reason
    found = contents(listing)
    assert len(found) == left and found["0.png"] == bytes(700)
    assert set(found.values()) <= {bytes([n]) * 700 for n in range(3)} | {"TRUNCATED", "TOO_LARGE", "CORRUPT"}


ONE = raw_tar((member_of("more.png"), b"more"))


@pytest.mark.parametrize("suffix", [".tar", ".gz"])
@pytest.mark.parametrize(
    ("data", "left"),
    [
        (THREE[:SECOND] + bytes(512) + THREE[SECOND + 512 :], 1),
        (THREE + ONE, 3),
        (THREE + bytes(5_000_000), 3),
    ],
    ids=["zeroed header", "joined", "not filled"],
)
def test_what_lies_behind_an_end_mark_is_told(tmp_path: Path, suffix: str, data: bytes, left: int) -> None:
    path = tmp_path / f"a.tar{suffix.removeprefix('.tar')}"
    path.write_bytes(compressed(suffix, data))
    listing = list_archive(path)
    assert len(listing) == left and "the end mark at byte" in listing.unreadable[0][1]


def test_a_compressed_tar_with_a_wrong_checksum_is_told(tmp_path: Path) -> None:
    data = bytearray(compressed(".gz", THREE))
    data[-5] ^= 1
    (tmp_path / "a.tar.gz").write_bytes(data)
    listing = list_archive(tmp_path / "a.tar.gz")
    assert len(listing) == 3 and "CRC" in listing.unreadable[0][1]


def test_giant_names_are_not_kept(tmp_path: Path) -> None:
    for length in (5000, 60_000):
        name = "n" * length + ".png"
        data = raw_tar((member_of("a.png"), b"1"), (member_of(name), b"2"), (member_of("b.png"), b"3"))
        (tmp_path / "a.tar").write_bytes(data)
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for member, content in (("a.png", b"1"), (name, b"2"), ("b.png", b"3")):
                archive.writestr(member, content)
        for kind in ("tar", "zip"):
            listing = list_archive(tmp_path / f"a.{kind}")
            assert listing.keys(0, 3) == [b"a.png", b"n" * 200 + b"...", b"b.png"]
            assert contents(listing.sample(2)) == {"a.png": b"1", "b.png": b"3"}
            with pytest.raises(Unreadable, match="too long"):
                listing.source.open().read(listing.references(1, 2)[0])
    (tmp_path / "a.tar").write_bytes(raw_tar((member_of("a.png"), b"1"), (member_of("n" * 3_000_000 + ".png"), b"2")))
    listing = list_archive(tmp_path / "a.tar")
    assert len(listing) == 1 and "to be read at once" in listing.unreadable[0][1]


def test_a_compressed_tar_that_is_cut_loses_only_what_lies_behind(tmp_path: Path) -> None:
    files = {f"{number}.png": RNG.bytes(50_000) for number in range(6)}
    whole = tarred(tmp_path / "a.tar", files).read_bytes()
    packed = {suffix: compressed(suffix, whole) for suffix in (".gz", ".xz", ".zst")}
    packed[".bz2"] = bz2.compress(whole, 1)  # in blocks of 100,000 bytes, of which none is given out in part
    for suffix, data in packed.items():
        path = tmp_path / f"a.tar{suffix}"
        path.write_bytes(data[:180_000])  # which is within the fourth
        listing = list_archive(path)
        ((name, reason),) = listing.unreadable
        assert name == path.name and reason
        *read, (_, last) = contents(listing).items()
        assert read == list(files.items())[: len(read)] and 1 <= len(read) <= 3
        assert last in ("TRUNCATED", "CORRUPT"), suffix
    path.write_bytes(data[:50_000])  # and no block is whole
    with pytest.raises(UsageError, match=r"no view found.*could not be opened: a\.tar\.bz2 \("):
        list_archive(path)


def test_a_tar_cut_after_it_was_listed_is_told_for_each_view(tmp_path: Path) -> None:
    for suffix in (".tar", ".gz"):
        path = tmp_path / f"a.tar{suffix.removeprefix('.tar')}"
        path.write_bytes(compressed(suffix, THREE))
        listing = list_archive(path)
        path.write_bytes(compressed(suffix, THREE[: SECOND + 600]))
        assert contents(listing) == {"0.png": bytes(700), "1.png": "TRUNCATED", "2.png": "TRUNCATED"}
        path.unlink()
        with pytest.raises(FileNotFoundError):
            contents(listing)


def test_random_damage_never_hangs_and_never_gives_bytes_that_were_not_there(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    whole = {".tar": THREE, ".gz": compressed(".gz", THREE), ".zip": small_zip(tmp_path / "s.zip")}
    good = {bytes([n]) * 700 for n in range(3)} | {bytes(1000)}
    listed = 0
    for round in range(150):
        for suffix, data in whole.items():
            spoiled = bytearray(data)
            for at in rng.integers(0, len(data), rng.integers(1, 6)):
                spoiled[at] = rng.integers(0, 256)
            path = tmp_path / ("a.zip" if suffix == ".zip" else f"a.tar{suffix.removeprefix('.tar')}")
            path.write_bytes(spoiled)
            try:
                found = contents(list_archive(path))
            except UsageError:
                continue
            listed += 1
            if suffix == ".zip":  # which has a checksum
                assert {data for data in found.values() if isinstance(data, bytes)} <= good, round
    assert listed > 100


def test_archives_that_hold_no_view_are_refused_with_what_they_hold(tmp_path: Path) -> None:
    for name in ("a.zip", "a.tar", "a.tar.gz"):
        path = tmp_path / name
        if name == "a.zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("x.dcm", b"")
        else:
            tarred(path, {"x.dcm": b""})
        with pytest.raises(UsageError, match=r"no view found.*\(others seen: 1 \.dcm\)"):
            list_archive(path)
    os.truncate(tmp_path / "a.tar", 0)
    with pytest.raises(UsageError, match=r"a\.tar: (file|empty|no)"):
        list_archive(tmp_path / "a.tar")

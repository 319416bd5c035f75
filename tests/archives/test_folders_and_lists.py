"""Which files are views, which study they belong to, and what listing says about the rest."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mura_trt.archives import folder, list_archive
from mura_trt.archives.folder import FolderSource
from mura_trt.archives.keys import body_part, display, label
from mura_trt.archives.listing import Entry, Found, Listing, gather
from mura_trt.errors import UsageError


def touch(root: Path, *names: str) -> Path:
    """Files that only need to be there; each holds its own name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))
    return root


def studies_of(listing: Listing) -> dict[str, str]:
    names = listing.study_names(listing.study_of)
    return {display(key): name for key, name in zip(listing.keys(0, len(listing)), names, strict=True)}


def write_list(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# Folder trees


@pytest.mark.parametrize(
    ("key", "part", "value"),
    [
        ("valid/XR_WRIST/patient11185/study1_positive/image1.png", "WRIST", 1),
        ("train/XR_HUMERUS/patient00001/study12_negative/image3.png", "HUMERUS", 0),
        ("XR_ELBOW/patient1/study1_positive", "ELBOW", 1),
        ("study1_negative/image1.png", "", 0),
        ("test/XR_HAND/patient9/study1/image1.png", "HAND", None),
        ("scans/patient9/image1.png", "", None),
        ("myXR_HAND/mystudy1_positive/a.png", "", None),
        ("XR_HAND2/study1_positives/a.png", "", None),
        ("XR_hand/study_positive/a.png", "", None),
    ],
)
def test_body_part_and_label_come_from_mura_names_and_from_nothing_else(key: str, part: str, value: int | None) -> None:
    assert body_part(key.encode()) == part
    assert label(key.encode()) == value


def test_mura_layout_lists_every_view_under_its_folder(archive: Path) -> None:
    listing = list_archive(archive)
    expected = sorted(path.relative_to(archive) for path in archive.rglob("*.png"))
    assert len(listing) == len(expected) == len(listing.study_of)
    assert studies_of(listing) == {str(path): str(path.parent) for path in expected}
    assert listing.ignored == {".csv": 4, ".txt": 1}
    assert listing.unreadable == [] and listing.duplicates == 0
    assert list(listing.study_names(np.arange(len(listing.studies), dtype=np.int32))) == list(
        dict.fromkeys(studies_of(listing).values())
    )


def test_same_patient_and_study_number_under_two_body_parts_stay_two_studies(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(f"valid/XR_{part}/patient00001/study1_positive/image{k}.png" for part in ("HAND", "WRIST") for k in "12"),
    )
    listing = list_archive(tmp_path)
    assert len(listing) == 4 and len(listing.studies) == 2
    assert listing.body_parts_of_studies() == ["HAND", "WRIST"]


def test_hidden_test_set_without_suffix_is_listed_without_label(tmp_path: Path) -> None:
    listing = list_archive(touch(tmp_path, "test/XR_HAND/patient1/study1/image1.png"))
    assert studies_of(listing) == {
        "test/XR_HAND/patient1/study1/image1.png": "test/XR_HAND/patient1/study1",
    }
    assert label(listing.first_views()[0]) is None


@pytest.mark.parametrize("hashes", [1, 3, 1 << 61])
def test_studies_are_told_apart_whatever_their_keys_hashes(hashes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where keys agree in their hash, and where a study's views do not stand together."""
    monkeypatch.setattr("mura_trt.archives.listing.hash", lambda key: hash(key) % hashes, raising=False)
    rng = random.Random(0)
    keys = [b"%d/%d.png" % (rng.randrange(60), view) for view in range(500)]
    listing = gather(Found(FolderSource("nowhere"), map(Entry, keys)), None)
    expected = [key.split(b"/")[0] for key in keys]
    assert listing.keys(0, 500) == keys
    assert listing.studies.to_pylist() == list(dict.fromkeys(expected))
    assert listing.studies.take(listing.study_of).to_pylist() == expected
    assert listing.first_views(7, 9) == [
        next(k for k in keys if k.startswith(s + b"/")) for s in listing.studies[7:9].to_pylist()
    ]


def test_first_views_are_each_studys_first_in_read_order(tmp_path: Path) -> None:
    listing = list_archive(touch(tmp_path, "b/2.png", "b/1.png", "a/9.png", "root.png"))
    assert listing.first_views() == [b"root.png", b"a/9.png", b"b/1.png"]


def test_hidden_apple_and_foreign_files_are_no_views(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "s/a.png", "s/B.JPG", "s/c.Jpeg",
        "s/._a.png", "s/.hidden.png", ".cache/d.png", "__MACOSX/s/e.png", "s/__MACOSX/f.png", "s/.png",
        "s/notes.txt", "s/more.TXT", "s/LICENSE", "s/scan.dcm",
    )  # fmt: skip
    (tmp_path / "s/folder.png").mkdir()
    listing = list_archive(tmp_path)
    assert listing.keys(0, 9) == [b"s/B.JPG", b"s/a.png", b"s/c.Jpeg"]
    assert listing.ignored == {".txt": 2, "": 1, ".dcm": 1}


def test_listing_does_not_depend_on_the_order_in_which_files_were_created(tmp_path: Path) -> None:
    names = [f"{folder}{k}.png" for folder in ("", "a/", "a/b/", "a-b/", "B/", "ä/") for k in (1, 2, 10)]
    listings = []
    for seed in range(4):
        random.Random(seed).shuffle(names)
        listings.append(list_archive(touch(tmp_path / str(seed), *names)))
    assert len(listings[0]) == len(names)
    for other in listings[1:]:
        assert other.views.equals(listings[0].views) and other.studies.equals(listings[0].studies)
        np.testing.assert_array_equal(other.study_of, listings[0].study_of)


def test_in_any_other_tree_each_folder_holding_images_is_a_study(tmp_path: Path) -> None:
    listing = list_archive(touch(tmp_path, "a.png", "x/b.png", "x/c.png", "x/y/d.png", "empty/notes.txt"))
    assert studies_of(listing) == {"a.png": ".", "x/b.png": "x", "x/c.png": "x", "x/y/d.png": "x/y"}


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (1, ["a.png", "x", "x", "x"]),
        (2, ["a.png", "x/b.png", "x/y", "x/y"]),
        (9, ["a.png", "x/b.png", "x/y/1.png", "x/y/2.png"]),
    ],
)
def test_study_depth_takes_the_first_parts_of_the_path(tmp_path: Path, depth: int, expected: list[str]) -> None:
    touch(tmp_path, "a.png", "x/b.png", "x/y/1.png", "x/y/2.png")
    assert list(studies_of(list_archive(tmp_path, study_depth=depth)).values()) == expected
    paths = write_list(tmp_path / "list.csv", "a.png\nx/b.png\nx/y/1.png\nx/y/2.png\n")
    assert list(studies_of(list_archive(paths, study_depth=depth)).values()) == expected


def test_study_depth_counts_from_the_root_of_an_absolute_path(tmp_path: Path) -> None:
    touch(tmp_path, "x/y/1.png", "x/z/2.png")
    paths = write_list(tmp_path / "list.csv", f"{tmp_path}/x/y/1.png\n{tmp_path}/x/z/2.png\n")
    depth = len(tmp_path.parts)  # of which the first is the root
    assert list(studies_of(list_archive(paths, study_depth=depth)).values()) == [f"{tmp_path}/x"] * 2
    assert list(studies_of(list_archive(paths, study_depth=1)).values()) == [f"/{tmp_path.parts[1]}"] * 2


def test_symlink_loop_ends(tmp_path: Path) -> None:
    touch(tmp_path, "0.png", "a/1.png", "a/b/2.png")
    (tmp_path / "a/b/up").symlink_to(tmp_path)
    (tmp_path / "a/self").symlink_to(".")
    assert list_archive(tmp_path).keys(0, 9) == [b"0.png", b"a/1.png", b"a/b/2.png"]


def test_symlinked_folder_outside_is_followed(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "1.png")
    touch(tmp_path / "root", "0.png")
    (tmp_path / "root/link").symlink_to(tmp_path / "elsewhere")
    listing = list_archive(tmp_path / "root")
    assert listing.keys(0, 9) == [b"0.png", b"link/1.png"]
    assert listing.source.open().read(b"link/1.png") == b"1.png"


def test_link_to_itself_costs_its_neighbours_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "s/1.png", "s/t/2.png")
    (tmp_path / "s/me.png").symlink_to("me.png")
    listing = list_archive(tmp_path)
    assert listing.keys(0, 9) == [b"s/1.png", b"s/me.png", b"s/t/2.png"]
    with pytest.raises(OSError, match="symbolic links"):  # it fails when read, and is named like any bad view
        listing.source.open().read(b"s/me.png")


def test_folders_lie_as_deep_as_a_path_can_be_long(tmp_path: Path) -> None:
    touch(tmp_path, "b/y.png", "z.png")
    deep = tmp_path
    for _ in range(1100):
        deep = deep / "a"
        deep.mkdir()
    touch(deep, "x.png")
    try:
        assert list_archive(tmp_path).keys(0, 9) == [b"z.png", b"a/" * 1100 + b"x.png", b"b/y.png"]
    finally:  # what clears up behind tests would be too deep in it
        (deep / "x.png").unlink()
        os.removedirs(deep)


def test_unreadable_folder_is_named_with_the_reason(tmp_path: Path) -> None:
    touch(tmp_path, "ok/1.png", "closed/2.png")
    (tmp_path / "closed").chmod(0)
    try:
        if os.access(tmp_path / "closed", os.R_OK):
            pytest.skip("permissions do not bind this user")
        listing = list_archive(tmp_path)
    finally:
        (tmp_path / "closed").chmod(0o755)
    assert listing.keys(0, 9) == [b"ok/1.png"]
    assert listing.unreadable == [("closed/", "Permission denied")]


def test_names_that_are_not_utf8_survive_and_can_be_read_back(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"r\xe9sum\xe9\xff")
    touch(odd, os.fsdecode(b"\xfe.png"))
    (key,) = list_archive(tmp_path).keys(0, 9)
    assert key == b"r\xe9sum\xe9\xff/\xfe.png"
    assert display(key) == "r\\xe9sum\\xe9\\xff/\\xfe.png"
    assert list_archive(tmp_path).source.open().read(key) == b"\xfe.png"
    # The same through a list, and with the odd name in the root.
    listed = list_archive(write_list(tmp_path / "list.csv", key + b"\n"))
    assert listed.keys(0, 9) == [key] and listed.source.open().read(key) == b"\xfe.png"
    inner = list_archive(odd)
    assert inner.source.open().read(inner.keys(0, 1)[0]) == b"\xfe.png"


def test_keys_are_a_slice_of_the_views(tmp_path: Path) -> None:
    listing = list_archive(touch(tmp_path, *(f"{k}.png" for k in range(7))))
    assert listing.keys(2, 5) == [b"2.png", b"3.png", b"4.png"]
    assert listing.keys(5, 7) == [b"5.png", b"6.png"]


# List files


def test_muras_own_list_gives_the_same_views_as_the_folder(archive: Path) -> None:
    listed = list_archive(archive / "valid_image_paths.csv")
    folder = list_archive(archive)
    prefix = archive.name.encode() + b"/"
    assert sorted(listed.keys(0, len(listed))) == [prefix + key for key in folder.keys(0, len(folder))]
    assert len(listed.studies) == len(folder.studies)
    assert listed.source.root == str(archive.parent)
    for key in listed.keys(0, 3):
        assert listed.source.open().read(key) == (archive.parent / display(key)).read_bytes()


@pytest.mark.parametrize(
    ("where", "root"),
    [("lists/l.csv", "lists"), ("base/lists/l.csv", "base"), ("far/lists/l.csv", "cwd")],
    ids=["own folder", "its parent", "working directory"],
)
def test_root_of_a_list_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, root: str) -> None:
    touch(tmp_path / root, "x/1.png")
    (tmp_path / "cwd").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "cwd")
    # The first path is a missing file: one of the first that is there decides.
    listing = list_archive(write_list(tmp_path / where, "x/gone.png\nx/1.png\n"))
    assert listing.source.root == str(tmp_path / root)
    assert listing.source.open().read(b"x/1.png") == b"x/1.png"


def test_the_lists_own_folder_goes_before_its_parent(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "lists/1.png")
    assert list_archive(write_list(tmp_path / "lists/l.txt", "1.png\n")).source.root == str(tmp_path / "lists")


def test_given_root_is_taken(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "other/1.png")
    listing = list_archive(write_list(tmp_path / "l.csv", "1.png\n"), root=tmp_path / "other")
    assert listing.source.root == str(tmp_path / "other")


def test_absolute_paths_in_a_list_are_taken_as_they_are(tmp_path: Path) -> None:
    touch(tmp_path / "far", "1.png")
    listing = list_archive(write_list(tmp_path / "lists/l.csv", f"{tmp_path}/far/1.png\n"))
    assert listing.source.open().read(listing.keys(0, 1)[0]) == b"1.png"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.png\nb.png\n", {"a.png": ".", "b.png": "."}),
        ("a.png\r\nb.png\r\n", {"a.png": ".", "b.png": "."}),
        ("a.png\nb.png", {"a.png": ".", "b.png": "."}),
        ("\ufeffa.png\nb.png\n", {"a.png": ".", "b.png": "."}),
        ("\n\na.png\n\nb.png\n\n", {"a.png": ".", "b.png": "."}),
        ('a.png\n"x, y/c.png"\n', {"a.png": ".", "x, y/c.png": "x, y"}),
        ("view\na.png\n", {"a.png": "."}),
        ("path\na.png\n", {"a.png": "."}),
        ("Image\na.png\n", {"a.png": "."}),
        ("\ufeffview,study\r\na.png,s1\r\nb.png,s2\r\n", {"a.png": "s1", "b.png": "s2"}),
        ("study, view \ns1,a.png\ns1,b.png\n", {"a.png": "s1", "b.png": "s1"}),
        ("age,study,path,label\n7,s1,a.png,0\n8,s2,b.png,1\n", {"a.png": "s1", "b.png": "s2"}),
        ('view,study\n"x, y/c.png","s, 1"\na.png,s2\n', {"x, y/c.png": "s, 1", "a.png": "s2"}),
        ("view,age\nb.png,7\n", {"b.png": "."}),
    ],
)  # fmt: skip
def test_list_gives_views_and_studies(tmp_path: Path, text: str, expected: dict[str, str]) -> None:
    touch(tmp_path, "a.png", "b.png", "x, y/c.png")
    listing = list_archive(write_list(tmp_path / "list.csv", text))
    assert studies_of(listing) == expected
    assert listing.duplicates == 0


def test_named_studies_hold_views_of_several_folders_in_the_lists_order(tmp_path: Path) -> None:
    touch(tmp_path, "x/1.png", "y/2.png", "z/3.png")
    listing = list_archive(write_list(tmp_path / "l.csv", "view,study\nz/3.png,B\nx/1.png,A\ny/2.png,B\n"))
    assert listing.keys(0, 3) == [b"z/3.png", b"x/1.png", b"y/2.png"]
    assert listing.study_of.tolist() == [0, 1, 0] and listing.study_of.dtype == np.int32
    assert listing.first_views() == [b"z/3.png", b"x/1.png"]


@pytest.mark.parametrize("header", ["", "view,study\n"])
def test_a_view_listed_twice_counts_once(tmp_path: Path, header: str) -> None:
    touch(tmp_path, "a.png", "b.png")
    lines = ["a.png", "b.png", "a.png", "a.png"]
    text = header + "".join(f"{line}{',s' if header else ''}\n" for line in lines)
    listing = list_archive(write_list(tmp_path / "l.csv", text))
    assert listing.keys(0, 9) == [b"a.png", b"b.png"]
    assert listing.duplicates == 2 and listing.study_of.tolist() == [0, 0]


LIST_ERRORS = {
    "two studies": ("view,study\na.png,s1\nb.png,s1\na.png,s2\n", ["entry 3", "two studies", "keep one"]),
    "MURA's study list": ("x/study1_positive/,1\n", ["line 1", "2 columns where view is expected", "view,study"]),
    "unquoted comma": ("a.png\n\nb, c.png\n", ["line 3", "2 columns", "quote"]),
    "missing cell": ("view,study\na.png,s\nb.png\n", ["line 3", "1 columns where view, study", "quote"]),
    "empty cell": ("view,study\na.png,\n", ["line 2", "empty cell", "fill it in"]),
    "empty": ("", ["names no image"]),
    "blank lines": ("\n\n", ["names no image"]),
    "header only": ("view,study\n", ["names no image"]),
    "nothing there": ("far/a.png\nfar/b.png\n", ["first path is in none of", "--root"]),
    "no list": ("x" * 200_000, ["not a list of image paths", "field larger"]),
}


@pytest.mark.parametrize("case", LIST_ERRORS)
def test_unusable_list_is_refused_with_file_reason_and_way_out(tmp_path: Path, case: str) -> None:
    text, words = LIST_ERRORS[case]
    touch(tmp_path, "a.png", "b.png")
    path = write_list(tmp_path / "list.csv", text)
    with pytest.raises(UsageError) as caught:
        list_archive(path)
    assert [word for word in (str(path), *words) if word not in str(caught.value)] == []


def test_the_root_search_names_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_list(tmp_path / "a/b/list.csv", "far/a.png\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="--root") as caught:
        list_archive(path)
    assert f"none of {tmp_path}/a/b, {tmp_path}/a, {tmp_path};" in str(caught.value)


# Refusals


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone", ["no such folder or file", "check the path"]),
        ("x" * 300, ["check the path"]),
        ("scan.png", ["neither a folder nor a zip, tar or list file", ".zip, .tar, .tar.gz, .tar.zst, .csv, .txt"]),
        ("bare", ["no view found", "others seen: none", ".jpeg, .jpg, .png"]),
        ("dicom", ["no view found", "2 .dcm, 1 .tif, 1 without a suffix", "does not read .tif"]),
        ("texts", ["no view found", "1 .doc"]),
    ],
    ids=["missing", "name too long", "one image", "empty", "unread formats", "other files"],
)
def test_unusable_archive_is_refused_with_path_reason_and_way_out(tmp_path: Path, name: str, words: list[str]) -> None:
    touch(tmp_path, "scan.png", "dicom/1.dcm", "dicom/s/2.DCM", "dicom/3.tif", "dicom/README", "texts/a.doc")
    (tmp_path / "bare").mkdir()
    with pytest.raises(UsageError) as caught:
        list_archive(tmp_path / name)
    assert [word for word in (name, *words) if word not in str(caught.value)] == []
    assert ("does not read" in str(caught.value)) == (name == "dicom")


def test_root_with_a_folder_and_depth_below_one_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    with pytest.raises(UsageError, match=r"--root is for list files.*leave it out"):
        list_archive(tmp_path, root=tmp_path)
    for depth in (0, -1):
        with pytest.raises(UsageError, match=f"--study-depth {depth}.*give 1 or more"):
            list_archive(tmp_path, study_depth=depth)


# Reading


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link_to_nothing(path: Path) -> None:
    path.symlink_to("nothing")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "make",
    [make_fifo, Path.mkdir, make_link_to_nothing, lambda _: None],
    ids=["FIFO", "directory", "broken link", "nothing"],
)
def test_what_is_no_regular_file_is_an_oserror_and_leaks_no_descriptor(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "x.png")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        with pytest.raises(OSError, match=r"regular|directory|No such"):
            FolderSource(str(tmp_path)).read(b"x.png")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_path_with_a_nul_is_an_oserror(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    listing = list_archive(write_list(tmp_path / "l.csv", b"a.png\na\0.png\n"))
    with pytest.raises(OSError, match=r".+"):
        listing.source.open().read(listing.keys(1, 2)[0])


def test_file_larger_than_any_xray_is_an_oserror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "12345678")
    monkeypatch.setattr(folder, "MAX_FILE_BYTES", 8)
    assert FolderSource(str(tmp_path)).read(b"12345678") == b"12345678"
    monkeypatch.setattr(folder, "MAX_FILE_BYTES", 7)
    with pytest.raises(OSError, match="8 bytes; at most 7"):
        FolderSource(str(tmp_path)).read(b"12345678")


def test_a_view_has_one_name_however_its_path_is_spelled(tmp_path: Path) -> None:
    touch(tmp_path, "one/s/0.png")
    listing = list_archive(write_list(tmp_path / "list.csv", "one/s/0.png\n./one/s/0.png\none//s/0.png\n"))
    assert listing.keys(0, 9) == [b"one/s/0.png"]
    assert listing.duplicates == 2


def test_a_file_is_read_whole_whatever_its_size_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "ten").write_bytes(b"0123456789")
    source = FolderSource(str(tmp_path))
    assert source.read(b"ten") == b"0123456789"
    assert [source.head(b"ten", count) for count in (0, 4, 10, 20)] == [b"", b"0123", b"0123456789", b"0123456789"]
    assert FolderSource("/").read(b"proc/self/status").startswith(b"Name:")  # of which the kernel says 0 bytes
    assert source.read(os.fsencode(tmp_path / "ten")) == b"0123456789"  # a list may name files anywhere


def test_names_are_the_same_bytes_in_any_locale(tmp_path: Path) -> None:
    names = ["\u00e9/a.png", "\u65e5/b.png"]
    for name in names:
        touch(tmp_path, name)
    write_list(tmp_path / "list.csv", "".join(f"{name}\n" for name in names))
    with tarfile.open(tmp_path / "x.tar", "w") as packed:
        for name in names:
            packed.add(tmp_path / name, name)
    code = (
        "import sys; from pathlib import Path; from mura_trt.archives import list_archive\n"
        "assert sys.getfilesystemencoding() == 'ascii'\n"
        "for name in ('.', 'list.csv', 'x.tar'):\n"
        "    found = list_archive(Path(name))\n"
        "    print(found.keys(0, len(found)), found.unreadable)"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, **plain}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [f"{[name.encode() for name in names]} []"] * 3

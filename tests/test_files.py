"""Files that are whole or not there, also when the disk refuses."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from mura_trt.errors import UsageError
from mura_trt.files import check_target, new_folder, sha256_of, sync_folder, write_atomically


@pytest.mark.parametrize("data", [b"", b"new", bytes(range(256)) * 5000])
@pytest.mark.parametrize("before", [None, b"old, and longer than the new"])
def test_a_write_makes_or_replaces_the_file(tmp_path: Path, data: bytes, before: bytes | None) -> None:
    path = tmp_path / "f.json"
    if before is not None:
        path.write_bytes(before)
    (tmp_path / ".f.json.part").write_bytes(b"left by a crash")
    write_atomically(path, data)
    assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, where: str, before: bytes | None
) -> None:
    path = tmp_path / "f"
    if before is not None:
        path.write_bytes(before)

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(where, fail)
        with pytest.raises(type(error)):
            write_atomically(path, b"new")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == ({"f": before} if before else {})


def test_the_bytes_reach_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        order.append(f"sync {target.name} {target.stat().st_size if target.is_file() else ''}".strip())
        fsync(descriptor)

    def watched_replace(self: Path, target: Path) -> Path:
        order.append(f"rename to {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    write_atomically(tmp_path / "f", b"12345")
    assert order == ["sync .f.part 5", "rename to f", f"sync {tmp_path.name}"]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none/f", b"x")
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "none")


def test_syncing_leaks_no_descriptor(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        sync_folder(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_sha256_is_that_of_the_files_bytes(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    path.write_bytes(data := os.urandom(3_000_000))
    assert sha256_of(path) == hashlib.sha256(data).hexdigest()


def test_a_new_folder_takes_the_old_ones_place_or_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "old").touch()
    (tmp_path / "link").symlink_to("f")
    rename = Path.rename

    def refuse_the_new(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refuse_the_new)
        with pytest.raises(OSError, match="Input/output"), new_folder(tmp_path / "f") as scratch:
            (scratch / "new").touch()
    assert [path.name for path in (tmp_path / "f").iterdir()] == ["old"]
    with pytest.raises(OSError, match=r"No space left on device: '.*/f'"), new_folder(tmp_path / "f"):
        raise OSError(28, "No space left on device")  # as a library says it
    with new_folder(tmp_path / "link") as scratch:
        (scratch / "new").touch()
    assert [path.name for path in (tmp_path / "f").iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "link"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("read.csv", "read.csv, which is read; name another file for the page"),
        ("./kept/../read.csv", "which is read"),
        ("link.csv", "which is read"),
        ("hard.csv", "which is read"),
        ("kept/new.json", "lies in, .*kept, which is read"),
        ("later.json", "later.json, which is read"),
        ("absent/page.html", "absent is no folder that can be written to; make it"),
        ("read.csv/page.html", "read.csv"),
        ("kept", "no regular file; name one for the page"),
    ],
)
def test_a_target_is_looked_at_before_the_work(tmp_path: Path, target: str, message: str) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "read.csv").touch()
    (tmp_path / "link.csv").symlink_to(tmp_path / "read.csv")
    (tmp_path / "hard.csv").hardlink_to(tmp_path / "read.csv")
    reads = [tmp_path / name for name in ("read.csv", "kept", "later.json")]
    with pytest.raises(UsageError, match=message):
        check_target(tmp_path / target, reads, "the page")
    check_target(tmp_path / "page.html", reads, "the page")


def test_an_error_of_a_write_names_the_file_and_not_the_temporary_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as failed:
        write_atomically(tmp_path / "absent" / "page.html", b"")
    assert str(tmp_path / "absent" / "page.html") in str(failed.value) and ".part" not in str(failed.value)

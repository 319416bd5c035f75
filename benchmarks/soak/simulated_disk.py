"""A folder whose operations are all seen on their way, and what is left of it after a power cut.

Operations: files opened, written, synced, renamed and removed, folders made and synced.
"""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock


class _Written:
    """A file that is open for writing, whose writes and closing are seen."""

    def __init__(self, file: Any, path: str, see: Callable[..., None]) -> None:
        self._file, self._path, self._see = file, path, see

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Written:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write(self, data: Any) -> Any:
        try:
            self._see("write", self._path)
        except OSError:
            self._file.write(data[: len(data) // 2])
            raise
        return self._file.write(data)

    def close(self) -> None:
        if not self._file.closed:
            self._file.close()
            if os.path.exists(self._path):
                self._see("content", self._path, Path(self._path).read_bytes())


@contextmanager
def watched(folder: Path, see: Callable[..., None]) -> Iterator[None]:
    """Has ``see`` told of each operation on ``folder`` and below, before it is done; it may raise OSError.

    Of ``content``, which is what a file has when it is closed or synced, it is told afterwards.
    """
    assert folder.is_absolute(), folder  # as the kernel tells what is synced
    root = str(folder)
    real_open, real_sync, real_mkdir = io.open, os.fsync, os.mkdir
    real_replace, real_unlink, real_rmdir = os.replace, os.unlink, os.rmdir

    def inside(path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and (os.fspath(path) + "/").startswith(root + "/")

    def seen_open(path: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        writes = inside(path) and set(mode) & set("wax+")
        if writes and "w" in mode:
            see("create", os.fspath(path))
        file = real_open(path, mode, *arguments, **named)
        return _Written(file, os.fspath(path), see) if writes else file

    def seen_sync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if inside(path) or path == str(folder.parent):
            if os.path.isdir(path):
                see("sync folder", path)
            else:
                see("content", path, Path(path).read_bytes())
                see("sync", path)
        real_sync(descriptor)

    def seen_replace(old: Any, new: Any) -> None:
        see("rename", os.fspath(old), os.fspath(new))
        real_replace(old, new)

    def located(path: Any, dir_fd: int | None) -> Any:
        return path if dir_fd is None else os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)

    def seen_unlink(path: Any, *, dir_fd: int | None = None) -> None:
        if inside(where := located(path, dir_fd)) and os.path.lexists(where):
            see("remove", os.fspath(where))
        real_unlink(path, dir_fd=dir_fd)

    def seen_rmdir(path: Any, *, dir_fd: int | None = None) -> None:
        if inside(where := located(path, dir_fd)):
            see("remove", os.fspath(where))
        real_rmdir(path, dir_fd=dir_fd)

    def seen_mkdir(path: Any, *arguments: Any, **named: Any) -> None:
        if inside(path) and not os.path.lexists(path) and os.path.isdir(os.path.dirname(path)):
            see("make folder", os.fspath(path))
        real_mkdir(path, *arguments, **named)

    with (
        mock.patch("io.open", seen_open),
        mock.patch("os.fsync", seen_sync),
        mock.patch("os.replace", seen_replace),
        mock.patch("os.unlink", seen_unlink),
        mock.patch("os.rmdir", seen_rmdir),
        mock.patch("os.mkdir", seen_mkdir),
    ):
        yield


@dataclass
class _File:
    """A file's bytes as they are, and as they are on the disk for certain."""

    latest: bytes = b""
    synced: bytes = b""


@dataclass
class _Folder:
    """A folder's entries as they are on the disk for certain, and what was done to them since, in order."""

    synced: dict[str, _File | None] = field(default_factory=dict)
    pending: list[Callable[[dict[str, _File | None]], None]] = field(default_factory=list)
    latest: dict[str, _File | None] = field(default_factory=dict)

    def do(self, change: Callable[[dict[str, _File | None]], None]) -> None:
        change(self.latest)
        self.pending.append(change)

    def sync(self) -> None:
        self.synced, self.pending = dict(self.latest), []


class Disk:
    """What of a folder is on the disk after a power cut: what was synced, and by chance some of the rest.

    Changes of a folder's entries come to the disk in their order, as journals of file systems keep them; of bytes that
    were not synced any beginning, or zeros in their place.
    """

    def __init__(self, parent: Path) -> None:
        self._folders: dict[str, _Folder] = {}
        self._take(parent)

    def _take(self, folder: Path) -> None:
        """Takes what is there for synced."""
        entries: dict[str, _File | None] = {}
        for path in folder.iterdir():
            if path.is_dir():
                entries[path.name] = None
                self._take(path)
            else:
                data = path.read_bytes()
                entries[path.name] = _File(data, data)
        self._folders[str(folder)] = _Folder(entries, [], dict(entries))

    def do(self, kind: str, path: str, *more: Any) -> None:
        """Follows an operation."""
        above, name = os.path.split(path)
        if kind == "sync folder":
            self._folders[path].sync()
            return
        folder = self._folders[above]
        if kind == "make folder":
            self._folders[path] = _Folder()
            folder.do(lambda entries: entries.update({name: None}))
        elif kind == "create":
            if name in folder.latest:
                self._file(path).latest = b""
            else:
                file = _File()
                folder.do(lambda entries: entries.update({name: file}))
        elif kind == "content":
            self._file(path).latest = more[0]
        elif kind == "sync":
            self._file(path).synced = self._file(path).latest
        elif kind == "remove":

            def remove(entries: dict[str, _File | None]) -> None:
                entries.pop(name, None)

            folder.do(remove)
        elif kind == "rename":
            moved, new = self._file(path), os.path.basename(more[0])

            def rename(entries: dict[str, _File | None]) -> None:
                entries.pop(name, None)
                entries[new] = moved

            folder.do(rename)
        else:
            assert kind == "write", kind

    def _file(self, path: str) -> _File:
        above, name = os.path.split(path)
        file = self._folders[above].latest[name]
        assert file is not None
        return file

    def after_cut(self, parent: Path, target: Path, rng: random.Random) -> None:
        """Writes to ``target`` what a cut leaves of ``parent``."""
        target.mkdir()
        folder = self._folders[str(parent)]
        entries = dict(folder.synced)
        for change in folder.pending[: rng.randint(0, len(folder.pending))]:
            change(entries)
        for name, file in entries.items():
            if file is None:
                self.after_cut(parent / name, target / name, rng)
            else:
                (target / name).write_bytes(_left(file, rng))


def _left(file: _File, rng: random.Random) -> bytes:
    if file.latest == file.synced:
        return file.synced
    return rng.choice(
        [file.synced, file.latest, file.latest[: rng.randint(0, len(file.latest))], bytes(len(file.latest))]
    )

"""A folder tree as an archive: every image file below it is a view."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from mura_trt.archives.keys import display, is_view
from mura_trt.archives.listing import MAX_FILE_BYTES, Entry, Found, Reference, read_threads, stamp_of

# Image formats that people keep X-rays in and this version does not read: named, so that nobody takes a folder of
# them for an empty one.
UNREAD_SUFFIXES = frozenset(
    {".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".j2k", ".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst"}
)


@dataclass(frozen=True)
class FolderSource:
    """Reads views that are files below ``root``; nothing has to be open for that, so it is its own reader."""

    root: str
    in_order: ClassVar[bool] = False
    moved_at: ClassVar[float] = 0.0
    away: ClassVar[str] = ""

    @property
    def threads(self) -> int:
        """That read at once."""
        return read_threads()

    def open(self) -> FolderSource:
        """Itself."""
        return self

    def absence(self) -> str:
        """Why the folder is not there; without its disk, a mount point is an empty one."""
        try:
            with os.scandir(self.root) as entries:
                return "" if any(entries) else "an empty folder"
        except PermissionError:  # the folder of a list need not be one that can be looked into
            return ""
        except OSError as error:
            return error.strerror or str(error)

    def read(self, reference: Reference) -> bytes:
        """The bytes of one view.

        Raises
        ------
        OSError
            The file is gone, unreadable, no regular file, or larger than ``MAX_FILE_BYTES``.
        """
        return self.head(reference, -1)

    def stamp(self, reference: Reference) -> bytes:
        """Size and time of one view."""
        return stamp_of(os.stat(self._path(reference)))

    def head(self, reference: Reference, count: int) -> bytes:
        """The first ``count`` bytes of one view, or all of it; raises as ``read``."""
        path = self._path(reference)
        if b"\0" in path:
            raise OSError("the path holds a NUL byte")
        # Without O_NONBLOCK, opening a FIFO that nobody writes to would hang the run.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:  # open() refuses a directory's descriptor without closing it
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError("not a regular file")
            if count < 0 and status.st_size > MAX_FILE_BYTES:
                raise OSError(f"{status.st_size} bytes; at most {MAX_FILE_BYTES} are read")
            # One byte more than there should be: where just these come, they are all, and a file object is saved.
            wanted = status.st_size + 1 if count < 0 else count
            data = os.read(descriptor, wanted)
            if len(data) == status.st_size < wanted or len(data) == wanted == count:
                return data
            with open(descriptor, "rb", buffering=0, closefd=False) as file:
                return data + file.read(-1 if count < 0 else count - len(data))
        finally:
            os.close(descriptor)

    def _path(self, reference: Reference) -> bytes:
        assert isinstance(reference, bytes)
        return reference if reference.startswith(b"/") else self._below + reference

    @cached_property
    def _below(self) -> bytes:
        return os.path.join(os.fsencode(self.root), b"")


def list_folder(archive: Path) -> Found:
    """Lists a folder tree."""
    ignored: Counter[str] = Counter()
    unreadable: list[tuple[str, str]] = []
    keys = (key for key in _walk(os.fsencode(archive), unreadable) if is_view(key, ignored))
    return Found(FolderSource(str(archive.resolve())), map(Entry, keys), ignored=ignored, unreadable=unreadable)


def _walk(root: bytes, unreadable: list[tuple[str, str]]) -> Iterator[bytes]:
    """Paths of the files below ``root``: a folder's own files first, then its folders, each in order of bytes."""
    # With each folder, the folders above it by device and inode. Not recursive, for folders lie as deep as they like.
    waiting: list[tuple[bytes, frozenset[tuple[int, int]]]] = [(b"", frozenset())]
    while waiting:
        prefix, above = waiting.pop()
        try:
            folder = os.path.join(root, prefix)
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if identity in above:  # a symlink to a folder above
                continue
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
            # What is no folder counts as a file, be it a link that leads nowhere: it fails when read, with its reason.
            folders = [entry.name for entry in found if _is_folder(entry)]
            files = [entry.name for entry in found if not _is_folder(entry)]
        except OSError as error:
            unreadable.append((display(prefix) or ".", error.strerror or str(error)))
            continue
        yield from (prefix + name for name in files)
        below = [name for name in folders if not name.startswith(b".") and name != b"__MACOSX"]
        waiting.extend((prefix + name + b"/", above | {identity}) for name in reversed(below))


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False

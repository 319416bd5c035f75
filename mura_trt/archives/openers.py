"""Files of archives, on a disk or behind a URL: opened to be read at any place, or as a stream."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import IO, cast

from mura_trt.archives.listing import Unreadable, stamp_of
from mura_trt.archives.remote import RemoteFile, is_url, opened_url, url_absence, url_stamp

_FARTHEST = 1 << 62  # byte of a file; beyond it, the kernel's own numbers end


def located(archive: Path | str) -> str:
    """A path from the root, or the URL, for processes that work elsewhere."""
    return archive if isinstance(archive, str) else str(archive.resolve())


def open_file(path: str) -> RandomAccessFile:
    """For reading at any place; raises OSError."""
    return RemoteFile(path) if is_url(path) else OpenFile(path)


def open_stream(path: str) -> IO[bytes]:
    """For reading from the beginning; it seeks. Raises OSError."""
    return opened_url(path) if is_url(path) else cast("IO[bytes]", io.FileIO(path))


def file_stamp(path: str) -> bytes:
    """What changes when the file does, without reading it; raises OSError."""
    return url_stamp(path) if is_url(path) else stamp_of(os.stat(path))


def file_absence(path: str) -> str:
    """Why a file is not there; empty where it is."""
    if is_url(path):
        return url_absence(path)
    try:
        with open(path, "rb", buffering=0) as file:
            # Of a disk that is gone, the kernel may have all of this in memory but the bytes that it is told to forget.
            os.posix_fadvise(file.fileno(), 0, 1 << 16, os.POSIX_FADV_DONTNEED)
            file.read(1)
    except OSError as error:
        return error.strerror or str(error)
    return ""


class OpenFile:
    """A file that any thread may read at any place; closed when nobody holds it any more."""

    moved_at = 0.0

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):  # where it could not be opened there is none
            os.close(self._descriptor)

    def read(self, count: int, offset: int) -> bytes:
        """So many bytes; raises Unreadable where the file ends before, and OSError."""
        if not 0 <= offset < _FARTHEST:
            raise Unreadable("CORRUPT", f"the archive says that the member lies at byte {offset}")
        data = os.pread(self._descriptor, count, offset)
        while len(data) < count:
            more = os.pread(self._descriptor, count - len(data), offset + len(data))
            if not more:
                raise Unreadable("TRUNCATED", f"the archive ends inside the member, at byte {offset + len(data)}")
            data += more
        return data


RandomAccessFile = OpenFile | RemoteFile
"""A file that any thread may read at any place; ``moved_at`` is when bytes last came over a network, else 0."""

"""Tar files as an archive: one, or a row of them as WebDataset writes; members are read where they lie.

A plain tar is read at any place. A compressed one is a stream: it is listed by unpacking it once, and read by unpacking
it again, in order, by one thread.
"""

from __future__ import annotations

import bz2
import functools
import io
import lzma
import tarfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np

from mura_trt.archives.keys import key_of
from mura_trt.archives.listing import (
    MAX_FILE_BYTES,
    Entry,
    Found,
    HeaderReader,
    Reference,
    Unreadable,
    read_threads,
)
from mura_trt.archives.openers import RandomAccessFile, file_absence, file_stamp, open_file, open_stream
from mura_trt.archives.packed import LINK, NOT_A_FILE, SPARSE, TOO_LARGE, Names, bounded, refuse
from mura_trt.errors import UsageError

# Of a member: the number of its tar file, where its bytes begin in that (unpacked), how many there are, and 0 or a
# refusal.
PLACE = np.dtype([("file", "<u4"), ("offset", "<i8"), ("size", "<u4"), ("how", "<i2")])

_PLAIN, _GZIP, _BZIP2, _XZ, _ZSTD = "tar", "gzip", "bzip2", "xz", "zstd"
_SUFFIXES = {
    ".tar": _PLAIN,
    ".tar.gz": _GZIP,
    ".tgz": _GZIP,
    ".tar.bz2": _BZIP2,
    ".tbz2": _BZIP2,
    ".tar.xz": _XZ,
    ".txz": _XZ,
    ".tar.zst": _ZSTD,
    ".tzst": _ZSTD,
}
# Long enough that no member's name, with which a plain tar begins, is taken for one.
_MAGICS = {
    b"\x1f\x8b\x08": _GZIP,
    **{b"BZh%d1AY&SY" % level: _BZIP2 for level in range(1, 10)},
    b"\xfd7zXZ\0": _XZ,
    b"\x28\xb5\x2f\xfd": _ZSTD,
}
_SKIP = 1 << 20  # bytes that are skipped at once
_MAX_HEADER = 1 << 20  # bytes of a header, which is mostly a long name
_MAX_PADDING = 1 << 20  # zero bytes at an archive's end; packers fill up to 10,240 bytes, or what they are told


def is_tar(path: Path | str) -> bool:
    """Whether the name is a tar file's, compressed or not."""
    return str(path).lower().endswith(tuple(_SUFFIXES))


@dataclass(frozen=True)
class TarSource:
    """Tar files by their paths."""

    paths: tuple[str, ...]
    in_order: bool
    """Whether they are compressed: a stream of them gives no member before those in front of it."""

    @property
    def root(self) -> str:
        """The first of them."""
        return self.paths[0]

    def open(self) -> HeaderReader:
        """A reader that opens each file when it comes to it."""
        return StreamReader(self.paths) if self.in_order else TarReader(self.paths)

    def absence(self) -> str:
        """Why none of them is there."""
        why = ""
        for path in self.paths:  # a row may have thousands
            why = file_absence(path)
            if not why:
                break
        return why


class _Members(ABC):
    """Members of tar files by their place."""

    away = ""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._paths = paths
        self._stamps = functools.cache(file_stamp)

    @abstractmethod
    def read(self, reference: Reference) -> bytes:
        """The bytes of one member; raises OSError or Unreadable."""

    def head(self, reference: Reference, count: int) -> bytes:
        """The first bytes of one member; raises as ``read``."""
        assert isinstance(reference, tuple)
        number, offset, size, how = reference
        return self.read((number, offset, min(size, count), how))

    def stamp(self, reference: Reference) -> bytes:
        """Its place, and its file's size and time."""
        assert isinstance(reference, tuple)
        return b"%r %b" % (reference, self._stamps(self._paths[reference[0]]))


class TarReader(_Members):
    """Reads members of plain tar files, from several threads at once."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        super().__init__(paths)
        self.threads = read_threads()
        self._open: dict[int, tuple[int, RandomAccessFile]] = {}  # by thread, the file that it is at

    def read(self, reference: Reference) -> bytes:
        """The bytes of one member; raises OSError or Unreadable."""
        assert isinstance(reference, tuple)
        refuse(reference)
        number, offset, size, _ = reference
        thread = threading.get_ident()
        opened, file = self._open.get(thread, (-1, None))
        if file is None or opened != number:
            file = open_file(self._paths[number])
            self._open[thread] = (number, file)
        return file.read(size, offset)

    @property
    def moved_at(self) -> float:
        """When bytes last came over a network; 0 where they come from a disk."""
        return max((file.moved_at for _, file in self._open.copy().values()), default=0.0)


class StreamReader(_Members):
    """Reads members of compressed tar files; fast in the order in which they lie there."""

    threads = 1

    def __init__(self, paths: tuple[str, ...]) -> None:
        super().__init__(paths)
        self._number = -1
        self._stream: _Forward

    @property
    def moved_at(self) -> float:
        """When the stream last gave bytes: seconds of the monotonic clock."""
        return self._stream.moved_at if self._number >= 0 else 0.0

    def read(self, reference: Reference) -> bytes:
        """The bytes of one member; raises OSError or Unreadable."""
        assert isinstance(reference, tuple)
        refuse(reference)
        number, offset, size, _ = reference
        if number != self._number or offset < self._stream.tell():
            self._close()
            self._stream, self._number = _Forward(*_unpacked(self._paths[number]), MAX_FILE_BYTES), number
        try:
            self._stream.seek(offset)
            data = self._stream.read(size)
        except Exception as error:  # whatever an unpacker meets in broken bytes
            self._close()
            if isinstance(error, OSError) and error.errno:  # no damage, but the disk's or the store's
                raise
            raise Unreadable("CORRUPT", f"the archive does not unpack up to the member ({error})") from error
        if len(data) < size:
            raise Unreadable("TRUNCATED", f"the archive ends inside the member, at byte {self._stream.tell()}")
        return data

    def _close(self) -> None:
        if self._number >= 0:
            self._number = -1
            self._stream.close()

    def __del__(self) -> None:  # readers are let go of, not closed, and Python 3.13 warns of the files that they hold
        self._close()


class _Forward(io.RawIOBase):
    """A stream as tarfile wants it, which never goes back: a header that sends it back would have it go in circles."""

    def __init__(self, raw: IO[bytes], file: IO[bytes], most: int) -> None:
        self._raw, self._file, self._most, self._at = raw, file, most, 0
        self.moved_at = time.monotonic()

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < self._at:
            raise OSError(f"a header leads back to byte {offset}")
        while self._at < offset and self._take(min(_SKIP, offset - self._at)):
            pass
        return self._at

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._most:
            raise OSError(f"{size} bytes are to be read at once")
        parts = [self._take(size)]
        while parts[-1] and (missing := size - sum(map(len, parts))):
            parts.append(self._take(missing))
        return b"".join(parts)

    def _take(self, size: int) -> bytes:
        data = self._raw.read(size)
        self._at += len(data)
        self.moved_at = time.monotonic()
        return data

    def close(self) -> None:
        self._raw.close()
        self._file.close()
        super().close()


class _PlainForward(_Forward):
    """The same of a file, in which skipping costs nothing."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < self._at:
            raise OSError(f"a header leads back to byte {offset}")
        self._at = self._raw.seek(offset)
        return self._at


class _Header(tarfile.TarInfo):
    """Notes why no header follows, which tarfile keeps to itself: it takes damage for the archive's end."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> _Header:
        try:
            return super().fromtarfile(tarfile)
        except Exception as error:
            vars(tarfile)["ended_by"] = error
            raise


def _kind(path: str) -> str:
    """How a file is packed, by its first bytes."""
    with open_stream(path) as file:
        first = file.read(16)
    return next((kind for magic, kind in _MAGICS.items() if first.startswith(magic)), _PLAIN)


def _unpacked(path: str) -> tuple[IO[bytes], IO[bytes]]:
    """The bytes without compression, and the file that they come from: of a plain tar, the same."""
    kind, file = _kind(path), open_stream(path)
    if kind == _PLAIN:
        return file, file
    if kind == _ZSTD:
        import pyarrow as pa

        return cast("IO[bytes]", pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")), file
    if kind == _GZIP:
        from isal.igzip import IGzipFile

        return cast("IO[bytes]", IGzipFile(fileobj=file, mode="rb")), file  # type: ignore[no-untyped-call]
    return cast("IO[bytes]", bz2.BZ2File(file) if kind == _BZIP2 else lzma.LZMAFile(file)), file


def list_tars(archive: Path | str, paths: list[str]) -> Found:
    """Lists the images of tar files in the order in which they lie there.

    A file that is missing or damaged is told, with what cannot be listed; the rest is listed.

    Parameters
    ----------
    archive
        As the user names it.
    paths
        The tar files.

    Raises
    ------
    UsageError
        Some of them are compressed and some are not.
    """
    names = Names()
    unreadable: list[tuple[str, str]] = []
    entries: list[Entry] = []
    kinds = set()
    for number, path in enumerate(paths):
        try:
            kinds.add(_kind(path) != _PLAIN)
            entries.extend(_members(path, number, names))
        except Exception as error:  # whatever tarfile and unpackers meet in broken bytes
            unreadable.append(
                (path.rsplit("/", 1)[-1], getattr(error, "strerror", None) or str(error) or type(error).__name__)
            )
    if len(kinds) > 1:
        raise UsageError(f"{archive}: some of the files are compressed and some are not; score them apart")
    source = TarSource(tuple(paths), kinds == {True})
    return Found(source, entries, PLACE, names.ignored, unreadable)


def _members(path: str, number: int, names: Names) -> Iterator[Entry]:
    """The views of a tar file; raises behind the last that can be listed where more should follow."""
    raw, file = _unpacked(path)
    with (
        (_PlainForward if raw is file else _Forward)(raw, file, _MAX_HEADER) as stream,
        tarfile.open(
            fileobj=cast("IO[bytes]", stream), mode="r:", tarinfo=_Header, errorlevel=0, encoding="utf-8"
        ) as opened,
    ):
        while (member := opened.next()) is not None:
            vars(opened)["members"].clear()  # or it would keep them all
            if member.size < 0:
                raise tarfile.ReadError(f"the member at byte {member.offset} says that it has {member.size} bytes")
            key = None if member.isdir() else names.key(key_of(member.name))
            if key is not None:
                how = names.refusal(key) or _refusal(member)
                yield Entry(bounded(key), place=(number, member.offset_data, min(member.size, 2**32 - 1), how))
        ended_by = vars(opened).get("ended_by")
        if not isinstance(ended_by, vars(tarfile)["EOFHeaderError"]):
            raise tarfile.ReadError(f"no member and no end mark at byte {opened.offset} ({ended_by}): cut or damaged")
        _check_end(stream)


def _check_end(stream: _Forward) -> None:
    """Raises ReadError where something lies behind the first block of an end mark; unpacks a stream to its checksum.

    A header that was lost to zeros looks like the end; so does what a download that stopped has not filled yet.
    """
    end = stream.tell()
    while block := stream.read(_SKIP):
        if block.count(0) < len(block):
            raise tarfile.ReadError(f"more follows behind the end mark at byte {end}: joined with another, or damaged")
    if stream.tell() - end > _MAX_PADDING:
        raise tarfile.ReadError(f"{stream.tell() - end} zero bytes follow the end mark at byte {end}: cut or damaged?")


def _refusal(member: tarfile.TarInfo) -> int:
    if member.issym() or member.islnk():
        return LINK
    if member.issparse():
        return SPARSE
    if not member.isreg():
        return NOT_A_FILE
    return TOO_LARGE if member.size > MAX_FILE_BYTES else 0

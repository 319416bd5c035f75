"""A zip file as an archive; members are read where they lie, and never written to a disk."""

from __future__ import annotations

import errno
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mura_trt.archives.keys import key_of
from mura_trt.archives.listing import MAX_FILE_BYTES, Entry, Found, Place, Reference, Unreadable, read_threads
from mura_trt.archives.openers import RandomAccessFile, file_absence, located, open_file, open_stream
from mura_trt.archives.packed import (
    ENCRYPTED,
    LINK,
    NOT_A_FILE,
    OVERLAPPING,
    TOO_LARGE,
    UNSUPPORTED_COMPRESSION,
    Names,
    bounded,
    refuse,
)
from mura_trt.errors import UsageError

# Of a member: where its header begins, its bytes in the file and unpacked, its CRC-32, and how it is packed.
PLACE = np.dtype([("header", "<i8"), ("packed", "<u4"), ("size", "<u4"), ("crc", "<u4"), ("how", "<i2")])
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field (APPNOTE 6.3.10, 4.3.7)
_MOST_ASKED = 10_000  # members that overlap, of which each costs a look into the file
_DOS = 0  # a creator that writes backslashes


@dataclass(frozen=True)
class ZipSource:
    """A zip file by its path."""

    root: str
    in_order: ClassVar[bool] = False

    def open(self) -> ZipReader:
        """Opens the file; raises OSError."""
        return ZipReader(self.root)

    def absence(self) -> str:
        """Why the file is not there."""
        return file_absence(self.root)


class ZipReader:
    """Reads members by their place, from several threads at once."""

    away = ""

    def __init__(self, path: str) -> None:
        self.threads = read_threads()
        self._file = open_file(path)

    @property
    def moved_at(self) -> float:
        """When bytes last came over a network; 0 where they come from a disk."""
        return self._file.moved_at

    def read(self, reference: Reference) -> bytes:
        """The bytes of one member, unpacked and checked.

        Raises
        ------
        Unreadable
            The member is refused, cut off, or not what the archive's directory says.
        OSError
            The disk's.
        """
        from isal.isal_zlib import crc32

        assert isinstance(reference, tuple)
        size, crc = reference[2:4]
        # One byte more than there should be, so that a lie about the size shows and costs nothing.
        data = self._unpacked(reference, reference[1], size + 1)
        if len(data) != size or crc32(data) != crc:
            raise Unreadable("CORRUPT", f"the member is not the {size} bytes of the directory's CRC-32")
        return data

    def stamp(self, reference: Reference) -> bytes:
        """Its place, which has its CRC-32."""
        return repr(reference).encode()

    def head(self, reference: Reference, count: int) -> bytes:
        """The first bytes of one member, unpacked and not checked; raises as ``read``."""
        assert isinstance(reference, tuple)
        # A few packed bytes more than the unpacked ones are enough, for deflate stores what does not shrink.
        return self._unpacked(reference, min(reference[1], count + count // 8 + 64), count)[:count]

    def _unpacked(self, place: Place, packed: int, most: int) -> bytes:
        from isal import isal_zlib  # what deflate could not shrink takes it five sixths of zlib's time

        refuse(place)
        header, how = place[0], place[4]
        signature, name, extra = _HEADER.unpack(self._file.read(_HEADER.size, header))
        if signature != b"PK\3\4":
            raise Unreadable("CORRUPT", f"no member begins at byte {header}, where the directory has one")
        data = self._file.read(packed, header + _HEADER.size + name + extra)
        if how != DEFLATED:
            return data
        try:
            unpacked: bytes = isal_zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, most)
        except isal_zlib.IsalError as error:  # type: ignore[misc]  # isal types its error as an instance
            raise Unreadable("CORRUPT", f"the member does not unpack ({error})") from error
        return unpacked


def list_zip(archive: Path | str) -> Found:
    """Lists a zip file's images in the order in which they lie there.

    Raises
    ------
    UsageError
        It cannot be read.
    """
    try:
        with open_stream(located(archive)) as file, zipfile.ZipFile(file) as opened:
            members = opened.infolist()
    except Exception as error:  # whatever zipfile meets in broken bytes
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # not of what is in it
            raise UsageError(f"{archive}: cannot be read ({error.strerror})") from error
        raise UsageError(
            f"{archive}: not a zip file that can be read ({error}); is it whole? `unzip -t` says"
        ) from error
    members.sort(key=lambda member: member.header_offset)
    names = Names()
    entries = _entries(members, _overlapping(located(archive), members), names)
    return Found(ZipSource(located(archive)), entries, PLACE, names.ignored)


def _entries(members: list[zipfile.ZipInfo], overlapping: NDArray[np.bool_], names: Names) -> Iterator[Entry]:
    for member, overlaps in zip(members, overlapping, strict=True):
        # Not the name that zipfile makes of it, which ends at a NUL.
        name = key_of(member.orig_filename)
        if member.create_system == _DOS:
            name = name.replace(b"\\", b"/")
        key = None if name.endswith(b"/") else names.key(name)
        if key is not None:
            how = OVERLAPPING if overlaps else names.refusal(key) or _refusal(member) or member.compress_type
            packed, size = (min(count, 2**32 - 1) for count in (member.compress_size, member.file_size))
            yield Entry(bounded(key), place=(min(member.header_offset, 2**63 - 1), packed, size, member.CRC, how))


def _refusal(member: zipfile.ZipInfo) -> int:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return LINK
    if kind not in (0, stat.S_IFREG):
        return NOT_A_FILE
    if member.flag_bits & 0x1:
        return ENCRYPTED
    if member.compress_type not in (STORED, DEFLATED):
        return UNSUPPORTED_COMPRESSION
    return TOO_LARGE if max(member.file_size, member.compress_size) > MAX_FILE_BYTES else 0


def _overlapping(archive: str, members: list[zipfile.ZipInfo]) -> NDArray[np.bool_]:
    """Which members have bytes that are another's, as a bomb's do; of several that claim the same, who has the header.

    Parameters
    ----------
    archive
        The file.
    members
        All of them, of whatever kind, in order of their offsets.
    """
    starts = np.array([min(member.header_offset, 2**62) for member in members], np.int64)
    packed = np.array([min(member.compress_size, 2**62 - 1) for member in members], np.int64)
    ends = starts + _HEADER.size + packed
    refused = np.zeros(len(members), bool)
    inside = np.flatnonzero(starts[1:] < np.maximum.accumulate(ends)[:-1]) + 1
    if not len(inside):
        return refused
    if len(inside) > _MOST_ASKED:  # no damage, but a bomb
        refused[inside] = refused[np.maximum(inside - 1, 0)] = True
        return refused
    file = open_file(archive)
    # One that claims to begin inside another and has no header there lies; where it has one, the other's size is a lie.
    refused[inside] = [not _has_header(file, members[at]) for at in inside]
    honest = np.flatnonzero(~refused)
    refused[honest[:-1][ends[honest[:-1]] > starts[honest[1:]]]] = True
    return refused


def _has_header(file: RandomAccessFile, member: zipfile.ZipInfo) -> bool:
    name = member.orig_filename.encode("utf-8" if member.flag_bits & 0x800 else "cp437", "replace")
    try:
        header = file.read(_HEADER.size + len(name), member.header_offset)
    except (OSError, Unreadable):
        return False
    return header.startswith(b"PK\3\4") and header[_HEADER.size :] == name

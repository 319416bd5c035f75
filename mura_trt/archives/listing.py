"""What every kind of archive is listed as: views and their studies in columns, and a source to read the views from."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mura_trt.archives.keys import (
    KNOWN_SUFFIXES,
    KeyColumn,
    KeyNumbers,
    body_part,
    display,
    study_key,
)
from mura_trt.cores import usable_cores
from mura_trt.dicom import BODY_PARTS

if TYPE_CHECKING:
    import pyarrow as pa

    from mura_trt.archives.disclosure import Disclosure

# A file larger than this is no X-ray: the largest plain radiographs are around 50 MB uncompressed.
MAX_FILE_BYTES = 1 << 28

_AT_ONCE = 1 << 16  # views whose columns are copied

# What a view is, as far as the listing tells: an image file, a DICOM file whose header was read, or one, as it seems,
# whose header could not be read.
IMAGE, DICOM, UNREAD = range(3)

Place = tuple[int, ...]
"""Where a packed archive has a view: whole numbers that its source understands, the last below 0 where it refuses."""
Reference = bytes | Place
"""What a view is read by: its path in a folder, its place in a packed archive."""


def read_threads() -> int:
    """How many read from a disk, which makes them wait; more are in decoding's way."""
    return max(2, min(4, usable_cores()))


class Unreadable(Exception):
    """A view whose bytes cannot be had; ``code`` is one word for tables, the message says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Reader(Protocol):
    """An archive that is open for reading."""

    @property
    def threads(self) -> int:
        """How many may read at once; of an archive that can only be read in order, one."""

    @property
    def moved_at(self) -> float:
        """When a read last got further, of a reader that may have to pass over much to come to a view; else 0."""

    @property
    def away(self) -> str:
        """Why the archive as a whole cannot be reached, of a reader that waits for it to be back; else empty."""

    def read(self, reference: Reference) -> bytes:
        """The bytes of one view; raises OSError or Unreadable."""


class HeaderReader(Reader, Protocol):
    """One that can give the beginnings of views, too."""

    def head(self, reference: Reference, count: int) -> bytes:
        """Its first ``count`` bytes, or all where there are fewer; raises OSError or Unreadable."""

    def stamp(self, reference: Reference) -> bytes:
        """What changes when the view does, as far as that shows without reading it; raises OSError."""


class Source(Protocol):
    """Where views' bytes come from; it travels to the worker process, so it pickles and holds nothing open."""

    @property
    def root(self) -> str:
        """The folder or file."""

    @property
    def in_order(self) -> bool:
        """Whether it can only be read from its beginning on, so that several readers do the same work."""

    def open(self) -> HeaderReader:
        """Whatever it takes to read; raises OSError."""

    def absence(self) -> str:
        """Why nothing of it can be reached now, as when a disk is gone; empty where something is there."""


class Entry(NamedTuple):
    """A view as it is found."""

    key: bytes
    study: bytes | None = None
    """Its study's key, where the archive names one."""
    place: Place = ()


@dataclass(frozen=True)
class Found:
    """What listing an archive of any kind finds; its counts and parts are whole when the last entry was taken.

    ``entries`` come in read order, no view twice; ``place`` is the structure of their places, None where views are
    files. The rest is as in :class:`Listing`.
    """

    source: Source
    entries: Iterable[Entry]
    place: np.dtype[np.void] | None = None
    ignored: Counter[str] = field(default_factory=Counter)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    duplicates: int = 0
    studies_named: bool = False
    stamps: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Listing:
    """Every view of an archive in read order, in columns: 70 to 110 bytes a view, whatever the archive's size.

    Attributes
    ----------
    source
        Where a worker reads the views from.
    views
        n view keys, as bytes: the path relative to the archive as the archive spells it.
    study_of
        int32 (n,): the number of each view's study.
    studies
        m study keys, as bytes, in order of first appearance.
    places
        (n,), a structure of whole numbers each: the view's place in a packed archive; None where views are files.
    ignored
        How many files were passed over, by suffix.
    unreadable
        Parts of the archive that could not be listed, with the reason.
    duplicates
        How many entries of a list named a view that was there already.
    stamps
        uint8 (n, 16): what changes when a view does, where the archive's own list tells it, zeros where it does not;
        None where the source's reader is asked.
    studies_named
        Whether a list says which study each view is of.
    kinds
        uint8 (n,): ``IMAGE``, ``DICOM`` or ``UNREAD``; None where all are images.
    body_parts
        By study number, where DICOM headers say it.
    disclosure
        How paths are shown, where the archive holds DICOM files; None shows them. Studies' keys are as they are shown.
    """

    source: Source
    views: pa.LargeBinaryArray
    study_of: NDArray[np.int32]
    studies: pa.LargeBinaryArray
    places: NDArray[np.void] | None = None
    ignored: Counter[str] = field(default_factory=Counter)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    duplicates: int = 0
    studies_named: bool = False
    stamps: NDArray[np.uint8] | None = None
    kinds: NDArray[np.uint8] | None = None
    body_parts: dict[int, str] = field(default_factory=dict)
    disclosure: Disclosure | None = None

    def __len__(self) -> int:
        return len(self.study_of)

    def keys(self, start: int, stop: int) -> list[bytes]:
        """The keys of views ``start`` to ``stop`` (exclusive)."""
        keys: list[bytes] = self.views.slice(start, stop - start).to_pylist()
        return keys

    def references(self, start: int, stop: int) -> list[Reference]:
        """What the source reads views ``start`` to ``stop`` (exclusive) by."""
        if self.places is None:
            return list(self.keys(start, stop))
        places: list[Reference] = self.places[start:stop].tolist()
        return places

    def kinds_of(self, start: int, stop: int) -> bytes:
        """The kinds of views ``start`` to ``stop`` (exclusive), a byte each; empty where all are images."""
        return b"" if self.kinds is None else self.kinds[start:stop].tobytes()

    def sample(self, count: int) -> Listing:
        """So many of the views, evenly spaced and in order."""
        return self.take(np.linspace(0, len(self) - 1, count).round().astype(np.int64))

    def take(self, rows: NDArray[np.int64]) -> Listing:
        """Some of the views by number; they keep their order, and their studies' body parts."""
        studies, study_of = np.unique(self.study_of[rows], return_inverse=True)
        return replace(
            self,
            views=self.views.take(rows),
            study_of=study_of.astype(np.int32),
            studies=self.studies.take(studies),
            stamps=None if self.stamps is None else self.stamps[rows],
            kinds=None if self.kinds is None else self.kinds[rows],
            body_parts={
                new: self.body_parts[old] for new, old in enumerate(studies.tolist()) if old in self.body_parts
            },
            places=None if self.places is None else self.places[rows],
        )

    def view_names(self, keys: list[bytes]) -> list[str]:
        """Views' keys as tables have them."""
        if self.disclosure is None or self.disclosure.keep_paths:
            return [display(key) for key in keys]
        return [self.disclosure.digest(key) for key in keys]

    def view_names_in_parts(self, count: int) -> Iterator[list[str]]:
        """All of them, so many at a time."""
        for start in range(0, len(self), count):
            yield self.view_names(self.keys(start, min(start + count, len(self))))

    def told_suffix(self, suffix: str) -> str:
        """A suffix for whoever is told of counts: where names may be patients', one that is well known or none."""
        return suffix if self.disclosure is None or suffix in KNOWN_SUFFIXES else "other"

    def told_ignored(self) -> dict[str, int]:
        """How many files were passed over, by suffix."""
        told: Counter[str] = Counter()
        for suffix, count in self.ignored.most_common():
            told[self.told_suffix(suffix)] += count
        return dict(told)

    def part_name(self, name: str) -> str:
        """The name of a part of the archive as logs have it."""
        return name if self.disclosure is None else self.disclosure.digest(name.encode())

    def study_names(self, numbers: NDArray[np.int32]) -> list[str]:
        """Study keys as text, by number."""
        return [display(key) for key in self.studies.take(numbers).to_pylist()]

    def fingerprint(self) -> str:
        """64 hexadecimal digits that change with the views, their places and studies, and with their order."""
        # Salted, for whoever knows the names of a few files could try them.
        digest = hashlib.sha256(b"" if self.disclosure is None else self.disclosure.salt)
        digest.update(self.study_of.tobytes())
        if self.places is not None:
            digest.update(self.places.tobytes())
        for column in (self.views, self.studies):
            for buffer in column.buffers()[1:]:  # where each key ends, and the keys' bytes
                digest.update(buffer)
        return digest.hexdigest()

    def body_parts_of_studies(self, start: int = 0, stop: int | None = None) -> list[str]:
        """Of studies ``start`` to ``stop`` (exclusive): what DICOM headers say, or the path of the study's first view.

        Empty where neither does.
        """
        firsts = enumerate(self.first_views(start, stop), start)
        parts = [self.body_parts.get(study) or body_part(path) for study, path in firsts]
        # Any other word in a path may be a name.
        return parts if self.disclosure is None else [part if part in BODY_PARTS else "" for part in parts]

    def first_views(self, start: int = 0, stop: int | None = None) -> list[bytes]:
        """The key of each study's first view, of studies ``start`` to ``stop`` (exclusive)."""
        keys: list[bytes] = self.views.take(self._first_views[start:stop]).to_pylist()
        return keys

    @cached_property
    def _first_views(self) -> NDArray[np.int32]:
        """By study number."""
        first = np.empty(len(self.studies), np.int32)
        for start in reversed(range(0, len(self), _AT_ONCE)):
            study = self.study_of[start : start + _AT_ONCE][::-1]
            first[study] = (
                np.arange(start + len(study), start, -1) - 1
            )  # of several values for one place the last stays
        return first


def gather(found: Found, study_depth: int | None) -> Listing:
    """What was found in columns; a study whose key no entry names is ``study_depth`` parts of a view's path."""
    views, studies, study_of = KeyColumn(), KeyNumbers(), array("i")
    places: list[Place] = []
    for entry in found.entries:
        views.append(entry.key)
        study_of.append(studies.number(entry.study or study_key(entry.key, study_depth)))
        if found.place is not None:
            places.append(entry.place)
    return Listing(
        source=found.source,
        views=views.to_arrow(),
        study_of=np.array(study_of, np.int32),
        studies=studies.to_arrow(),
        places=None if found.place is None else np.array(places, found.place),
        ignored=found.ignored,
        unreadable=found.unreadable,
        duplicates=found.duplicates,
        studies_named=found.studies_named,
        stamps=found.stamps,
    )


def stamp_of(status: os.stat_result) -> bytes:
    """A file's size and the time of its last change, in nanoseconds."""
    return b"%d %d" % (status.st_size, status.st_mtime_ns)

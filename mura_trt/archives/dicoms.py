"""The DICOM files of a listing: which are images, and which study each belongs to, by their headers."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np

from mura_trt.archives.disclosure import Disclosure
from mura_trt.archives.keys import DICOM_SUFFIXES, IMAGE_SUFFIXES, NO_IMAGE, may_be_dicom, suffix_of
from mura_trt.archives.listing import DICOM, IMAGE, UNREAD, HeaderReader, Listing, Reference, Unreadable
from mura_trt.dicom import Header, is_dicom, read_header
from mura_trt.files import read_checked, write_checked
from mura_trt.screen import Rejected

logger = logging.getLogger(__name__)

_COLUMNS = ["file", "image", "study", "body_part"]
_UNREAD = Header(False, "", "cannot be read")

# Of a header, bytes that are read at first, and where it goes on behind them.
_HEAD, _LONG_HEAD, _WHOLE = 1 << 14, 1 << 22, 1 << 28
_PAUSES = (0.1, 0.5)  # seconds before a header is tried to be read again
_AT_ONCE = 1024  # files whose heads are in memory
_KEYS_AT_ONCE = 100_000


def sorted_by_headers(
    listing: Listing, disclosure: Disclosure | None, index: HeaderIndex, named: bool = False
) -> Listing:
    """The listing without files that are no images, and with studies by their UIDs.

    A DICOM file without a UID, or one whose header cannot be read, is a study of its own: nothing says that it belongs
    to its neighbours. Where a list says which study a view is of, that holds.

    Parameters
    ----------
    listing
        With all files that may be DICOM among its views.
    disclosure
        How UIDs are shown; None leaves all DICOM files out.
    index
        Headers that were read before; holds those of this listing afterwards.
    named
        Whether the user has named each view, so that none is left out.

    Raises
    ------
    EnvironmentProblem
        There are DICOM files and pydicom is not installed.
    """
    rows = list(_candidates(listing, named))
    if not rows:
        return listing
    sorting = _Sorting(listing, disclosure)
    unread: list[int] = []
    for row, header in _headers(listing, rows, disclosure, index):
        suffix = suffix_of(listing.keys(row, row + 1)[0])
        dicom = disclosure is not None and suffix in DICOM_SUFFIXES
        if header is _UNREAD and not dicom and not named:
            unread.append(row)
        elif header is _UNREAD:
            sorting.keep_dicom(row, Header(True, "", ""), UNREAD)
        elif header is None and dicom:  # by its name alone, and no such file
            sorting.keep_dicom(row, Header(True, "", ""), IMAGE)
        elif header is None and not named:
            sorting.leave_out(row, suffix)
        elif header is not None and (header.image or named):
            sorting.keep_dicom(row, header, DICOM)
        elif header is not None:
            sorting.leave_out_dicom(row)
    for row in unread:  # as DICOM files have no suffix here, so may these be some: they fail with their reason
        if sorting.found:
            sorting.keep_dicom(row, Header(True, "", ""), UNREAD)
        else:
            sorting.leave_out(row, suffix_of(listing.keys(row, row + 1)[0]))
    return sorting.listing()


class HeaderIndex:
    """What DICOM headers say, by a hash of the file's path, size and time, so that nobody reads them twice.

    Parameters
    ----------
    known
        By hash: a header with the study as tables show it.
    """

    def __init__(self, known: dict[str, Header] | None = None) -> None:
        self._known = known or {}
        self._used: dict[str, Header] = {}
        self.names_uids = False  # then it is not left anywhere

    @classmethod
    def read(cls, path: Path) -> HeaderIndex:
        """The index that a run has left; an empty one where there is none, or none that can be read."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(pa.BufferReader(read_checked(path)))
            columns = [column.to_pylist() for column in table.select(_COLUMNS).columns]
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError) as error:
            logger.warning("%s cannot be read (%s): headers are read anew", path, type(error).__name__)
            return cls()
        return cls({file: Header(*header) for file, *header in zip(*columns, strict=True)})

    def write(self, path: Path) -> None:
        """Leaves the headers of the last listing, and lets go of them; nothing where there are none. Raises OSError."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        used, self._known, self._used = self._used, {}, {}
        if not used or self.names_uids:
            return
        columns = [list(used), *map(list, zip(*used.values(), strict=True))]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(dict(zip(_COLUMNS, columns, strict=True))), sink)
        write_checked(path, sink.getvalue().to_pybytes())

    def get(self, file: str) -> Header | None:
        """A header by its file's hash."""
        header = self._known.get(file)
        if header is not None:
            self._used[file] = header
        return header

    def add(self, file: str, header: Header) -> None:
        """Takes a header that was read."""
        self._used[file] = header

    def __len__(self) -> int:
        return len(self._used)


class _Sorting:
    """A listing's views as their headers come in."""

    def __init__(self, listing: Listing, disclosure: Disclosure | None) -> None:
        self._listing, self._disclosure = listing, disclosure
        self._kept = np.ones(len(listing), bool)
        self._study_of = listing.study_of.copy()
        self._body_parts: dict[int, str] = {}
        self._kinds = np.full(len(listing), IMAGE, np.uint8)
        self._ignored = listing.ignored.copy()
        self.found = False

    @cached_property
    def _studies(self) -> dict[bytes, int]:
        """Paths and UIDs in one row of numbers, told apart by the first letter; of archives that hold DICOM files."""
        return {b"p" + key: number for number, key in enumerate(self._listing.studies.to_pylist())}

    def leave_out(self, row: int, suffix: str) -> None:
        """Passes a file over that is no view."""
        self._kept[row] = False
        self._ignored[suffix] += 1

    def leave_out_dicom(self, row: int) -> None:
        """Passes a report or the like over; an archive that has some is of patients."""
        self.leave_out(row, NO_IMAGE)
        self.found = True

    def keep_dicom(self, row: int, header: Header, kind: int) -> None:
        """Keeps a view with what its header says."""
        self.found = True
        self._kinds[row] = kind
        if not self._listing.studies_named:
            name = b"u" + header.study.encode() if header.study else b"p" + self._listing.keys(row, row + 1)[0]
            self._study_of[row] = self._studies.setdefault(name, len(self._studies))
        if header.body_part:
            self._body_parts.setdefault(int(self._study_of[row]), header.body_part)

    def listing(self) -> Listing:
        """What is kept, with studies numbered in order of first appearance."""
        import pyarrow as pa

        numbers, first, at = np.unique(self._study_of[self._kept], return_index=True, return_inverse=True)
        order = np.argsort(first)
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        wanted = numbers[order].tolist()
        if self.found:
            names = list(self._studies)
            studies = pa.array([_shown(names[number], self._disclosure) for number in wanted], pa.large_binary())
        else:
            studies = self._listing.studies.take(pa.array(numbers[order]))
        return replace(
            self._listing,
            views=self._listing.views.filter(pa.array(self._kept)),
            places=None if self._listing.places is None else self._listing.places[self._kept],
            stamps=None if self._listing.stamps is None else self._listing.stamps[self._kept],
            study_of=place[at],
            studies=studies,
            kinds=self._kinds[self._kept],
            body_parts={at: self._body_parts[n] for at, n in enumerate(wanted) if n in self._body_parts},
            ignored=self._ignored,
            disclosure=self._disclosure if self.found else None,
        )


def _shown(study: bytes, disclosure: Disclosure | None) -> bytes:
    """A study's key as tables have it: a UID is that already."""
    key = study[1:]
    if study.startswith(b"u") or disclosure is None or disclosure.keep_paths:
        return key
    return disclosure.digest(key).encode()


def _candidates(listing: Listing, named: bool) -> Iterator[int]:
    for start in range(0, len(listing), _KEYS_AT_ONCE):
        for row, key in enumerate(listing.keys(start, min(start + _KEYS_AT_ONCE, len(listing))), start):
            suffix = suffix_of(key)
            if suffix not in IMAGE_SUFFIXES and (named or may_be_dicom(suffix)):
                yield row


def _headers(
    listing: Listing, rows: list[int], disclosure: Disclosure | None, index: HeaderIndex
) -> Iterator[tuple[int, Header | None]]:
    """Of each row its header, with the study as it is shown; None where the file is no DICOM.

    ``_UNREAD`` where its bytes cannot be had.
    """
    if disclosure is None:
        yield from ((row, None) for row in rows)
        return
    index.names_uids = disclosure.keep_uids
    reader = listing.source.open()
    waiting = iter(rows)

    def header_of(row: int) -> Header | None:
        key, reference = listing.keys(row, row + 1)[0], listing.references(row, row + 1)[0]
        for pause in (*_PAUSES, None):
            try:
                stamp = reader.stamp(reference) if listing.stamps is None else bytes(listing.stamps[row])
                file = disclosure.digest(b"\0".join((key, stamp, disclosure.tag.encode())))
                return index.get(file) or _read(reader, reference, file, disclosure, index)
            except FileNotFoundError:
                break
            except OSError:
                if pause is not None:
                    time.sleep(pause)
            except (ValueError, Unreadable):
                break
        return _UNREAD  # which is told when the view is read

    with ThreadPoolExecutor(reader.threads, thread_name_prefix="header") as threads:
        while some := list(islice(waiting, _AT_ONCE)):
            yield from zip(some, threads.map(header_of, some), strict=True)


def _read(
    reader: HeaderReader, reference: Reference, file: str, disclosure: Disclosure, index: HeaderIndex
) -> Header | None:
    # Of a stream a second look would begin anew; and all of it passes by in any case.
    count = _HEAD if reader.threads > 1 else _LONG_HEAD
    head = reader.head(reference, count)
    if not is_dicom(head):
        return None
    try:
        header = read_header(head, whole=len(head) < count)
        if header is None:
            header = read_header(reader.head(reference, _WHOLE), whole=True)
        assert header is not None
    except Rejected:  # which is told when the view is read
        header = Header(True, "", "")
    if header.study:
        header = header._replace(study=disclosure.uid(header.study))
    index.add(file, header)
    return header

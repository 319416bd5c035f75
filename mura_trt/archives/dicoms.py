"""The DICOM files of a listing: which are images, and which study each belongs to, by their headers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

import numpy as np

from mura_trt.archives.disclosure import Disclosure
from mura_trt.archives.listing import (
    DICOM_SUFFIXES,
    IMAGE_SUFFIXES,
    NO_IMAGE,
    HeaderReader,
    Listing,
    Reference,
    Unreadable,
    may_be_dicom,
    suffix_of,
)
from mura_trt.dicom import Header, is_dicom, read_header
from mura_trt.screen import Rejected

# Of a header, bytes that are read at first, and where it goes on behind them.
_HEAD, _LONG_HEAD = 1 << 14, 1 << 28
_AT_ONCE = 1024  # files whose heads are in memory


def sorted_by_headers(listing: Listing, disclosure: Disclosure | None, named: bool = False) -> Listing:
    """The listing without files that are no images, and with studies by their UIDs.

    A DICOM file without a UID, or one whose header cannot be read, is a study of its own: nothing says that it belongs
    to its neighbours.

    Parameters
    ----------
    listing
        With all files that may be DICOM among its views.
    disclosure
        How UIDs are shown; None leaves all DICOM files out.
    named
        Whether the user has named each view, so that none is left out.

    Raises
    ------
    EnvironmentProblem
        There are DICOM files and pydicom is not installed.
    """
    rows = [row for row, key in enumerate(listing.views.to_pylist()) if _is_candidate(key, named)]
    if not rows:
        return listing
    ignored, left_out = listing.ignored.copy(), np.zeros(len(listing), bool)
    studies = {key: number for number, key in enumerate(listing.studies.to_pylist())}
    study_of = listing.study_of.copy()
    body_parts: dict[int, str] = {}
    found = 0
    for row, header in _headers(listing, rows, disclosure is not None):
        suffix = suffix_of(listing.views[row].as_py())
        if header is None and not named and (disclosure is None or suffix not in DICOM_SUFFIXES):
            left_out[row] = True
            ignored[suffix] += 1
        elif isinstance(header, Header) and not header.image and not named:
            left_out[row] = True
            ignored[NO_IMAGE] += 1
        elif header is not None:
            assert disclosure is not None
            found += 1
            uid = header.study if isinstance(header, Header) else ""
            # What has no UID goes by its path, which is hashed with all the others.
            name = b"\0uid " + disclosure.uid(uid).encode() if uid else b"\0file " + listing.views[row].as_py()
            study_of[row] = studies.setdefault(name, len(studies))
            if isinstance(header, Header) and header.body_part:
                body_parts.setdefault(int(study_of[row]), header.body_part)
        else:
            found += suffix in DICOM_SUFFIXES
    return _with_studies(
        listing, ~left_out, study_of, list(studies), body_parts, ignored, disclosure if found else None
    )


def _with_studies(
    listing: Listing,
    kept: np.ndarray[tuple[int], np.dtype[np.bool_]],
    study_of: np.ndarray[tuple[int], np.dtype[np.int32]],
    studies: list[bytes],
    body_parts: dict[int, str],
    ignored: Counter[str],
    disclosure: Disclosure | None,
) -> Listing:
    import pyarrow as pa

    # Numbers in order of first appearance among the views that stay.
    numbers, first, at = np.unique(study_of[kept], return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    numbers = numbers[order]
    names = [_shown(studies[number], disclosure) for number in numbers.tolist()]
    return replace(
        listing,
        views=listing.views.filter(pa.array(kept)),
        places=None if listing.places is None else listing.places[kept],
        study_of=place[at],
        studies=pa.array(names, pa.large_binary()),
        body_parts={at: body_parts[number] for at, number in enumerate(numbers.tolist()) if number in body_parts},
        ignored=ignored,
        disclosure=disclosure,
    )


def _shown(study: bytes, disclosure: Disclosure | None) -> bytes:
    """A study's key as tables have it."""
    if study.startswith(b"\0uid "):
        return study.removeprefix(b"\0uid ")
    path = study.removeprefix(b"\0file ")
    return path if disclosure is None or disclosure.keep_paths else disclosure.digest(path).encode()


def _is_candidate(key: bytes, named: bool) -> bool:
    suffix = suffix_of(key)
    return suffix not in IMAGE_SUFFIXES and (may_be_dicom(suffix) or named)


def _headers(listing: Listing, rows: list[int], wanted: bool) -> Iterator[tuple[int, Header | Rejected | None]]:
    """Of each row its header, why it cannot be read, or None where the file is no DICOM or cannot be had."""
    reader = listing.source.open()
    waiting = iter(rows)
    with ThreadPoolExecutor(reader.threads, thread_name_prefix="header") as threads:
        while some := list(islice(waiting, _AT_ONCE)):
            references = [listing.references(row, row + 1)[0] for row in some]
            heads = threads.map(lambda reference: _head(reader, reference), references)
            for row, reference, head in zip(some, references, heads, strict=True):
                yield row, _header(reader, reference, head) if wanted and head and is_dicom(head) else None


def _head(reader: HeaderReader, reference: Reference, count: int = _HEAD) -> bytes:
    try:
        return reader.head(reference, count)
    except (OSError, Unreadable):  # which is told when the view is read
        return b""


def _header(reader: HeaderReader, reference: Reference, head: bytes) -> Header | Rejected:
    try:
        header = read_header(head, whole=len(head) < _HEAD)
        if header is None:
            header = read_header(_head(reader, reference, _LONG_HEAD), whole=True)
    except Rejected as reason:
        return reason
    assert header is not None
    return header

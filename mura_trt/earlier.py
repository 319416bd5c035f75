"""Scores of earlier runs for views that have not changed since, so that an archive that grows costs what it grew by.

A view is known again by a hash of its key and of its stamp: size and time of a file, place and checksum of a member.
The stamp is taken before the view is read; what changes in between is scored once more than it need be, never less.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mura_trt.archives.listing import HeaderReader, Listing, Reference, Unreadable
from mura_trt.files import read_checked, write_checked
from mura_trt.rows import Rows, ScoreArray, score_type

logger = logging.getLogger(__name__)

Hashes = NDArray[np.uint64]
"""uint64 (n, 2): a hash of 16 bytes for each view; zeros for one that cannot be told."""

_AT_ONCE = 256  # views for a thread: to hand it one costs more than to look at the file


def hashes_of(listing: Listing) -> Hashes:
    """The hash of each view; raises OSError where the archive cannot be opened."""
    reader = listing.source.open()
    salt = listing.disclosure.salt if listing.disclosure else b""
    found = np.zeros((len(listing), 2), np.uint64)

    starts = iter(range(0, len(listing), _AT_ONCE))

    def fill(_thread: int) -> None:
        for start in starts:
            stop = min(start + _AT_ONCE, len(listing))
            told = map(functools.partial(_stamp, reader), listing.references(start, stop))
            stamps = told if listing.stamps is None else map(bytes, listing.stamps[start:stop])
            hashes = (_hash(salt, key, stamp) for key, stamp in zip(listing.keys(start, stop), stamps, strict=True))
            found[start:stop] = np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, 2)

    with ThreadPoolExecutor(reader.threads, thread_name_prefix="stamp") as threads:
        for _ in threads.map(fill, range(reader.threads)):
            pass  # raises what it raised
    return found


def _stamp(reader: HeaderReader, reference: Reference) -> bytes:
    try:
        return reader.stamp(reference)
    except (OSError, ValueError, Unreadable):  # which is told when the view is read
        return b""


def _hash(salt: bytes, key: bytes, stamp: bytes) -> bytes:
    return hashlib.blake2b(key + b"\0" + stamp, digest_size=16, key=salt).digest() if stamp.strip(b"\0") else bytes(16)


class Earlier:
    """Scores by the views' hashes.

    Parameters
    ----------
    hashes
        uint64 (n, 2); the first of equal ones counts.
    scores
        (n,) of :func:`mura_trt.rows.score_type`.
    """

    def __init__(self, hashes: Hashes, scores: ScoreArray) -> None:
        known = np.flatnonzero(hashes.any(axis=1))
        at = known[np.argsort(hashes[known, 0], kind="stable")]
        self._hashes, self._scores = hashes[at], scores[at]  # each copied once: with maps, they are gigabytes

    def __len__(self) -> int:
        return len(self._hashes)

    @classmethod
    def of(cls, hashes: Hashes, rows: Iterable[Rows], map_size: int) -> Earlier:
        """The scores of a run whose views have these hashes, with maps of so many values."""
        scores, scored = np.empty(len(hashes), score_type(map_size)), np.zeros(len(hashes), bool)
        for part in rows:
            scores[part.views], scored[part.views] = part.scores, True
        return cls(np.where(scored[:, None], hashes, np.uint64(0)), scores)

    def and_also(self, other: Earlier) -> Earlier:
        """These, and those of ``other`` that are not among them."""
        if not len(self):
            return other
        more = ~self._find(other._hashes)[1]
        if not more.any():
            return self
        hashes, scores = other._hashes[more], other._scores[more]
        return Earlier(np.concatenate([self._hashes, hashes]), np.concatenate([self._scores, scores]))

    @classmethod
    def read(cls, path: Path, map_size: int) -> Earlier:
        """What was written with maps of so many values.

        No scores where there is no such file, or, which is told, where it is damaged.
        """
        kept = _read(path, _kept_type(score_type(map_size)))
        return cls(kept["hash"], kept["score"])

    def write(self, path: Path) -> None:
        """Keeps them in a file; raises OSError."""
        kept = np.empty(len(self), _kept_type(self._scores.dtype))
        kept["hash"], kept["score"] = self._hashes, self._scores
        write_checked(path, kept.view(np.uint8).data)

    def rows(self, hashes: Hashes, shard_views: int, done: set[int]) -> Iterator[Rows]:
        """Of the views with these hashes the ones that have a score here: runs of neighbours within a shard.

        Parameters
        ----------
        hashes
            uint64 (n, 2), of the run's views in order.
        shard_views
            Views in a shard.
        done
            First views of shards to be left out.
        """
        for start in range(0, len(hashes) if len(self) else 0, shard_views):
            if start in done:
                continue
            at, found = self._find(hashes[start : start + shard_views])
            edges = np.flatnonzero(np.diff(found.astype(np.int8), prepend=0, append=0))
            for first, stop in edges.reshape(-1, 2).tolist():
                views = np.arange(start + first, start + stop)
                yield Rows(start + first, start + stop, views, self._scores[at[first:stop]])

    def _find(self, hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        at = np.minimum(np.searchsorted(self._hashes[:, 0], hashes[:, 0]), len(self) - 1)
        # Two hashes that share their first half are as good as impossible; one of them would be scored again.
        return at, (self._hashes[at] == hashes).all(axis=1) & hashes.any(axis=1)


def _kept_type(score: np.dtype[np.void]) -> np.dtype[np.void]:
    return np.dtype([("hash", "<u8", (2,)), ("score", score)])


def write_hashes(path: Path, hashes: Hashes) -> None:
    """Keeps the hashes of a run's views in a file; raises OSError."""
    write_checked(path, hashes.ravel().view(np.uint8).data)


def read_hashes(path: Path) -> Hashes:
    """What was written; none where there is no such file, or, which is told, where it is damaged."""
    hashes: Hashes = _read(path, np.dtype(np.uint64)).reshape(-1, 2)
    return hashes


def _read(path: Path, kind: np.dtype[Any]) -> NDArray[Any]:
    try:
        return np.frombuffer(read_checked(path), kind)
    except FileNotFoundError:
        return np.empty(0, kind)
    except ValueError as error:
        logger.warning("%s is damaged (%s): what it knows is scored anew", path, error)
        return np.empty(0, kind)

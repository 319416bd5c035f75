"""Scores of earlier runs for views that have not changed since, so that an archive that grows costs what it grew by.

A view is known again by a hash of its key and of its stamp: size and time of a file, place and checksum of a member.
The stamp is taken before the view is read; what changes in between is scored once more than it need be, never less.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mura_trt.archives.listing import HeaderReader, Listing, Reference, Unreadable
from mura_trt.files import write_atomically
from mura_trt.ledger import Rows

Identities = NDArray[np.uint64]
"""uint64 (n, 2): a hash of 16 bytes for each view; zeros for one that cannot be told."""

SCORE = np.dtype([("logit", "<f4"), ("probability", "<f4"), ("color", "?")])
"""Of a view; the last where its file stores color."""

_NAMES = ("logit", "probability", "color")
_AT_ONCE = 50_000  # views


def identities(listing: Listing) -> Identities:
    """The hash of each view; raises OSError where the archive cannot be opened."""
    reader = listing.source.open()
    salt = listing.disclosure.salt if listing.disclosure else b""
    found = np.zeros((len(listing), 2), np.uint64)
    with ThreadPoolExecutor(reader.threads, thread_name_prefix="stamp") as threads:
        for start in range(0, len(listing), _AT_ONCE):
            stop = min(start + _AT_ONCE, len(listing))
            keys, references = listing.keys(start, stop), listing.references(start, stop)
            hashes = threads.map(functools.partial(_hash, reader, salt), keys, references)
            found[start:stop] = np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, 2)
    return found


def _hash(reader: HeaderReader, salt: bytes, key: bytes, reference: Reference) -> bytes:
    try:
        stamp = reader.stamp(reference)
    except (OSError, Unreadable):  # which is told when the view is read
        return bytes(16)
    return hashlib.blake2b(key + b"\0" + stamp, digest_size=16, key=salt).digest()


class Earlier:
    """Scores by the views' hashes.

    Parameters
    ----------
    hashes
        uint64 (n, 2); the first of equal ones counts.
    scores
        ``SCORE`` (n,).
    """

    def __init__(self, hashes: Identities, scores: NDArray[np.void]) -> None:
        known = hashes.any(axis=1)
        order = np.argsort(hashes[known, 0], kind="stable")
        self._hashes, self._scores = hashes[known][order], scores[known][order]

    def __len__(self) -> int:
        return len(self._hashes)

    @classmethod
    def none(cls) -> Earlier:
        """No scores."""
        return cls(np.empty((0, 2), np.uint64), np.empty(0, SCORE))

    @classmethod
    def of(cls, hashes: Identities, rows: Iterable[Rows]) -> Earlier:
        """The scores of a run whose views have these hashes."""
        views, scores = [np.empty(0, np.int64)], [np.empty(0, SCORE)]
        for part in rows:
            views.append(part.views)
            of_part = np.empty(len(part.views), SCORE)
            of_part["logit"], of_part["probability"] = part.logit, part.probability
            of_part["color"] = np.isin(part.views, part.colored)
            scores.append(of_part)
        return cls(hashes[np.concatenate(views)], np.concatenate(scores))

    def and_also(self, other: Earlier) -> Earlier:
        """These, and those of ``other`` that are not among them."""
        return Earlier(np.concatenate([self._hashes, other._hashes]), np.concatenate([self._scores, other._scores]))

    @classmethod
    def read(cls, path: Path) -> Earlier:
        """What was written; no scores where there is no such file. Raises OSError, ValueError where it is damaged."""
        if not path.exists():
            return cls.none()
        hashes, *columns = read_hashes(path)
        scores = np.empty(len(hashes), SCORE)
        for name, column in zip(_NAMES, columns, strict=True):
            scores[name] = column
        return cls(hashes, scores)

    def write(self, path: Path) -> None:
        """Keeps them in a file; raises OSError."""
        write_hashes(path, self._hashes, {name: self._scores[name] for name in _NAMES})

    def rows(self, hashes: Identities, shard_views: int, done: set[int]) -> Iterator[Rows]:
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
        for start in range(0, len(hashes), shard_views):
            if start in done or not len(self):
                continue
            at, found = self._find(hashes[start : start + shard_views])
            edges = np.flatnonzero(np.diff(found.astype(np.int8), prepend=0, append=0))
            for first, stop in edges.reshape(-1, 2).tolist():
                scores = self._scores[at[first:stop]]
                views = np.arange(start + first, start + stop)
                colored = views[scores["color"]].tolist()
                values = (scores["logit"], scores["probability"])
                yield Rows(start + first, start + stop, views, *values, colored=colored)

    def _find(self, hashes: Identities) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        at = np.minimum(np.searchsorted(self._hashes[:, 0], hashes[:, 0]), len(self) - 1)
        # Two hashes that share their first half are as good as impossible; one of them would be scored again.
        return at, (self._hashes[at] == hashes).all(axis=1) & hashes.any(axis=1)


def write_hashes(path: Path, hashes: Identities, columns: dict[str, NDArray[Any]] | None = None) -> None:
    """Keeps hashes, with what belongs to each, in a Parquet file; raises OSError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"high": hashes[:, 0], "low": hashes[:, 1], **(columns or {})}), sink)
    write_atomically(path, sink.getvalue().to_pybytes())


def read_hashes(path: Path) -> list[NDArray[Any]]:
    """What was written: the hashes, then the other columns. Raises OSError, ValueError where it is damaged."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    high, low, *others = (column.to_numpy() for column in table.columns)
    return [np.stack([high, low], axis=1), *others]

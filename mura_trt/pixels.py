"""Views to pixels, for whoever has no engine to feed: reading, screening and decoding overlap, in order."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mura_trt.archives.listing import Listing, Reader, Reference, Source
from mura_trt.cores import usable_cores
from mura_trt.host_decode import open_decoder
from mura_trt.readahead import Batch, ReadAhead
from mura_trt.rows import Failure

BATCH = 64


class DecodedViews(NamedTuple):
    """A batch: ``pixels`` is uint8 (k, H, W, 1), of the ``views`` by number; ``failures`` are views without pixels.

    ``files`` holds the k images as they went into the decoder, and ``color`` whether each stores color.
    """

    views: list[int]
    pixels: NDArray[np.uint8]
    failures: list[Failure]
    files: list[bytes]
    color: list[bool]


class ViewDecoder:
    """Views to pixels over one reader and one decoder, as often as asked; a context manager that ends its threads.

    Parameters
    ----------
    reader
        What reads the views.
    size
        Height and width of the pixels.
    """

    def __init__(self, reader: Reader, size: tuple[int, int]) -> None:
        self._size = size
        self._ahead, self._decoder = ReadAhead(BATCH, reader), open_decoder(size, usable_cores(), BATCH)
        self._stage = ("idle", 0.0)

    def __enter__(self) -> ViewDecoder:
        return self

    def __exit__(self, *exception: object) -> None:
        self._ahead.close()
        self._decoder.close()

    def standstill(self) -> tuple[str, float]:
        """What it is at, and for how many seconds it has not got further with that, less what the bytes allow for.

        ``read`` or ``decode``; ``idle``, with 0, while it is not asked for more. For any thread.
        """
        stage, since = self._stage
        match stage:
            case "read":
                return stage, self._ahead.slowest_read()
            case "decode":
                return stage, time.monotonic() - max(since, self._decoder.attempted_at)
        return stage, 0.0

    def decoded(self, references: Sequence[Reference], kinds: bytes = b"") -> Iterator[DecodedViews]:
        """Every view once, in order, as pixels or as a failure; nothing else can be asked for until all have come.

        Parameters
        ----------
        references
            What they are read by; a view's number is its place here.
        kinds
            What the views are, a byte each, as :meth:`Listing.kinds_of` gives it.
        """
        self._ahead.add(0, references, kinds)
        self._ahead.flush()
        decoding: Batch | None = None
        while True:
            with self._doing("read"):
                batch, failures = self._ahead.next_batch()
            if batch:
                with self._doing("decode", batch.allowance):
                    self._decoder.submit(batch.files)
            if decoding:
                with self._doing("decode", decoding.allowance):
                    pixels, kept, rejected = self._decoder.collect()
                failures += [Failure(decoding.views[at], "decode", why.code, str(why)) for at, why in rejected]
                views, files, color = decoding.take(kept)
                yield DecodedViews(views, pixels, failures, files, color)
            elif failures:
                yield DecodedViews([], np.empty((0, *self._size, 1), np.uint8), failures, [], [])
            elif not batch:
                return
            decoding = batch

    @contextmanager
    def _doing(self, stage: str, allowance: float = 0.0) -> Iterator[None]:
        self._stage = (stage, time.monotonic() + allowance)
        try:
            yield
        finally:
            self._stage = ("idle", 0.0)


def decoded_listing(listing: Listing, size: tuple[int, int]) -> Iterator[DecodedViews]:
    """Every view of a listing, by number, as :func:`decoded_views` gives them."""
    count = len(listing)
    return decoded_views(listing.source, listing.references(0, count), size, listing.kinds_of(0, count))


def decoded_views(
    source: Source, references: Sequence[Reference], size: tuple[int, int], kinds: bytes = b""
) -> Iterator[DecodedViews]:
    """Every view once, as pixels or as a failure: what :meth:`ViewDecoder.decoded` gives of a source."""
    with ViewDecoder(source.open(), size) as decoder:
        yield from decoder.decoded(references, kinds)

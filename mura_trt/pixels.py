"""Views to pixels, for whoever has no engine to feed: reading, screening and decoding overlap, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mura_trt.archives.listing import Reference, Source
from mura_trt.cores import usable_cores
from mura_trt.decode import Decoder
from mura_trt.ledger import Failure
from mura_trt.readahead import Batch, ReadAhead

BATCH = 64


class DecodedViews(NamedTuple):
    """A batch: ``pixels`` is uint8 (k, H, W, 1), of the ``views`` by number; ``failures`` are views without pixels.

    ``files`` holds the k images as they went into the decoder, and ``colored`` the views whose files store color.
    """

    views: list[int]
    pixels: NDArray[np.uint8]
    failures: list[Failure]
    files: list[bytes]
    colored: frozenset[int]


def decoded_views(
    source: Source, references: Sequence[Reference], size: tuple[int, int], kinds: bytes = b""
) -> Iterator[DecodedViews]:
    """Every view once, as pixels or as a failure.

    Parameters
    ----------
    source
        Where the views are read from.
    references
        What they are read by; a view's number is its place here.
    size
        Height and width of the pixels.
    kinds
        What the views are, a byte each, as :meth:`Listing.kinds_of` gives it.
    """
    ahead, decoder = ReadAhead(BATCH, source.open()), Decoder(size, usable_cores(), BATCH)
    ahead.add(0, references, kinds)
    ahead.flush()
    decoding: Batch | None = None
    try:
        while True:
            batch, failures = ahead.next_batch()
            if batch:
                decoder.submit(batch.files)
            if decoding:
                pixels, kept, rejected = decoder.collect()
                failures += [Failure(decoding.views[at], "decode", why.code, str(why)) for at, why in rejected]
                files = [decoding.files[at] for at in kept]
                yield DecodedViews([decoding.views[at] for at in kept], pixels, failures, files, decoding.colored)
            elif failures:
                yield DecodedViews([], np.empty((0, *size, 1), np.uint8), failures, [], frozenset())
            elif not batch:
                return
            decoding = batch
    finally:
        ahead.close()

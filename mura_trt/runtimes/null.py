"""A runtime that costs nothing, or just as long as it is told: it shows what the rest of the pipeline costs."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from mura_trt.bundle import Bundle
from mura_trt.runtimes.base import HostSession, Scores, SessionOptions


def checksums(images: NDArray[np.uint8], map_shape: tuple[int, int] | None) -> Scores:
    """What the null runtime gives for pixels uint8 (n, H, W, 1); its maps are zeros, float32 (n, *map_shape)."""
    from isal.isal_zlib import adler32  # in a third of zlib's time

    sums = np.array([adler32(image) for image in np.ascontiguousarray(images)], np.float64)
    # Adler-32's lower half is the plain sum of bytes modulo 65521: spread enough over small differences.
    probability = ((sums % 65521 + 0.5) / 65521).astype(np.float32)
    logit = np.log(probability / (1 - probability))
    maps = None if map_shape is None else np.zeros((len(images), *map_shape), np.float32)
    return Scores(probability, logit, maps)


class NullSession(HostSession):
    """A checksum of each view's pixels in place of a probability: deterministic, and it tells views apart."""

    name = "null"

    def __init__(self, bundle: Bundle, options: SessionOptions) -> None:
        super().__init__(bundle.contract, options.batch or 64)
        self._seconds = options.null_ms / 1000

    def _run(self, images: NDArray[np.uint8]) -> Scores:
        until = time.monotonic() + self._seconds
        scores = checksums(images, self._contract.map_shape)
        rest = until - time.monotonic()
        if rest > 0:
            time.sleep(rest)
        return scores

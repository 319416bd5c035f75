"""A catalogue's pixels: decoded once into a file, and mapped from there."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mura_trt.files import write_atomically
from mura_trt.pixels import decoded_listing
from mura_trt.rows import Failure
from mura_trt.tables import failure_table
from mura_trt.training.catalogue import Catalogue

PIXELS = "pixels.npy"
PIXELS_OF = "pixels.json"  # what they were decoded from, and which rows could not be; written when they are whole
SKIPPED = "skipped.csv"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Views(Catalogue):
    """A catalogue whose views are decoded; ``train`` and ``valid`` are without those that could not be.

    ``pixels`` is uint8 (n, S, S, 1), gray; zeros where a view could not be read.
    """

    pixels: NDArray[np.uint8]


def load_views(catalogue: Catalogue, size: int, folder: Path, progress: Callable[[int, int], None]) -> Views:
    """Decodes a catalogue's views into ``folder/pixels.npy``, or takes them up from there.

    A view that cannot be read is left out and named in ``folder/skipped.csv``.

    Parameters
    ----------
    catalogue
        What to decode.
    size
        Height and width of the pixels.
    folder
        Exists; takes ``size`` squared bytes a view.
    progress
        Called with the number of views done so far and of all.

    Raises
    ------
    UsageError
        What can be read is of one class only.
    OSError
        No room for the pixels.
    """
    pixels, note = folder / PIXELS, folder / PIXELS_OF
    source = catalogue.fingerprint(size)
    known = json.loads(note.read_text()) if pixels.is_file() and note.is_file() else {}
    if known.get("source") != source:
        note.unlink(missing_ok=True)
        failures = _decode(catalogue, size, pixels, progress)
        skipped = failure_table(catalogue.listing, failures)
        write_atomically(folder / SKIPPED, skipped.to_csv(index=False, lineterminator="\n").encode())
        if failures:
            logger.warning("%d images cannot be read and are left out: see %s", len(failures), folder / SKIPPED)
        known = {"source": source, "unreadable": [failure.view for failure in failures]}
        write_atomically(note, json.dumps(known).encode())
    columns = {field.name: getattr(catalogue, field.name) for field in fields(Catalogue)}
    for side in ("train", "valid"):
        columns[side] = np.setdiff1d(columns[side], np.array(known["unreadable"], np.int64))
    views = Views(**columns, pixels=np.load(pixels, mmap_mode="r"))
    views.check_classes()
    return views


def _decode(catalogue: Catalogue, size: int, path: Path, progress: Callable[[int, int], None]) -> list[Failure]:
    listing = catalogue.listing
    pixels = np.lib.format.open_memmap(path, "w+", np.uint8, (len(listing), size, size, 1))
    with path.open("r+b") as file:  # on a full disk, writing to the mapping would end the process without a word
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            error.filename = str(path)
            raise
    failures: list[Failure] = []
    done = 0
    for batch in decoded_listing(listing, (size, size)):
        pixels[batch.views] = batch.pixels
        failures += batch.failures
        done += len(batch.views) + len(batch.failures)
        progress(done, len(listing))
    pixels.flush()
    return sorted(failures, key=lambda failure: failure.view)

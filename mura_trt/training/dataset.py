"""A labelled archive as decoded pixels in a file, split into training and validation by patient."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mura_trt.archive import Listing, body_part, display, label, list_archive
from mura_trt.cores import usable_cores
from mura_trt.decode import Decoder
from mura_trt.errors import UsageError
from mura_trt.files import write_atomically
from mura_trt.ledger import Failure
from mura_trt.readahead import ReadAhead

DECODE_BATCH = 64
BOX_COLUMNS = ("x0", "y0", "x1", "y1", "width", "height")

_SPLIT = re.compile(r"(?:.*/)?(train|valid)/")  # the last such folder, for a list's paths may begin anywhere
_PATIENT = re.compile(r"([^/]+)/study\d+_(?:positive|negative)(?=/|$)")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Catalogue:
    """The views of an archive in columns of n rows, and their split; nothing is decoded yet.

    Attributes
    ----------
    archive
        As the user names it.
    listing
        Its views and studies.
    labels
        float32 (n,): 1 where the view's study is abnormal, 0 where normal, NaN where its path tells no label.
    parts
        n study types, ``WRIST`` and so on; empty where the path names none.
    boxes
        float32 (n, 4): where the view's lesion lies, x0, y0, x1, y1 as parts of width and height; NaN where not told.
    train, valid
        int64: labelled rows to train on, and those to validate on. No patient has views in both.
    """

    archive: Path
    listing: Listing
    labels: NDArray[np.float32]
    parts: NDArray[np.str_]
    boxes: NDArray[np.float32]
    train: NDArray[np.int64]
    valid: NDArray[np.int64]

    def fingerprint(self, size: int) -> str:
        """64 hexadecimal digits that change with the archive's folder, the views in it and the size of the pixels."""
        digest = hashlib.sha256(f"{size} {self.listing.source.root}".encode("utf-8", "surrogateescape"))
        for start in range(0, len(self.listing), 4096):
            digest.update(b"\0".join(self.listing.keys(start, min(start + 4096, len(self.listing)))))
        return digest.hexdigest()

    def loss_weights(self) -> NDArray[np.float32]:
        """float32 (n,): what each view counts in the loss.

        Among the training views of its study type, an abnormal view counts N_normal / N and a normal one
        N_abnormal / N (Rajpurkar et al. 2018, section 3.1). A view of a type that training has one class of, or none,
        counts nothing.

        Raises
        ------
        UsageError
            Nothing would count.
        """
        weights = np.zeros(len(self.labels), np.float32)
        for part in sorted(set(self.parts[self.train].tolist())):
            here = self.parts == part
            abnormal = float(self.labels[self.train][here[self.train]].mean())
            weights[here] = np.where(self.labels[here] == 1, 1 - abnormal, abnormal)
            if abnormal in (0, 1):
                logger.warning("%s has training views of one class only, which count nothing", part or "the study type")
        for name, rows in (("training", self.train), ("validation", self.valid)):
            if not weights[rows].any():
                raise UsageError(
                    f"{self.archive}: no {name} view is of a study type with normal and abnormal training views, so"
                    " nothing would count; give more studies"
                )
        return weights


@dataclass(frozen=True)
class Views(Catalogue):
    """A catalogue whose views are decoded; ``train`` and ``valid`` are without those that could not be.

    ``pixels`` is uint8 (n, S, S, 1), gray; zeros where a view could not be read.
    """

    pixels: NDArray[np.uint8]


def read_catalogue(archive: Path, validation_share: float, seed: int, boxes: Path | None = None) -> Catalogue:
    """Lists an archive and splits its labelled views by patient.

    Where the archive has MURA's ``train/`` and ``valid/``, these are the split: what lies in neither is left out, and
    so are patients of ``valid/`` in ``train/``. Else a share of the patients, chosen by the seed, is for validation.

    Parameters
    ----------
    archive
        Folder or list file in MURA's layout: labels are in the names of the studies' folders.
    validation_share
        Of the patients; above 0, below 1.
    seed
        Of the split.
    boxes
        CSV with a line for each view whose lesion's place is known: ``view`` (its path in the archive), ``x0, y0, x1,
        y1`` in pixels, x1 and y1 exclusive, and the image's ``width`` and ``height``.

    Raises
    ------
    UsageError
        No archive, no labels, one class only on either side of the split, or a table of boxes that is none.
    """
    listing = list_archive(archive)
    keys = listing.keys(0, len(listing))
    found = [label(key) for key in keys]
    labels = np.array([np.nan if one is None else one for one in found], np.float32)
    unlabelled = int(np.isnan(labels).sum())
    if unlabelled == len(keys):
        raise UsageError(
            f"{archive}: {len(keys)} images and no label: a label is the name of a study's folder, studyN_positive or"
            f" studyN_negative, as in MURA; the first image here is {display(keys[0])}"
        )
    if unlabelled:
        logger.warning("%d of %d images have no label in their path and are left out", unlabelled, len(keys))
    names = [display(key) for key in keys]
    train, valid = _split(names, ~np.isnan(labels), validation_share, seed)
    catalogue = Catalogue(
        archive=archive,
        listing=listing,
        labels=labels,
        parts=np.array([body_part(key) for key in keys]),
        boxes=_read_boxes(boxes, names) if boxes else np.full((len(keys), 4), np.nan, np.float32),
        train=train,
        valid=valid,
    )
    _check_classes(catalogue)
    return catalogue


def load_views(catalogue: Catalogue, size: int, folder: Path, progress: Callable[[int, int], None]) -> Views:
    """Decodes a catalogue's views once, into ``folder/pixels.npy``; a later call takes them up again.

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
        Called with the number of views decoded so far and of all.

    Raises
    ------
    UsageError
        What can be read is of one class only.
    OSError
        No room for the pixels.
    """
    pixels, readable = _pixels(catalogue, size, folder, progress)
    columns = {field.name: getattr(catalogue, field.name) for field in fields(Catalogue)}
    for side in ("train", "valid"):
        columns[side] = columns[side][readable[columns[side]]]
    views = Views(**columns, pixels=pixels)
    _check_classes(views)
    return views


def _read_boxes(path: Path, views: list[str]) -> NDArray[np.float32]:
    rows = {view: row for row, view in enumerate(views)}
    boxes = np.full((len(views), 4), np.nan, np.float32)
    try:
        with path.open(newline="") as file:
            for entry in csv.DictReader(file):
                x0, y0, x1, y1, width, height = (float(entry[name]) for name in BOX_COLUMNS)
                if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                    raise ValueError(f"the box of {entry['view']} does not lie in its image")
                row = rows.get(entry["view"])
                if row is not None and not np.isnan(boxes[row]).any():
                    raise ValueError(f"{entry['view']} is there twice; give one box around both")
                if row is not None:
                    boxes[row] = x0 / width, y0 / height, x1 / width, y1 / height
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise UsageError(
            f"{path}: not a table of boxes with the columns view, {', '.join(BOX_COLUMNS)}: {error!r}"
        ) from error
    if np.isnan(boxes).all():
        raise UsageError(f"{path}: no view of the archive is in it; views are named as in {views[0]}")
    return boxes


def _check_classes(catalogue: Catalogue) -> None:
    for name, rows in (("training", catalogue.train), ("validation", catalogue.valid)):
        abnormal = int(catalogue.labels[rows].sum())
        if abnormal in (0, len(rows)):
            raise UsageError(
                f"{catalogue.archive}: {name} has {abnormal} abnormal and {len(rows) - abnormal} normal views, and"
                " needs both; give more studies, or split them otherwise (--validation-share, --seed)"
            )


def _split(
    names: list[str], usable: NDArray[np.bool_], validation_share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows for training and for validation, among the usable ones."""
    patients = np.array([found[1] if (found := _PATIENT.search(name)) else "" for name in names])
    folders = np.array([found[1] if (found := _SPLIT.match(name)) else "" for name in names])
    if {"train", "valid"} <= set(folders[usable].tolist()):
        for_validation = folders == "valid"
        neither = usable & (folders == "")
        if neither.any():
            logger.warning("%d images lie neither in train/ nor in valid/ and are left out", int(neither.sum()))
        both = usable & (folders == "train") & np.isin(patients, patients[usable & for_validation])
        if both.any():
            logger.warning(
                "%d images of train/ are left out: their patients are in valid/, too (%s)",
                int(both.sum()),
                ", ".join(sorted(set(patients[both].tolist()))[:3]),
            )
        usable = usable & ~both & ~neither
    else:
        order = sorted(
            set(patients[usable].tolist()), key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest()
        )
        for_validation = np.isin(patients, order[: max(1, round(validation_share * len(order)))])
    return np.flatnonzero(usable & ~for_validation), np.flatnonzero(usable & for_validation)


def _pixels(
    catalogue: Catalogue, size: int, folder: Path, progress: Callable[[int, int], None]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Every view's pixels, uint8 (n, S, S, 1), mapped from ``folder/pixels.npy``; and whether each could be read.

    ``folder/skipped.csv`` names what could not, and is written last: with it, the pixels are whole.
    """
    listing = catalogue.listing
    skipped, path = folder / "skipped.csv", folder / "pixels.npy"
    mark = f"# {catalogue.fingerprint(size)}\n"  # ties the pixels to what was listed
    if not (path.is_file() and skipped.is_file() and skipped.read_text().startswith(mark)):
        skipped.unlink(missing_ok=True)
        failures = _decode(listing, size, path, progress)
        _write_skipped(skipped, mark, listing, failures)
        if failures:
            logger.warning("%d images cannot be read and are left out: see %s", len(failures), skipped)
    readable = np.ones(len(listing), bool)
    with skipped.open(newline="") as file:
        file.readline()
        readable[[int(row["row"]) for row in csv.DictReader(file)]] = False
    return np.load(path, mmap_mode="r"), readable


def _decode(listing: Listing, size: int, path: Path, progress: Callable[[int, int], None]) -> list[Failure]:
    pixels = np.lib.format.open_memmap(path, "w+", np.uint8, (len(listing), size, size, 1))
    with path.open("r+b") as file:  # on a full disk, writing to the mapping would end the process without a word
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    reader, decoder = ReadAhead(DECODE_BATCH), Decoder((size, size), usable_cores(), DECODE_BATCH)
    failures: list[Failure] = []
    waiting: list[list[int]] = []

    def collect() -> None:
        views = waiting.pop(0)
        decoded = decoder.collect()
        pixels[[views[position] for position in decoded.kept]] = decoded.pixels
        failures.extend(Failure(views[at], "decode", reason.code, str(reason)) for at, reason in decoded.rejected)

    done = 0
    reader.add(listing.source, 0, listing.keys(0, len(listing)))
    reader.flush()
    while True:
        batch, failed = reader.next_batch()
        failures.extend(failed)
        if batch is None:
            break
        decoder.submit(batch.files)
        waiting.append(batch.views)
        if decoder.pending > 1:
            collect()
        done += len(batch.views)
        progress(done, len(listing))
    while waiting:
        collect()
    reader.close()
    pixels.flush()
    return sorted(failures, key=lambda failure: failure.view)


def _write_skipped(path: Path, mark: str, listing: Listing, failures: list[Failure]) -> None:
    text = io.StringIO(newline="")
    text.write(mark)
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["row", "view", "stage", "code", "message"])
    for failure in failures:
        (key,) = listing.keys(failure.view, failure.view + 1)
        table.writerow([failure.view, display(key), failure.stage, failure.code, failure.message])
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))

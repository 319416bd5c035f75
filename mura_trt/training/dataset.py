"""A labelled archive as decoded pixels in a file, split into training and validation by patient."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
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
class Views:
    """The views of an archive in columns of n rows, with the rows to train on and those to validate on.

    Attributes
    ----------
    pixels
        uint8 (n, S, S, 1), gray; zeros where a view could not be read.
    labels
        float32 (n,): 1 where the view's study is abnormal, 0 where normal, NaN where its path tells no label.
    parts
        n study types, ``WRIST`` and so on; empty where the path names none.
    study_of
        int32 (n,): the number of the view's study in ``studies``.
    studies
        Study keys.
    boxes
        float32 (n, 4): where the view's lesion lies, x0, y0, x1, y1 as parts of width and height; NaN where not told.
    train, valid
        int64: rows with pixels and label. No patient has views in both.
    fingerprint
        Of what was listed, and of the size.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.float32]
    parts: NDArray[np.str_]
    study_of: NDArray[np.int32]
    studies: list[str]
    boxes: NDArray[np.float32]
    train: NDArray[np.int64]
    valid: NDArray[np.int64]
    fingerprint: str

    def loss_weights(self) -> NDArray[np.float32]:
        """float32 (n,): what each view counts in the loss.

        Among the training views of its study type, an abnormal view counts N_normal / N and a normal one
        N_abnormal / N (Rajpurkar et al. 2018, section 3.1). A view of a type with one class counts nothing.

        Raises
        ------
        UsageError
            No study type has training views of both classes, so that nothing would count.
        """
        weights = np.zeros(len(self.labels), np.float32)
        for part in sorted(set(self.parts[self.train].tolist())):
            here = self.parts == part
            abnormal = float(self.labels[self.train][here[self.train]].mean())
            weights[here] = np.where(self.labels[here] == 1, 1 - abnormal, abnormal)
            if abnormal in (0, 1):
                logger.warning("%s has training views of one class only, which count nothing", part or "the study type")
        if not (weights[self.train].any() and weights[self.valid].any()):
            raise UsageError("every study type has training views of one class only, so that there is nothing to learn")
        return weights


def load_views(
    archive: Path,
    size: int,
    folder: Path,
    validation_share: float,
    seed: int,
    progress: Callable[[int, int], None],
    boxes: Path | None = None,
) -> Views:
    """Lists an archive, decodes its views once into ``folder``, and splits them.

    Where the archive has MURA's ``train/`` and ``valid/``, these are the split, and patients of ``valid/`` are left
    out of ``train/``; else a share of the patients, chosen by the seed, is for validation. A view that cannot be read
    is left out and named in ``folder/skipped.csv``. The decoded pixels are taken up again by a later call that lists
    the same views.

    Parameters
    ----------
    archive
        Folder or list file in MURA's layout: labels are in the names of the studies' folders.
    size
        Height and width of the pixels.
    folder
        Exists; takes ``size`` squared bytes a view.
    validation_share
        Of the patients; above 0, below 1.
    seed
        Of the split.
    progress
        Called with the number of views decoded so far and of all.
    boxes
        CSV with a line for each lesion whose place is known: ``view`` (its path in the archive), ``x0, y0, x1, y1`` in
        pixels, x1 and y1 exclusive, and the image's ``width`` and ``height``. Of several in a view the last counts.

    Raises
    ------
    UsageError
        No archive, no labels, or one class only on either side of the split; a table of boxes that is none.
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
    train, valid = _split(keys, ~np.isnan(labels), validation_share, seed)
    _check_classes(archive, labels, train, valid)  # before the work of decoding, which a wrong archive need not cost
    places = (
        _read_boxes(boxes, [display(key) for key in keys]) if boxes else np.full((len(keys), 4), np.nan, np.float32)
    )
    fingerprint = _fingerprint(listing, size)
    pixels, readable = decoded_pixels(listing, size, folder, fingerprint, progress)
    train, valid = train[readable[train]], valid[readable[valid]]
    _check_classes(archive, labels, train, valid)
    parts = np.array([body_part(key) for key in keys])
    return Views(
        pixels=pixels,
        labels=labels,
        parts=parts,
        study_of=listing.study_of,
        studies=listing.study_names(np.arange(len(listing.studies), dtype=np.int32)),
        boxes=places,
        train=train,
        valid=valid,
        fingerprint=fingerprint,
    )


def _read_boxes(path: Path | None, views: list[str]) -> NDArray[np.float32]:
    rows = {view: row for row, view in enumerate(views)}
    boxes = np.full((len(views), 4), np.nan, np.float32)
    if path is None:
        return boxes
    try:
        with path.open(newline="") as file:
            for entry in csv.DictReader(file):
                row = rows.get(entry["view"])
                if row is not None:
                    x0, y0, x1, y1, width, height = (float(entry[name]) for name in BOX_COLUMNS)
                    boxes[row] = x0 / width, y0 / height, x1 / width, y1 / height
    except (OSError, KeyError, ValueError, TypeError, ZeroDivisionError, csv.Error) as error:
        raise UsageError(
            f"{path}: not a table of boxes with the columns view, {', '.join(BOX_COLUMNS)}: {error!r}"
        ) from error
    if np.isnan(boxes).all():
        raise UsageError(f"{path}: no view of the archive is in it; views are named as in {views[0]}")
    return boxes


def _check_classes(
    archive: Path, labels: NDArray[np.float32], train: NDArray[np.int64], valid: NDArray[np.int64]
) -> None:
    for name, rows in (("training", train), ("validation", valid)):
        abnormal = int(labels[rows].sum())
        if abnormal in (0, len(rows)):
            raise UsageError(
                f"{archive}: {name} has {abnormal} abnormal and {len(rows) - abnormal} normal views, and needs both;"
                " give more studies, or split them otherwise (--validation-share, --seed)"
            )


def _split(
    keys: list[bytes], usable: NDArray[np.bool_], validation_share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows for training and for validation, among the usable ones."""
    names = [display(key) for key in keys]
    patients = np.array([found[1] if (found := _PATIENT.search(name)) else "" for name in names])
    folders = np.array([found[1] if (found := _SPLIT.match(name)) else "" for name in names])
    if {"train", "valid"} <= set(folders[usable].tolist()):
        for_validation = folders == "valid"
        both = usable & ~for_validation & np.isin(patients, patients[usable & for_validation])
        if both.any():
            logger.warning(
                "%d images of train/ are left out: their patients are in valid/, too (%s)",
                int(both.sum()),
                ", ".join(sorted(set(patients[both].tolist()))[:3]),
            )
        usable = usable & ~both
    else:
        order = sorted(
            set(patients[usable].tolist()), key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest()
        )
        for_validation = np.isin(patients, order[: max(1, round(validation_share * len(order)))])
    return np.flatnonzero(usable & ~for_validation), np.flatnonzero(usable & for_validation)


def decoded_pixels(
    listing: Listing, size: int, folder: Path, fingerprint: str, progress: Callable[[int, int], None]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Every view's pixels, uint8 (n, S, S, 1), mapped from ``folder/pixels.npy``; and whether each could be read.

    ``folder/skipped.csv`` names what could not, and is written last: with it, the pixels are whole.
    """
    skipped, path = folder / "skipped.csv", folder / "pixels.npy"
    mark = f"# {fingerprint}\n"  # ties the pixels to what was listed
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


def _fingerprint(listing: Listing, size: int) -> str:
    digest = hashlib.sha256(f"{size} {listing.source.root}".encode("utf-8", "surrogateescape"))
    for start in range(0, len(listing), 4096):
        digest.update(b"\0".join(listing.keys(start, min(start + 4096, len(listing)))))
    return digest.hexdigest()


def _decode(listing: Listing, size: int, path: Path, progress: Callable[[int, int], None]) -> list[Failure]:
    pixels = np.lib.format.open_memmap(path, "w+", np.uint8, (len(listing), size, size, 1))
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

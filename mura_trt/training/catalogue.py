"""The labelled views of an archive, split into training and validation by patient."""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mura_trt.archives import list_archive
from mura_trt.archives.keys import body_part, display, label, patient
from mura_trt.archives.listing import Listing
from mura_trt.errors import UsageError

_SPLIT = re.compile(r"(?:.*/)?(train|valid)/")  # the last such folder, for a list's paths may begin anywhere
_STUDY = re.compile(r"([^/]+)/study\d+_(?:positive|negative)(?=/|$)")

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
    train, valid
        int64: labelled rows to train on, and those to validate on. No patient has views in both.
    """

    archive: Path
    listing: Listing
    labels: NDArray[np.float32]
    parts: NDArray[np.str_]
    train: NDArray[np.int64]
    valid: NDArray[np.int64]

    def fingerprint(self, size: int) -> str:
        """64 hexadecimal digits that change with the archive's folder, the views in it and the size of the pixels."""
        whole = f"{size} {self.listing.source.root} {self.listing.fingerprint()}"
        return hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()

    def check_classes(self) -> None:
        """Raises UsageError where training or validation has views of one class only."""
        for name, rows in (("training", self.train), ("validation", self.valid)):
            abnormal = int(self.labels[rows].sum())
            if abnormal in (0, len(rows)):
                raise UsageError(
                    f"{self.archive}: {name} has {abnormal} abnormal and {len(rows) - abnormal} normal views, and needs"
                    " both; give more studies, or split them otherwise (--validation-share, --seed)"
                )

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


def read_catalogue(archive: Path, validation_share: float, seed: int) -> Catalogue:
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

    Raises
    ------
    UsageError
        No archive, no labels, or one class only on either side of the split.
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
        train=train,
        valid=valid,
    )
    catalogue.check_classes()
    return catalogue


def _split(
    names: list[str], usable: NDArray[np.bool_], validation_share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows for training and for validation, among the usable ones."""
    patients = np.array([_patient(name) for name in names])
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


def _patient(name: str) -> str:
    """Where a name tells of none, the folder of the study: what may be one patient must not be on both sides."""
    return patient(name) or (found[1] if (found := _STUDY.search(name)) else "")

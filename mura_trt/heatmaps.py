"""Class activation maps of chosen views, drawn over their X-rays: what moved each view's score, and where.

The map comes with the score (see :mod:`mura_trt.model`); drawing waits until all is scored.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mura_trt.archives.folder import FolderSource
from mura_trt.archives.listing import DICOM, Listing
from mura_trt.contract import InputContract
from mura_trt.drawing import Drawer, Sketch
from mura_trt.errors import UsageError
from mura_trt.files import check_target, write_atomically
from mura_trt.overlay import encoded, overlay
from mura_trt.pixels import decoded_views
from mura_trt.progress import LOG_SECONDS
from mura_trt.rows import Rows, ScoreArray, score_type
from mura_trt.studies import study_means

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "heatmaps"
IN_A_FOLDER = 10_000  # pictures
IN_A_RUN = 1024  # at the least, views that are drawn together
KINDS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """Of which studies all scored views are drawn: ``all``, ``abnormal``, or those of the highest probability."""

    abnormal: bool = False
    top: int | None = None

    @classmethod
    def parsed(cls, text: str) -> Choice:
        """``all``, ``abnormal`` or ``top:N``; raises UsageError."""
        found = re.fullmatch(r"all|(abnormal)|top:([1-9]\d*)", text)
        if not found:
            raise UsageError(f"--heatmaps {text}: give abnormal, all or top:N, such as top:100")
        return cls(found[1] is not None, int(found[2]) if found[2] else None)

    def views(self, listing: Listing, probability: NDArray[np.float32], threshold: float) -> NDArray[np.int64]:
        """Numbers of the views to draw, in order; ``probability`` is float32 (n,), NaN for a view that failed."""
        count = len(listing.studies)
        _, _, mean = study_means(listing.study_of, count, probability)
        chosen = ~np.isnan(mean)
        if self.abnormal:
            chosen = mean > threshold
        elif self.top is not None:
            highest = np.argsort(np.where(chosen, -mean, np.inf), kind="stable")[: self.top]
            chosen &= np.isin(np.arange(count), highest)
        return np.flatnonzero(chosen[listing.study_of] & ~np.isnan(probability))


def heatmap_tables(
    listing: Listing,
    views: NDArray[np.int64],
    committed: Iterable[Rows],
    folder: Path,
    log: Path,
    contract: InputContract,
) -> Iterator[pd.DataFrame]:
    """Draws views and gives the rows of ``heatmaps.csv``, some at a time.

    A view that has vanished since, or that a process is lost on, gets none, and is logged. Columns are view, study,
    probability, file (of the picture, from the output folder), and ``m0``, ``m1``, ... the map, row by row.

    Parameters
    ----------
    listing
        The archive.
    views
        int64 (k,): numbers of the views, in order.
    committed
        Their run's rows with maps, in order.
    folder
        The output folder.
    log
        Takes what the decoders' C libraries print.
    contract
        The bundle's: the size of the pictures and of the maps.

    Raises
    ------
    OSError
        A picture cannot be written.
    MuraTrtError
        Nothing can be drawn: the archive cannot be opened, a library is missing, or the process is lost on anything.
    """
    # The first part has no rows, and the columns.
    yield _table(listing.take(views[:0]), [], np.empty(0, score_type(contract.map_size)))
    through, told = 0, time.monotonic()
    with Drawer(listing.source, log, contract) as drawer:
        for numbers, scores in _runs(views, committed):
            some, files = listing.take(numbers), [picture_name(number) for number in numbers.tolist()]
            kinds = some.kinds_of(0, len(some))
            sketches = [
                Sketch(reference, kinds[at : at + 1], scores["map"][at], folder / files[at])
                for at, reference in enumerate(some.references(0, len(some)))
            ]
            drawn = []
            for at in drawer.draw(sketches):
                drawn.append(at)
                if time.monotonic() > told + LOG_SECONDS:
                    told = time.monotonic()
                    logger.info("%d of %d heatmaps", through + at + 1, len(views))
            through += len(numbers)
            yield _table(some.take(np.array(drawn, np.int64)), [files[at] for at in drawn], scores[drawn])


def picture_name(view: int) -> str:
    """Of a view's picture, from the output folder: its number in the listing, for names in archives are not trusted."""
    return f"{FOLDER}/{view // IN_A_FOLDER:08d}/{view:012d}.jpg"


def clear(folder: Path) -> None:
    """Removes the pictures of an earlier run from an output folder, and nothing else that may lie beside them."""
    for part in (folder / FOLDER).glob("[0-9]" * 8):
        for picture in part.glob("[0-9]" * 12 + ".jpg"):
            picture.unlink()
        with suppress(OSError):  # which is not empty
            part.rmdir()
    with suppress(OSError):
        (folder / FOLDER).rmdir()


def _runs(views: NDArray[np.int64], committed: Iterable[Rows]) -> Iterator[tuple[NDArray[np.int64], ScoreArray]]:
    """The views by number with their scores, so many at a time, without holding those of all."""
    numbers: list[NDArray[np.int64]] = []
    scores: list[ScoreArray] = []
    for rows in committed:
        here = views[slice(*np.searchsorted(views, (rows.start, rows.stop)))]
        if len(here):  # rows without a score know nothing of maps
            numbers.append(here)
            scores.append(rows.scores[np.searchsorted(rows.views, here)])
        if sum(map(len, numbers)) >= IN_A_RUN:
            yield np.concatenate(numbers), np.concatenate(scores)
            numbers, scores = [], []
    if sum(map(len, numbers)):
        yield np.concatenate(numbers), np.concatenate(scores)


def _table(listing: Listing, files: list[str], scores: ScoreArray) -> pd.DataFrame:
    """Of views that were drawn."""
    import pandas as pd

    names = {
        "view": listing.view_names(listing.keys(0, len(listing))),
        "study": listing.study_names(listing.study_of),
        "probability": scores["probability"],
        "file": files,
    }
    columns = [f"m{position}" for position in range(scores["map"].shape[1])]
    named = pd.DataFrame(names).astype(dict.fromkeys(("view", "study", "file"), "str"))
    return pd.concat([named, pd.DataFrame(scores["map"], columns=columns)], axis=1)


def heatmap_of_image(
    image: Path, engine: Path, out: Path, runtime: str = "auto", allow_unproven: bool = False
) -> dict[str, Any]:
    """Scores one image and draws its class activation map.

    Parameters
    ----------
    image
        PNG, JPEG or DICOM.
    engine
        Engine bundle.
    out
        A ``.jpg`` or ``.png`` file, written whole or not at all.
    runtime, allow_unproven
        As for ``score``.

    Returns
    -------
    dict
        ``probability``, ``logit``, ``map`` (rows of parts of the logit: their mean plus the classifier's bias is the
        logit, but for ensembles), ``runtime`` and ``file``.

    Raises
    ------
    UsageError
        The image cannot be read, the picture's suffix means nothing or its place is no place for it, or the bundle's
        graph has no map.
    BundleError, EnvironmentProblem
        The engine cannot be used.
    """
    from mura_trt.bundle import Bundle
    from mura_trt.runtimes import SessionOptions, open_session

    kind = KINDS.get(out.suffix.lower())
    if kind is None:
        raise UsageError(f"{out}: a heatmap is a .jpg or .png file")
    check_target(out, [image], "the heatmap")
    bundle = Bundle.open(engine)
    bundle.require_map()
    if not allow_unproven:
        bundle.require_proof()
    size = bundle.contract.size
    source, name = FolderSource(str(image.absolute().parent)), os.fsencode(image.name)
    # Whatever its name says: what begins as DICOM files do is read as one.
    decoded = next(decoded_views(source, [name], size, bytes([DICOM])))
    if decoded.failures:
        raise UsageError(f"{image}: {decoded.failures[0].message}")
    session, _ = open_session(runtime, bundle, SessionOptions())
    try:  # until it is closed, for its arrays may be its own
        scores = session.run(decoded.pixels)
        assert scores.cam is not None
        write_atomically(out, encoded(overlay(decoded.pixels[0, ..., 0], scores.cam[0]), kind))
        return {
            "probability": float(scores.probability[0]),
            "logit": float(scores.logit[0]),
            "map": scores.cam[0].tolist(),
            "runtime": session.name,
            "file": str(out),
        }
    finally:
        session.close()

"""From views to studies: the mean probability and the decision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mura_trt.archives.keys import display
from mura_trt.archives.listing import Listing

if TYPE_CHECKING:
    import pandas as pd

# The MURA paper's (section 3): abnormal when the mean is above it, not at it.
DEFAULT_THRESHOLD = 0.5
_AT_ONCE = 1 << 16  # views whose columns are copied


def study_means(
    study_of: NDArray[np.int32], studies: int, probability: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """Views, scored views and mean probability of each study.

    Sums run in float64 in the order of the listing, so that the same views give the same bytes.

    Parameters
    ----------
    study_of
        int32 (n,): each view's study.
    studies
        How many there are.
    probability
        float32 (n,), NaN for a view that failed.

    Returns
    -------
    views, scored : int32 (studies,)
    mean : float64 (studies,), NaN where nothing was scored
    """
    views, scored, total = np.zeros(studies, np.int32), np.zeros(studies, np.int32), np.zeros(studies)
    for start in range(0, len(study_of), _AT_ONCE):
        study, value = study_of[start : start + _AT_ONCE], probability[start : start + _AT_ONCE]
        good = ~np.isnan(value)
        np.add.at(views, study, 1)
        np.add.at(scored, study[good], 1)
        np.add.at(total, study[good], value[good].astype(np.float64))
    with np.errstate(invalid="ignore"):
        return views, scored, np.divide(total, scored, out=total)


def study_tables(
    listing: Listing, probability: NDArray[np.float32], threshold: float, rows_at_once: int
) -> Iterator[pd.DataFrame]:
    """The rows of ``studies.csv`` in order of first appearance, some at a time."""
    import pandas as pd

    count = len(listing.studies)
    views, scored, mean = study_means(listing.study_of, count, probability)
    for start in range(0, count, rows_at_once):
        part = slice(start, min(start + rows_at_once, count))
        # A comparison with NaN is False; such a study has no decision instead.
        abnormal = pd.array((mean[part] > threshold).astype(np.int8), dtype="Int8")
        abnormal[np.isnan(mean[part])] = pd.NA
        yield pd.DataFrame(
            {
                "study": [display(key) for key in listing.studies.slice(start, rows_at_once).to_pylist()],
                "body_part": listing.body_parts_of_studies(part.start, part.stop),
                "views": views[part].astype(np.int64),
                "scored": scored[part].astype(np.int64),
                "failed": (views[part] - scored[part]).astype(np.int64),
                "probability": mean[part],
                "abnormal": abnormal,
            }
        )

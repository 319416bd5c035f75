"""Some of an archive's views or studies: the same ones every time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mura_trt.archives.listing import Listing


def spread_views(listing: Listing, count: int) -> NDArray[np.int64]:
    """The numbers of so many views, or of all there are, in random order, as evenly as can be from the body parts.

    Of each body part, every study gives one view before any gives a second.
    """
    rng = np.random.default_rng(0)
    _, part_of_study = np.unique(np.array(listing.body_parts_of_studies()), return_inverse=True)
    order = rng.permutation(len(listing))
    # Whose turn each view is: its place among its study's, then among those of its body part that have the same.
    of_study = _places(listing.study_of[order])
    part_of = part_of_study[listing.study_of[order]]
    by_turn = np.argsort(of_study, kind="stable")
    turn = np.empty(len(order), np.int64)
    turn[by_turn] = _places(part_of[by_turn])
    return order[np.argsort(turn, kind="stable")[:count]]


def whole_studies(listing: Listing, count: int) -> Listing:
    """All views of so many studies, evenly spaced, or of all there are."""
    studies = len(listing.studies)
    chosen = np.unique(np.linspace(0, studies - 1, min(count, studies)).round().astype(np.int64))
    return listing.take(np.flatnonzero(np.isin(listing.study_of, chosen)))


def _places(groups: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Of each element, how many of its group stand before it."""
    order = np.argsort(groups, kind="stable")
    first = np.r_[0, np.flatnonzero(np.diff(groups[order])) + 1]
    counts = np.diff(np.r_[first, len(groups)])
    places = np.empty(len(groups), np.int64)
    places[order] = np.arange(len(groups)) - np.repeat(first, counts)
    return places

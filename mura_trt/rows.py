"""What travels between stages: a task for a worker, and the rows that come of it, scores and failures."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Failure:
    """Why a view has no score."""

    view: int
    """The view's number in the listing."""
    stage: str
    """``read``, ``screen``, ``decode``, ``engine`` or ``worker``."""
    code: str
    message: str


ScoreArray = NDArray[np.void]


def score_type(map_size: int) -> np.dtype[np.void]:
    """Of one view: logit and probability, whether its file stores color, who computed it, and its class activation map.

    ``runtime`` is 0, but in a run that mixes runtimes: there 1 and more count those of ``RUNTIMES``. The map is row by
    row, and has no values where none is kept.
    """
    return np.dtype(
        [("logit", "<f4"), ("probability", "<f4"), ("color", "?"), ("runtime", "u1"), ("map", "<f4", (map_size,))]
    )


def scores_of(
    logit: ArrayLike, probability: ArrayLike, color: ArrayLike = False, maps: NDArray[np.float32] | None = None
) -> ScoreArray:
    """Scores of n views from their parts, (n,) each; maps are float32 (n, ...) or not kept."""
    found = np.empty(len(np.asarray(logit)), score_type(0 if maps is None else int(np.prod(maps.shape[1:]))))
    found["logit"], found["probability"], found["color"], found["runtime"] = logit, probability, color, 0
    if maps is not None:
        found["map"] = maps.reshape(found["map"].shape)
    return found


@dataclass(frozen=True)
class Rows:
    """What became of the views ``start`` to ``stop`` (exclusive) of the listing.

    ``views`` int64 (k,) are the scored ones in order, ``scores`` (k,) of :func:`score_type` what they got.
    """

    start: int
    stop: int
    views: NDArray[np.int64]
    scores: ScoreArray
    failures: list[Failure] = field(default_factory=list)

    def __post_init__(self) -> None:
        named = np.concatenate([self.views, np.array([failure.view for failure in self.failures], np.int64)])
        if not np.array_equal(np.sort(named), np.arange(self.start, self.stop)):
            raise ValueError(f"views {self.start} to {self.stop}: some are lost or doubled")

    def is_shard(self, shard_views: int, views: int) -> bool:
        """Whether they are all of a shard, where there are ``views`` in shards of ``shard_views``."""
        return self.start % shard_views == 0 and self.stop in (self.start + shard_views, views)

    def scored_runs(self) -> list[Rows]:
        """The rows without their failures: each run of neighbours that have scores, as rows of its own."""
        edges = [self.start - 1, *(failure.view for failure in self.failures), self.stop]
        runs = []
        for before, after in pairwise(edges):
            if after - before > 1:
                here = slice(*np.searchsorted(self.views, (before + 1, after)))
                runs.append(Rows(before + 1, after, self.views[here], self.scores[here]))
        return runs

    @classmethod
    def of_one_failure(cls, failure: Failure) -> Rows:
        """The rows of a single view that has no score."""
        return cls(failure.view, failure.view + 1, np.empty(0, np.int64), scores_of([], []), [failure])

    @classmethod
    def joined(cls, parts: list[Rows]) -> Rows:
        """Neighbouring rows as one."""
        parts = sorted(parts, key=lambda part: part.start)
        # Rows without a score know nothing of maps.
        scores = [part.scores for part in parts if len(part.scores)] or [parts[0].scores]
        return cls(
            parts[0].start,
            parts[-1].stop,
            np.concatenate([part.views for part in parts]),
            np.concatenate(scores),
            [failure for part in parts for failure in part.failures],
        )


@dataclass(frozen=True)
class Task:
    """Views ``start`` to ``stop`` (exclusive) for a worker; all of one shard."""

    start: int
    stop: int

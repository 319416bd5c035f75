"""Runs whose supervisor, ledger and output folder do their work on real files; the worker alone is played.

It writes no file and would take seconds to start; its scores follow from what it reads.
"""

from __future__ import annotations

import os
import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

import mura_trt.score
from benchmarks.played import PlayedWorker
from mura_trt.archives import list_archive
from mura_trt.archives.dicoms import HeaderIndex
from mura_trt.bundle import Bundle
from mura_trt.crew import Inbox
from mura_trt.progress import Progress
from mura_trt.rows import Failure, Rows, scores_of
from mura_trt.score_options import ScoreOptions
from mura_trt.worker import Assignment, WorkerConfig

VIEWS, SHARD_VIEWS = 60, 8
TABLES = ("studies.csv", "views.csv", "failures.csv")


def _played(config: WorkerConfig, inbox: Inbox) -> PlayedWorker:
    """A worker whose rows follow from the files' bytes, some views failed."""
    reader = config.source.open()

    def rows(message: Assignment) -> Rows:
        task = message.task
        sums = np.array([zlib.crc32(repr(at).encode() + reader.read(at)) for at in message.references], np.int64)
        views = np.arange(task.start, task.stop)
        good = sums % 7 != 3
        logit = np.sin(sums[good]).astype(np.float32)
        lost = [Failure(view, "read", "EIO", "gone") for view in views[~good].tolist()]
        return Rows(task.start, task.stop, views[good], scores_of(logit, 1 / (1 + np.exp(-logit))), lost)

    return PlayedWorker(inbox, rows, 4)


class Runs:
    """Runs over one small archive.

    Parameters
    ----------
    work
        Folder for the archive and all that runs leave.
    engine
        Engine bundle; it is opened and not used.
    """

    def __init__(self, work: Path, engine: Path) -> None:
        self._archive, self._bundle = work / "archive", Bundle.open(engine)
        shutil.rmtree(work, ignore_errors=True)
        for view in range(VIEWS):
            path = self._archive / f"study{view // 3}" / f"image{view % 3}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        self._all_expected = {}
        for grown in (True, False):
            self.grow(grown)
            self.run(work / f"clean-{grown}", lambda _: None)
            self._all_expected[grown] = tables(work / f"clean-{grown}")

    @property
    def expected(self) -> dict[str, bytes]:
        """Of the archive as it is."""
        return self._all_expected[self._grown]

    def grow(self, grown: bool) -> None:
        """Has the archive as it was at first, or with a study more, one less and a file that changed."""
        self._grown = grown
        gone, new, changed = (self._archive / name for name in ("study3", "study33", "study5/image0.png"))
        for folder, there in ((gone, not grown), (new, grown)):
            shutil.rmtree(folder, ignore_errors=True)
            if there:
                folder.mkdir()
                (folder / "image0.png").write_bytes(folder.name.encode())
                os.utime(folder / "image0.png", (0, 0))
        changed.write_bytes(b"another" if grown else b"")
        os.utime(changed, (1, 1) if grown else (0, 0))

    def run(self, out: Path, report: Callable[[Progress], None], update: bool = False) -> None:
        """Begins a run, goes on with it or updates it, to its end."""
        options = ScoreOptions(
            self._archive,
            self._bundle.folder,
            out,
            runtime="null",
            shard_views=SHARD_VIEWS,
            resume=not update,
            update=update,
        )
        listing = list_archive(self._archive)
        with mock.patch.object(mura_trt.score, "WorkerProcess", _played):
            mura_trt.score.score_listing(options, self._bundle, listing, HeaderIndex(), time.monotonic(), report)


def tables(out: Path) -> dict[str, bytes]:
    """The tables that are there."""
    return {name: (out / name).read_bytes() for name in TABLES if (out / name).exists()}

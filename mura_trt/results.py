"""The output folder: shards committed one by one, then the final tables made from them and from nothing else."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mura_trt import heatmaps
from mura_trt.archives.dicoms import HeaderIndex
from mura_trt.archives.listing import Listing
from mura_trt.earlier import Earlier, hashes_of, read_hashes, write_hashes
from mura_trt.errors import EnvironmentProblem, UsageError
from mura_trt.files import sync_folder, write_atomically
from mura_trt.recipe import RECIPE, note_recipe, noted_recipe
from mura_trt.rows import Failure, Rows
from mura_trt.shards import SHARD_FILE, encoded, read_shard, shard_name
from mura_trt.studies import study_tables
from mura_trt.tables import FORMATS, ROWS_AT_ONCE, failure_table, vanished_table, view_tables, write_table

if TYPE_CHECKING:
    from mura_trt.tables import Parts

RUN_FILE = "run.json"
WORKER_LOG = "worker.log"
_FURTHER_LOGS = "worker-[0-9]*.log"  # of the second worker and so on
HEADERS_FILE = "headers.dat"
HASHES_FILE = "hashes.dat"  # of a run's views, as a later one knows them again by
EARLIER_FILE = "earlier.dat"
VANISHED_FILE = "vanished.csv"
_NAMED = [f"{table}.{suffix}" for table in ("views", "failures") for suffix in FORMATS]  # tables that name views
UPDATING = "being updated"  # in place of a recipe's listing
MAP_SIZE = "map_size"  # of a recipe: values of a class activation map that rows come with
_SHARDS = "shards"
_LOCK = ".lock"
_WAY_OUT = "run again with --resume, which scores anew what is missing"
# What a finished run leaves, the mark that it is finished first.
_TABLES = ("studies", "views", "failures", "heatmaps")
_RESULTS = (RUN_FILE, *(f"{table}.{suffix}" for table in _TABLES for suffix in FORMATS))

logger = logging.getLogger(__name__)


class Existing(Enum):
    """What becomes of results that are in the output folder already."""

    REFUSE = "refuse"
    REPLACE = "replace"
    RESUME = "resume"
    UPDATE = "update"
    """Their scores are taken over for views that have not changed."""


@dataclass(frozen=True)
class Outcome:
    """Every view's result, by its number in the listing.

    ``logit`` and ``probability`` are float32 (n,), NaN for a view that failed; ``color`` is bool (n,), whether its
    file stores color; ``failures`` says why, in order. ``runtime``, uint8 (n,), is there in runs that mix runtimes: a
    code for each view's.
    """

    logit: NDArray[np.float32]
    probability: NDArray[np.float32]
    color: NDArray[np.bool_]
    failures: list[Failure]
    runtime: NDArray[np.uint8] | None = None

    @property
    def scored(self) -> int:
        """How many views have a score."""
        return int(np.count_nonzero(~np.isnan(self.probability)))


class OutputFolder:
    """A run's folder, held by one run at a time.

    Parameters
    ----------
    path
        Made where it is not there.
    existing
        Whether an earlier run's results are refused, deleted or gone on with.

    Attributes
    ----------
    recipe
        What the run began with that is gone on with; empty where a new one begins.

    Raises
    ------
    UsageError
        It holds results already, another run is at work in it, or it cannot be made.
    """

    def __init__(self, path: Path, existing: Existing) -> None:
        self.path = path
        try:
            (path / _SHARDS).mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (path / _LOCK).open("w")
        except OSError as error:
            raise _no_folder(path, error) from error
        try:
            self._take_over(existing)
            self.recipe = noted_recipe(path)
        except BaseException:
            self._lock.close()
            raise

    def _take_over(self, existing: Existing) -> None:
        path = self.path
        try:
            sync_folder(path)
            sync_folder(path.absolute().parent)
        except OSError as error:
            raise _no_folder(path, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{path}: another run is writing there; wait for it, or choose another folder") from error
        except OSError as error:
            raise UsageError(f"{path}: no lock can be taken there ({error.strerror}); choose a local folder") from error
        foreign = [file.name for file in (path / _SHARDS).iterdir() if not SHARD_FILE.fullmatch(file.name)]
        if foreign:
            raise UsageError(f"{path / _SHARDS} holds {foreign[0]}, which no run wrote; choose another folder")
        finished = (path / RUN_FILE).exists()
        if existing in (Existing.RESUME, Existing.UPDATE) and (path / RECIPE).exists():
            return
        if any((path / _SHARDS).iterdir()) or any((path / name).exists() for name in (*_RESULTS, RECIPE)):
            if existing in (Existing.RESUME, Existing.UPDATE):
                raise UsageError(
                    f"{path} holds results and no {RECIPE}, so no run can go on with them; --overwrite begins anew"
                )
            if existing is Existing.REFUSE:
                ended = finished or not (path / RECIPE).exists()
                state = "results" if ended else "a run that has not ended; --resume goes on with it"
                raise UsageError(f"{path} holds {state}; add --overwrite to replace them, or choose another folder")
            self._clear()
        self._forget()

    def _forget(self) -> None:
        """Removes what is of no other run than the last: a new one begins."""
        for path in (
            *(self.path / name for name in (EARLIER_FILE, HASHES_FILE, HEADERS_FILE, VANISHED_FILE, WORKER_LOG)),
            *self._kept_tables(),
            self.path / _kept(RUN_FILE),
            *self.path.glob(_FURTHER_LOGS),
        ):
            path.unlink(missing_ok=True)
        sync_folder(self.path)
        # Last of all, for where it is not there nothing is gone on with.
        (self.path / RECIPE).unlink(missing_ok=True)
        sync_folder(self.path)

    def _clear(self) -> None:
        # The mark of a finished run goes first, so that what a crash leaves here never looks finished.
        for name in (*_RESULTS, HASHES_FILE):
            (self.path / name).unlink(missing_ok=True)
        sync_folder(self.path)
        heatmaps.clear(self.path)
        shutil.rmtree(self.path / _SHARDS)
        (self.path / _SHARDS).mkdir()
        sync_folder(self.path)

    def begin_update(self, listing: Listing) -> None:
        """Puts the scores of the run that is here, ended or not, aside for the next one, and makes room for that.

        A crash at any moment loses nothing: the next update takes what was put aside, and what is still there.

        Raises
        ------
        UsageError
            That run left nothing to know its views by.
        EnvironmentProblem
            The disk's errors.
        """
        hashes, earlier = self.path / HASHES_FILE, self.path / EARLIER_FILE
        if not hashes.exists() and self.recipe["listing"] != UPDATING:
            raise UsageError(f"{self.path}: its run left no {HASHES_FILE} to know views by; --overwrite begins anew")
        with self._told_what_to_do("--update"):
            self._keep_tables()
            if self.recipe.get("uids") != (listing.disclosure.tag if listing.disclosure else None):
                # Views have other names since the first DICOM file came, or the last one went: no name is known again.
                for path in (*self._kept_tables(), self.path / VANISHED_FILE, earlier):
                    path.unlink(missing_ok=True)
            known = read_hashes(hashes)
            rows = (part for part in self.take_up() if part.stop <= len(known))
            map_size = self.recipe.get(MAP_SIZE, 0)
            Earlier.of(known, rows, map_size).and_also(Earlier.read(earlier, map_size)).write(earlier)
            # From here on only another update can go on, which alone looks at what views are.
            note_recipe(self.path, {**self.recipe, "listing": UPDATING})
            self._clear()
        self.recipe = {}

    def _keep_tables(self) -> None:
        """Puts the tables of the last run that has ended aside: what vanished since then is told in the end."""
        if (self.path / RUN_FILE).exists():
            for path in self._kept_tables():
                path.unlink(missing_ok=True)
            # First the mark that the run is whole, which it is not any more from here on.
            (self.path / RUN_FILE).replace(self.path / _kept(RUN_FILE))
        if (self.path / _kept(RUN_FILE)).exists():
            for name in _NAMED:
                kept = self.path / _kept(name)
                if (self.path / name).exists() and not kept.exists():
                    (self.path / name).replace(kept)

    def _kept_tables(self) -> list[Path]:
        return [self.path / _kept(name) for name in _NAMED]

    def write_hashes(self, listing: Listing) -> None:
        """Notes what a later run knows the views again by, before any of them is read."""
        with self._told_what_to_do():
            write_hashes(self.path / HASHES_FILE, hashes_of(listing))

    def earlier_rows(self, shard_views: int, map_size: int) -> Iterator[Rows]:
        """What earlier runs have scored of views that this one has not committed; commits shards that are whole."""
        earlier = Earlier.read(self.path / EARLIER_FILE, map_size)
        if not len(earlier):
            return
        hashes = read_hashes(self.path / HASHES_FILE)
        done = {int(path.stem) for path in self._shard_files()}
        for rows in earlier.rows(hashes, shard_views, done):
            if rows.is_shard(shard_views, len(hashes)):
                self.commit(rows)
            yield rows

    def write_vanished(self, listing: Listing) -> int | None:
        """Lists views that the last run had and ``listing`` has not; how many, or None where no update was made."""
        kept = [path for path in self._kept_tables() if path.exists()]
        if not kept:
            return None
        table = vanished_table(listing, kept)
        with self._told_what_to_do():
            return write_table(self.path / VANISHED_FILE, iter([table]))

    def commit(self, rows: Rows) -> None:
        """Makes a shard's rows final: they are on the disk, whole, when this returns."""
        with self._told_what_to_do():
            write_atomically(self.path / _SHARDS / shard_name(rows), encoded(rows))

    def committed(self) -> Iterator[Rows]:
        """The committed shards in order.

        Raises
        ------
        EnvironmentProblem
            One has changed since.
        """
        for path in self._shard_files():
            try:
                yield read_shard(path)
            except ValueError as error:
                raise EnvironmentProblem(f"{path}: damaged since it was committed ({error}); {_WAY_OUT}") from error

    def take_up(self) -> Iterator[Rows]:
        """Goes on with a run: its committed shards in order; what is damaged is told and removed.

        The mark of a finished run and its tables, in whatever format, go first: the shards they tell of may change.
        """
        for name in _RESULTS:
            (self.path / name).unlink(missing_ok=True)
        heatmaps.clear(self.path)
        sync_folder(self.path)
        for path in self._shard_files():
            try:
                yield read_shard(path)
            except ValueError as error:
                logger.warning("%s is damaged (%s): its views are scored anew", path, error)
                path.unlink()

    def _shard_files(self) -> list[Path]:
        return sorted((self.path / _SHARDS).glob("*.json"))

    def outcome(self, views: int, mixed: bool = False) -> Outcome:
        """Everything committed, checked to be every view of the listing once; with runtimes where they are mixed.

        Raises
        ------
        EnvironmentProblem
            A shard is missing or there twice: the folder was changed under the run.
        """
        logit = np.full(views, np.nan, np.float32)
        probability = logit.copy()
        color = np.zeros(views, bool)
        runtime = np.zeros(views, np.uint8) if mixed else None
        failures: list[Failure] = []
        expected = 0
        for rows in self.committed():
            if rows.start != expected or rows.stop > views:
                raise EnvironmentProblem(f"{self.path}: the shard of view {expected} is missing; {_WAY_OUT}")
            logit[rows.views], probability[rows.views] = rows.scores["logit"], rows.scores["probability"]
            color[rows.views] = rows.scores["color"]
            if runtime is not None:
                runtime[rows.views] = rows.scores["runtime"]
            failures.extend(rows.failures)
            expected = rows.stop
        outcome = Outcome(logit, probability, color, failures, runtime)
        if expected != views or outcome.scored + len(failures) != views:
            raise EnvironmentProblem(f"{self.path}: {views} views listed, {expected} committed; {_WAY_OUT}")
        return outcome

    def write_tables(self, listing: Listing, outcome: Outcome, threshold: float, table_format: str) -> int:
        """Writes studies, views and failures; returns how many studies there are."""
        tables = {
            "studies": study_tables(listing, outcome.probability, threshold, ROWS_AT_ONCE),
            "views": view_tables(listing, outcome.logit, outcome.probability, outcome.color, outcome.runtime),
            "failures": iter([failure_table(listing, outcome.failures)]),
        }
        with self._told_what_to_do():
            rows = {name: write_table(self.path / f"{name}.{table_format}", parts) for name, parts in tables.items()}
        return rows["studies"]

    def write_heatmaps(self, parts: Parts, table_format: str) -> int:
        """Writes the heatmaps' table, which draws them as it goes on; returns how many there are."""
        with self._told_what_to_do():
            return write_table(self.path / f"heatmaps.{table_format}", parts)

    def write_headers(self, index: HeaderIndex) -> None:
        """Keeps what DICOM headers say for a run that goes on."""
        with self._told_what_to_do():
            index.write(self.path / HEADERS_FILE)

    def write_run(self, run: dict[str, Any]) -> None:
        """Writes ``run.json``, whose presence says that the run came to its end."""
        with self._told_what_to_do():
            write_atomically(self.path / RUN_FILE, (json.dumps(run, indent=2) + "\n").encode())
            # All that counts of it is in the shards and in the list of what has vanished.
            for path in (self.path / EARLIER_FILE, *self._kept_tables(), self.path / _kept(RUN_FILE)):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Lets another run have the folder."""
        self._lock.close()

    @contextmanager
    def _told_what_to_do(self, way: str = "--resume") -> Iterator[None]:
        """Has an error of the disk say how to go on."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise EnvironmentProblem(
                f"{self.path}: cannot be written ({error.strerror or error}); what is committed stays:"
                f" {'make room' if full else 'mend that'}, then run again with {way}"
            ) from error


def _kept(name: str) -> str:
    """The name of a table, or the mark of an ended run, while an update is under way."""
    return f".before-{name}"


def _no_folder(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path}: cannot be an output folder: {error.strerror}")

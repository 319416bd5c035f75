"""What a disk may do to a run: refuse any operation, or forget at a power cut what was not synced.

Both let a run's supervisor, ledger and output folder do their work on real files, with every operation on these seen on
its way: files opened, written, synced, renamed and removed, folders made and synced. The worker alone is played, for it
writes no file and would take seconds to start; its scores follow from the views' numbers.
"""

from __future__ import annotations

import errno
import io
import os
import random
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import mura_trt.score
from mura_trt import worker
from mura_trt.archives import list_archive
from mura_trt.archives.dicoms import HeaderIndex
from mura_trt.archives.listing import Reference
from mura_trt.bundle import Bundle
from mura_trt.crew import Inbox
from mura_trt.errors import MuraTrtError
from mura_trt.progress import Progress
from mura_trt.rows import Failure, Rows, Task, scores_of
from mura_trt.score_options import ScoreOptions
from mura_trt.shards import read_shard

VIEWS, SHARD_VIEWS = 60, 8
TABLES = ("studies.csv", "views.csv", "failures.csv")

Operation = tuple[Any, ...]


class PlayedWorker:
    """In place of a worker process: gives rows at once, some views failed."""

    def __init__(self, config: worker.WorkerConfig, inbox: Inbox) -> None:
        self._reader, self._inbox = config.source.open(), inbox
        inbox.put((self, worker.Ready("null", "cpu", 4, [])))

    def send(self, message: worker.Assignment | worker.Flush | worker.Stop) -> None:
        """As the real one."""
        if isinstance(message, worker.Assignment):
            self._inbox.put((self, worker.Done(self._rows(message.task, message.references), 1.0, {})))

    def last_words(self) -> str:
        """It never dies."""
        raise AssertionError

    def stop(self, graceful: bool) -> None:
        """There is nothing to stop."""

    def _rows(self, task: Task, references: list[Reference]) -> Rows:
        sums = np.array([zlib.crc32(repr(at).encode() + self._reader.read(at)) for at in references], np.int64)
        views = np.arange(task.start, task.stop)
        good = sums % 7 != 3
        logit = np.sin(sums[good]).astype(np.float32)
        lost = [Failure(view, "read", "EIO", "gone") for view in views[~good].tolist()]
        return Rows(task.start, task.stop, views[good], scores_of(logit, 1 / (1 + np.exp(-logit))), lost)


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
        with mock.patch.object(mura_trt.score, "WorkerProcess", PlayedWorker):
            mura_trt.score.score_listing(options, self._bundle, listing, HeaderIndex(), time.monotonic(), report)


def tables(out: Path) -> dict[str, bytes]:
    """The tables that are there."""
    return {name: (out / name).read_bytes() for name in TABLES if (out / name).exists()}


class _Written:
    """A file that is open for writing, whose writes and closing are seen."""

    def __init__(self, file: Any, path: str, see: Callable[..., None]) -> None:
        self._file, self._path, self._see = file, path, see

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Written:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write(self, data: Any) -> Any:
        try:
            self._see("write", self._path)
        except OSError:
            self._file.write(data[: len(data) // 2])
            raise
        return self._file.write(data)

    def close(self) -> None:
        if not self._file.closed:
            self._file.close()
            if os.path.exists(self._path):
                self._see("content", self._path, Path(self._path).read_bytes())


@contextmanager
def watched(folder: Path, see: Callable[..., None]) -> Iterator[None]:
    """Has ``see`` told of each operation on ``folder`` and below, before it is done; it may raise OSError.

    Of ``content``, which is what a file has when it is closed or synced, it is told afterwards.
    """
    root = str(folder)
    real_open, real_sync, real_mkdir = io.open, os.fsync, os.mkdir
    real_replace, real_unlink, real_rmdir = os.replace, os.unlink, os.rmdir

    def inside(path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and (os.fspath(path) + "/").startswith(root + "/")

    def seen_open(path: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        writes = inside(path) and set(mode) & set("wax+")
        if writes and "w" in mode:
            see("create", os.fspath(path))
        file = real_open(path, mode, *arguments, **named)
        return _Written(file, os.fspath(path), see) if writes else file

    def seen_sync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if inside(path) or path == str(folder.parent):
            if os.path.isdir(path):
                see("sync folder", path)
            else:
                see("content", path, Path(path).read_bytes())
                see("sync", path)
        real_sync(descriptor)

    def seen_replace(old: Any, new: Any) -> None:
        see("rename", os.fspath(old), os.fspath(new))
        real_replace(old, new)

    def located(path: Any, dir_fd: int | None) -> Any:
        return path if dir_fd is None else os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)

    def seen_unlink(path: Any, *, dir_fd: int | None = None) -> None:
        if inside(where := located(path, dir_fd)) and os.path.lexists(where):
            see("remove", os.fspath(where))
        real_unlink(path, dir_fd=dir_fd)

    def seen_rmdir(path: Any, *, dir_fd: int | None = None) -> None:
        if inside(where := located(path, dir_fd)):
            see("remove", os.fspath(where))
        real_rmdir(path, dir_fd=dir_fd)

    def seen_mkdir(path: Any, *arguments: Any, **named: Any) -> None:
        if inside(path) and not os.path.lexists(path) and os.path.isdir(os.path.dirname(path)):
            see("make folder", os.fspath(path))
        real_mkdir(path, *arguments, **named)

    with (
        mock.patch("io.open", seen_open),
        mock.patch("os.fsync", seen_sync),
        mock.patch("os.replace", seen_replace),
        mock.patch("os.unlink", seen_unlink),
        mock.patch("os.rmdir", seen_rmdir),
        mock.patch("os.mkdir", seen_mkdir),
    ):
        yield


def refuse_each(work: Path, engine: Path, step: int = 1) -> dict[str, int]:
    """ENOSPC and EIO at every operation, one a run; each run is gone on with and must end in the same bytes.

    Parameters
    ----------
    work
        Folder for archive and runs.
    engine
        Engine bundle.
    step
        2 refuses every second one.

    Raises
    ------
    AssertionError
        Something was lost, doubled or half written, or a run ended as if nothing had happened.
    """
    runs = Runs(work, engine)
    counts = {"refusals": 0, "operations": 0, "operations_of_an_update": 0}
    for update in (False, True):
        for code in (errno.ENOSPC, errno.EIO):
            number = 0
            while _refuse_one(runs, work / f"out-{update}-{code}-{number}", update, code, number):
                number += step
            counts["operations_of_an_update" if update else "operations"] = number
            counts["refusals"] += number // step
    return counts


def _refuse_one(runs: Runs, out: Path, update: bool, code: int, number: int) -> str:
    """Refuses the operation of that number, of a run that begins or updates another; says which it was."""
    runs.grow(False)
    whole = [runs.expected]
    if update:
        runs.run(out, lambda _: None)
        runs.grow(True)
        whole.append(runs.expected)
    seen, refused = 0, ""

    def see(kind: str, path: str, *_: object) -> None:
        nonlocal seen, refused
        if kind == "content":
            return
        seen += 1
        if seen == number + 1:
            refused = f"{kind} {Path(path).name}"
            raise OSError(code, os.strerror(code))

    with watched(out, see):
        try:
            runs.run(out, lambda _: None, update)
        except (MuraTrtError, OSError):
            assert refused, "a run failed with no operation refused"
        else:
            assert not refused or refused.startswith("remove"), f"nobody noticed that {refused} was refused"
    for name, content in tables(out).items():
        assert content in [expected[name] for expected in whole], f"{refused}: half a table"
    if (out / "run.json").exists():
        assert tables(out) in whole, f"{refused}: the run looks whole"
    runs.run(out, lambda _: None, update)
    assert tables(out) == runs.expected, f"{refused}: other tables when gone on with"
    shutil.rmtree(out)
    return refused


@dataclass
class _File:
    """A file's bytes as they are, and as they are on the disk for certain."""

    latest: bytes = b""
    synced: bytes = b""


@dataclass
class _Folder:
    """A folder's entries as they are on the disk for certain, and what was done to them since, in order."""

    synced: dict[str, _File | None] = field(default_factory=dict)
    pending: list[Callable[[dict[str, _File | None]], None]] = field(default_factory=list)
    latest: dict[str, _File | None] = field(default_factory=dict)

    def do(self, change: Callable[[dict[str, _File | None]], None]) -> None:
        change(self.latest)
        self.pending.append(change)

    def sync(self) -> None:
        self.synced, self.pending = dict(self.latest), []


class Disk:
    """What of a folder is on the disk after a power cut: what was synced, and by chance some of the rest.

    Changes of a folder's entries come to the disk in their order, as journals of file systems keep them; of bytes that
    were not synced any beginning, or zeros in their place.
    """

    def __init__(self, parent: Path) -> None:
        self._folders: dict[str, _Folder] = {}
        self._take(parent)

    def _take(self, folder: Path) -> None:
        """Takes what is there for synced."""
        entries: dict[str, _File | None] = {}
        for path in folder.iterdir():
            if path.is_dir():
                entries[path.name] = None
                self._take(path)
            else:
                data = path.read_bytes()
                entries[path.name] = _File(data, data)
        self._folders[str(folder)] = _Folder(entries, [], dict(entries))

    def do(self, kind: str, path: str, *more: Any) -> None:
        """Follows an operation."""
        above, name = os.path.split(path)
        if kind == "sync folder":
            self._folders[path].sync()
            return
        folder = self._folders[above]
        if kind == "make folder":
            self._folders[path] = _Folder()
            folder.do(lambda entries: entries.update({name: None}))
        elif kind == "create":
            if name in folder.latest:
                self._file(path).latest = b""
            else:
                file = _File()
                folder.do(lambda entries: entries.update({name: file}))
        elif kind == "content":
            self._file(path).latest = more[0]
        elif kind == "sync":
            self._file(path).synced = self._file(path).latest
        elif kind == "remove":

            def remove(entries: dict[str, _File | None]) -> None:
                entries.pop(name, None)

            folder.do(remove)
        elif kind == "rename":
            moved, new = self._file(path), os.path.basename(more[0])

            def rename(entries: dict[str, _File | None]) -> None:
                entries.pop(name, None)
                entries[new] = moved

            folder.do(rename)
        else:
            assert kind == "write", kind

    def _file(self, path: str) -> _File:
        above, name = os.path.split(path)
        file = self._folders[above].latest[name]
        assert file is not None
        return file

    def after_cut(self, parent: Path, target: Path, rng: random.Random) -> None:
        """Writes to ``target`` what a cut leaves of ``parent``."""
        target.mkdir()
        folder = self._folders[str(parent)]
        entries = dict(folder.synced)
        for change in folder.pending[: rng.randint(0, len(folder.pending))]:
            change(entries)
        for name, file in entries.items():
            if file is None:
                self.after_cut(parent / name, target / name, rng)
            else:
                (target / name).write_bytes(_left(file, rng))


def _left(file: _File, rng: random.Random) -> bytes:
    if file.latest == file.synced:
        return file.synced
    return rng.choice(
        [file.synced, file.latest, file.latest[: rng.randint(0, len(file.latest))], bytes(len(file.latest))]
    )


def cut_power(work: Path, engine: Path, cuts: int, seed: int = 0) -> dict[str, int]:
    """Cuts the power at random moments of runs and of runs that go on; each must end in the same bytes.

    Half of them update one another while the archive grows and shrinks.

    Raises
    ------
    AssertionError
        What was committed is gone or damaged, or tables differ.
    """
    runs, rng = Runs(work, engine), random.Random(seed)
    counts = {"cuts": 0, "committed_views_found_again": 0, "updates": 0}
    before = work / "disk"
    while counts["cuts"] < cuts:
        shutil.rmtree(before, ignore_errors=True)
        before.mkdir()
        update = rng.random() < 0.5
        runs.grow(False)
        for _ in range(rng.randint(1, 4)):  # in a row
            if update:
                runs.grow(rng.random() < 0.5)
            log: list[Operation] = []
            disk = Disk(before)

            def see(*operation: Any, log: list[Operation] = log) -> None:
                log.append(operation)

            def report(progress: Progress, log: list[Operation] = log) -> None:
                log.append(("committed", progress.scored + progress.failed))

            with watched(before / "out", see):
                runs.run(before / "out", report, update)
            committed = 0
            for operation in log[: rng.randint(0, len(log))]:
                if operation[0] == "committed":
                    committed = operation[1]
                else:
                    disk.do(*operation)
            after = work / "after"
            disk.after_cut(before, after, rng)
            shutil.rmtree(before)
            after.rename(before)
            counts["cuts"] += 1
            counts["updates"] += update
            if update:  # which puts aside what is committed
                continue
            counts["committed_views_found_again"] += committed
            shards = [read_shard(path) for path in (before / "out/shards").glob("*.json")]
            found = sum(rows.stop - rows.start for rows in shards)
            assert found >= committed, f"{committed} views were committed, and {found} are there after the cut"
            if (before / "out/run.json").exists():
                assert tables(before / "out") == runs.expected, "a run looks whole and is not"
        runs.run(before / "out", lambda _: None, update)
        assert tables(before / "out") == runs.expected, "other tables after a cut"
    return counts

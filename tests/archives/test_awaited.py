"""An archive that goes away in the middle: who reads it waits, and a view fails of what is its own only."""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from mura_trt.archives import awaited, list_archive
from mura_trt.archives.awaited import AwaitedReader, AwaitedSource
from mura_trt.archives.folder import FolderSource
from mura_trt.archives.listing import HeaderReader, Reference
from mura_trt.errors import EnvironmentProblem
from mura_trt.readahead import ReadAhead
from tests.archives.test_packed import FILES, MAKERS


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaited, "LOOK_SECONDS", 0.02)


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def folder(root: Path) -> Path:
    root.mkdir()
    for number in range(3):
        (root / f"{number}.png").write_bytes(b"%d" % number)
    return root


def in_a_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """What it gives or raises comes into the list."""
    gave: list[object] = []

    def do() -> None:
        try:
            gave.append(work())
        except Exception as error:
            gave.append(error)

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    return thread, gave


@pytest.mark.parametrize("emptied", [False, True], ids=["moved", "emptied"])
def test_a_folder_that_is_away_is_waited_for(tmp_path: Path, emptied: bool) -> None:
    """As where a disk is not mounted: the folder is gone, or an empty one."""
    root = folder(tmp_path / "archive")
    reader = AwaitedSource.of(FolderSource(str(root))).open()
    assert reader.read(b"1.png") == reader.head(b"1.png", 9) == b"1" and not reader.away
    assert reader.stamp(b"1.png") == FolderSource(str(root)).stamp(b"1.png")
    root.rename(tmp_path / "elsewhere")
    if emptied:
        root.mkdir()
    thread, gave = in_a_thread(lambda: reader.read(b"2.png"))
    wait_for(lambda: reader.away)
    assert reader.away == ("an empty folder" if emptied else "No such file or directory")
    looked = reader.moved_at
    wait_for(lambda: reader.moved_at > looked)  # or whoever watches would take it to hang
    if emptied:
        root.rmdir()
    (tmp_path / "elsewhere").rename(root)
    thread.join(60)
    assert gave == [b"2"] and not reader.away
    with pytest.raises(FileNotFoundError):  # that is the view's own failure
        reader.read(b"3.png")


@pytest.mark.parametrize("name", MAKERS)
def test_every_kind_is_waited_for_also_by_who_comes_later(tmp_path: Path, name: str) -> None:
    """As whoever replaces a worker that was lost while the archive was away."""
    archive = MAKERS[name](tmp_path / name)
    listing = list_archive(archive)
    source = AwaitedSource.of(listing.source)
    there = [path for path in tmp_path.iterdir() if path.name.startswith(name[:4])]
    for path in there:
        path.rename(path.with_name(f"away {path.name}"))
    thread, gave = in_a_thread(lambda: source.open().read(listing.references(0, 1)[0]))
    time.sleep(0.2)
    assert thread.is_alive()
    for path in there:
        path.with_name(f"away {path.name}").rename(path)
    thread.join(60)
    assert gave == [FILES[os.fsdecode(listing.keys(0, 1)[0])]]


def test_what_stays_away_is_told_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaited, "AWAY_SECONDS", 0.1)
    root = folder(tmp_path / "archive")
    source = AwaitedSource.of(FolderSource(str(root)))
    reader = source.open()
    root.rename(tmp_path / "elsewhere")
    for attempt in (lambda: reader.read(b"1.png"), source.open):
        with pytest.raises(EnvironmentProblem, match=rf"^{root}: .* any more \(No such file.*run again with --resume$"):
            attempt()


def test_only_one_view_of_an_archive_that_stays_away_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a run that ends would wait for those that its threads begin meanwhile."""
    monkeypatch.setattr(awaited, "AWAY_SECONDS", 0.5)
    root = folder(tmp_path / "archive")
    ahead = ReadAhead(1, AwaitedSource.of(FolderSource(str(root))).open())
    root.rename(tmp_path / "elsewhere")
    ahead.add(0, [b"%d.png" % (number % 3) for number in range(50)])
    wait_for(lambda: ahead.slowest_read() > 0)
    monkeypatch.setattr(awaited, "AWAY_SECONDS", 3600.0)
    with pytest.raises(EnvironmentProblem):
        ahead.next_batch()
    closing, _ = in_a_thread(ahead.close)
    closing.join(30)
    assert not closing.is_alive()


def test_a_source_that_never_tells_that_it_is_there_is_not_waited_for(tmp_path: Path) -> None:
    """As of a list of absolute paths, whose folder says nothing about them."""
    root = folder(tmp_path / "archive")
    reader = AwaitedSource.of(FolderSource(str(tmp_path / "none"))).open()
    assert reader.read(bytes(root / "1.png")) == b"1"
    with pytest.raises(FileNotFoundError):
        reader.read(b"1.png")


class Script(FolderSource):
    """A source whose readers and looks fail as told."""

    def __init__(self, readers: Iterable[list[int]], absences: Iterable[str], opening: Iterable[int]) -> None:
        super().__init__("/script")
        vars(self).update(readers=iter(readers), absences=iter(absences), opening=iter(opening), opened=0)

    def absence(self) -> str:
        return next(vars(self)["absences"], "")

    def open(self) -> HeaderReader:  # type: ignore[override]
        if number := next(vars(self)["opening"], 0):
            raise OSError(number, os.strerror(number))
        vars(self)["opened"] += 1
        return ScriptReader("/script", iter(next(vars(self)["readers"], [])))


class ScriptReader(FolderSource):
    def __init__(self, root: str, errors: object) -> None:
        super().__init__(root)
        vars(self).update(errors=errors)

    def read(self, reference: Reference) -> bytes:
        if number := next(vars(self)["errors"], 0):
            raise OSError(number, os.strerror(number))
        return b"read"


STALE, DISK = errno.ESTALE, errno.EIO


@pytest.mark.parametrize(
    ("readers", "absences", "opening", "opened"),
    [
        pytest.param([[STALE] * 9], ["", ""], [], 2, id="was mounted anew between two looks"),
        pytest.param([[STALE] * 9], ["", "", "gone", "gone", ""], [], 2, id="was away"),
        pytest.param(
            [[STALE] * 9],
            ["", "", "gone", "", "gone", "", "gone", ""],
            [0, DISK, DISK],
            2,
            id="goes while it is opened",
        ),
        pytest.param([[STALE] * 9, [DISK]], ["", "", "gone", "", "gone", "gone", ""], [], 3, id="goes away twice"),
        pytest.param([], ["", "gone", "gone", ""], [], 1, id="away when it is opened"),
    ],
)
def test_an_archive_that_is_there_again_is_opened_anew(
    readers: list[list[int]], absences: list[str], opening: list[int], opened: int
) -> None:
    source = Script(readers, absences, opening)
    assert AwaitedSource.of(source).open().read(b"") == b"read"
    assert vars(source)["opened"] == opened


def test_what_cannot_be_opened_while_it_is_there_is_an_error_at_once() -> None:
    with pytest.raises(OSError, match="Input/output"):
        AwaitedSource.of(Script([], [], [DISK])).open()


def test_what_fails_twice_while_the_archive_is_there_fails() -> None:
    reader = AwaitedSource.of(Script([[DISK] * 9, [DISK] * 9], [], [])).open()
    with pytest.raises(OSError, match="Input/output"):
        reader.read(b"")
    assert reader.read(b"") == b"read"  # by another reader, and only this once


def test_an_archive_that_comes_and_goes_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaited, "AWAY_SECONDS", 0.2)
    began = time.monotonic()

    def looks() -> Iterator[str]:
        while time.monotonic() < began + 20:  # or a reader that tries for ever would do so here
            yield ""
            yield "gone"

    reader = AwaitedReader(AwaitedSource(Script(itertools.repeat([DISK]), looks(), []), tells=True))
    with pytest.raises((OSError, EnvironmentProblem)):
        reader.read(b"")
    assert time.monotonic() < began + 10

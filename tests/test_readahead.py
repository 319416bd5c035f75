"""Runs of views in, full batches of screened files out, and every view on exactly one side."""

from __future__ import annotations

import os
import random
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from mura_trt.archives.folder import FolderSource
from mura_trt.archives.listing import Reference, Unreadable
from mura_trt.readahead import MAX_CHUNK, Batch, ReadAhead
from mura_trt.rows import Failure

Opened = Callable[[int], ReadAhead]


def good(number: int) -> bytes:
    """A file that passes the screen and tells which it is."""
    chunks = b""
    for kind, body in ((b"IHDR", struct.pack(">IIBBBBB", number + 1, 1, 8, 0, 0, 0, 0)), (b"IEND", b"")):
        chunks += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return b"\x89PNG\r\n\x1a\n" + chunks


GOOD = ""
BAD: dict[str, Callable[[Path], object]] = {
    "EMPTY": lambda path: path.write_bytes(b""),
    "NOT_AN_IMAGE": lambda path: path.write_bytes(b"text"),
    "TRUNCATED": lambda path: path.write_bytes(good(1)[:-1]),
    "ENOENT": lambda path: None,
    "ENOTDIR": lambda path: path.parent.joinpath("file").write_bytes(b""),
    "UNREADABLE": lambda path: os.mkfifo(path),
}
STAGES = {"EMPTY": "screen", "NOT_AN_IMAGE": "screen", "TRUNCATED": "screen"}


def make_views(root: Path, kinds: list[str]) -> list[bytes]:
    """One file of each kind, in order; their keys."""
    keys = []
    for number, kind in enumerate(kinds):
        name = f"{number}.png"
        if kind == GOOD:
            (root / name).write_bytes(good(number))
        else:
            BAD[kind](root / name)
        keys.append((f"file/{name}" if kind == "ENOTDIR" else name).encode())
    return keys


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Opens a ReadAhead of the test's folder with that batch, and closes it in the end."""
    made: list[ReadAhead] = []

    def make(batch: int) -> ReadAhead:
        made.append(ReadAhead(batch, FolderSource(str(tmp_path))))
        return made[-1]

    yield make
    for one in made:
        one.close()


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def drain(ahead: ReadAhead) -> tuple[list[Batch], list[Failure]]:
    """Everything to be had without adding views."""
    batches: list[Batch] = []
    failures: list[Failure] = []
    while True:
        batch, failed = ahead.next_batch()
        failures += failed
        if batch is None:
            return batches, failures
        batches.append(batch)


def test_batches_are_full_across_runs_and_the_tail_waits_for_the_flush(tmp_path: Path, opened: Opened) -> None:
    keys = make_views(tmp_path, [GOOD] * 11)
    ahead = opened(4)
    assert not ahead.reading and ahead.next_batch() == (None, [])
    ahead.add(0, keys[:3])
    assert ahead.reading
    assert ahead.next_batch() == (None, [])
    assert not ahead.reading and ahead.waiting
    ahead.add(3, keys[3:9])
    assert [batch.views for batch in drain(ahead)[0]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    ahead.add(9, keys[9:])
    ahead.flush()
    batches, failures = drain(ahead)
    assert batches == [Batch([8, 9, 10], [good(8), good(9), good(10)], [False] * 3)] and failures == []
    assert not ahead.reading and ahead.next_batch() == (None, [])


def test_files_that_store_color_are_told_with_their_batch(tmp_path: Path, opened: Opened) -> None:
    ahead = opened(3)
    keys = make_views(tmp_path, [GOOD] * 8)
    for view in (1, 3, 5, 7):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{view}.png")
    ahead.add(10, keys)
    ahead.flush()
    batches = [ahead.next_batch()[0] for _ in range(3)]
    assert [batch and batch.color for batch in batches] == [[False, True, False], [True, False, True], [False, True]]


def test_a_run_behind_the_flush_makes_its_tail_wait_again(tmp_path: Path, opened: Opened) -> None:
    keys = make_views(tmp_path, [GOOD] * 7)
    ahead = opened(4)
    ahead.add(0, keys[:2])
    ahead.flush()
    ahead.add(2, keys[2:5])
    assert [batch.views for batch in drain(ahead)[0]] == [[0, 1, 2, 3]]
    ahead.add(5, keys[5:])
    ahead.flush()
    assert [batch.views for batch in drain(ahead)[0]] == [[4, 5, 6]]


@pytest.mark.parametrize("code", BAD)
def test_a_view_that_cannot_be_read_is_a_failure_with_stage_and_code(tmp_path: Path, opened: Opened, code: str) -> None:
    ahead = opened(2)
    ahead.add(40, make_views(tmp_path, [GOOD, code, GOOD]))
    ahead.flush()
    batches, (failure,) = drain(ahead)
    assert batches == [Batch([40, 42], [good(0), good(2)], [False] * 2)]
    assert (failure.view, failure.stage, failure.code) == (41, STAGES.get(code, "read"), code)
    assert failure.message and str(tmp_path) not in failure.message


def test_a_run_of_nothing_but_failures_gives_no_batch(tmp_path: Path, opened: Opened) -> None:
    ahead = opened(3)
    ahead.add(0, make_views(tmp_path, ["ENOENT", "EMPTY"] * 20))
    ahead.flush()
    batches, failures = drain(ahead)
    assert batches == [] and not ahead.reading
    assert [failure.view for failure in failures] == list(range(40))
    assert [failure.code for failure in failures] == ["ENOENT", "EMPTY"] * 20


@pytest.mark.parametrize("batch", [1, 3, MAX_CHUNK, 3 * MAX_CHUNK + 1])
def test_nothing_is_lost_doubled_or_out_of_order_in_random_runs(tmp_path: Path, opened: Opened, batch: int) -> None:
    rng = random.Random(batch)
    kinds = [rng.choice(list(BAD)) if rng.random() < 0.25 else GOOD for _ in range(400)]
    keys = make_views(tmp_path, kinds)
    ahead = opened(batch)
    batches: list[Batch] = []
    failures: list[Failure] = []
    at = 0
    while at < len(keys):
        stop = min(at + rng.choice([1, 2, 15, 16, 17, 90]), len(keys))
        ahead.add(at, keys[at:stop])
        if stop == len(keys):
            ahead.flush()
        at = stop
        for _ in range(rng.randrange(4)):  # not always drained before the next run comes
            one, failed = ahead.next_batch()
            failures += failed
            batches += [one] if one else []
    rest, failed = drain(ahead)
    batches, failures = batches + rest, failures + failed
    scored = [view for one in batches for view in one.views]
    assert scored == [view for view, kind in enumerate(kinds) if kind == GOOD]
    assert [file for one in batches for file in one.files] == [good(view) for view in scored]
    assert [(failure.view, failure.code) for failure in failures] == [
        (view, kind) for view, kind in enumerate(kinds) if kind != GOOD
    ]
    assert {len(one.views) for one in batches[:-1]} == {batch} and 0 < len(batches[-1].views) <= batch


def test_close_drops_what_is_not_read_and_ends_the_threads(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    ahead = ReadAhead(2, FolderSource(str(tmp_path)))
    ahead.add(0, make_views(tmp_path, [GOOD] * 50))
    ahead.flush()
    threads = set(threading.enumerate()) - before
    assert threads
    ahead.close()
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()


class Gate:
    """A reader of which nothing comes until it is opened; it notes how many read at once."""

    threads = 3
    moved_at = 0.0
    away = ""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.readers: set[int] = set()

    def read(self, reference: Reference) -> bytes:
        self.readers.add(threading.get_ident())
        self.opened.wait(120)  # or a test that fails would leave threads that never end
        if reference == (1,):
            raise Unreadable("GONE", "away")
        return good(0)


def test_the_slowest_read_is_known_while_it_lasts() -> None:
    gate = Gate()
    ahead = ReadAhead(2, gate)
    assert ahead.slowest_read() == 0
    started = time.monotonic()
    ahead.add(0, [(number,) for number in range(20)])
    ahead.flush()
    wait_for(lambda: bool(gate.readers))
    seen = time.monotonic()
    wait_for(lambda: ahead.slowest_read() > 0.25)
    waited = time.monotonic() - seen
    assert waited <= ahead.slowest_read() <= time.monotonic() - started
    gate.moved_at = moved = time.monotonic()  # as a stream does that passes over much
    assert ahead.slowest_read() <= time.monotonic() - moved
    gate.opened.set()
    batches, failures = drain(ahead)
    assert [view for batch in batches for view in batch.views] == [0, *range(2, 20)]
    assert [(failure.view, failure.stage, failure.code) for failure in failures] == [(1, "read", "GONE")]
    assert ahead.slowest_read() == 0 and len(gate.readers) <= gate.threads
    ahead.close()


def test_one_thread_reads_where_half_of_what_may_be_ahead_is_there_and_all_where_it_is_not() -> None:
    gate = Gate()
    gate.opened.set()
    ahead = ReadAhead(3 * MAX_CHUNK, gate)
    taken = []

    def all_read() -> bool:
        with ahead._room:  # or a thread might be between one chunk and the next
            return ahead._busy == 0

    try:
        ahead.add(0, [(number,) for number in range(2, 2 + 28 * MAX_CHUNK)])
        wait_for(all_read)
        assert len(ahead._reading) == Gate.threads + 2 * 3  # chunks: one a thread, and those of two batches
        gate.opened.clear()
        gate.readers.clear()
        for threads in (1, Gate.threads):  # of nine chunks six are there, then three
            batch, _ = ahead.next_batch()
            assert batch
            taken += batch.views
            wait_for(lambda: len(gate.readers) >= threads)  # noqa: B023  called within the turn
            time.sleep(0.1)  # in which one more would come
            assert len(gate.readers) == threads
        gate.opened.set()
        ahead.flush()
        taken += [view for batch in drain(ahead)[0] for view in batch.views]
        assert taken == list(range(28 * MAX_CHUNK))
    finally:  # or a test that fails would leave threads that wait
        gate.opened.set()
        ahead.close()


def test_all_threads_read_at_the_start_and_none_goes_on_behind_the_end() -> None:
    class Many(Gate):
        threads = 8  # what these read alone is more than half of what may be ahead

    gate = Many()
    ahead = ReadAhead(MAX_CHUNK, gate)
    ending = threading.Thread(target=ahead.close)
    try:
        ahead.add(0, [(number,) for number in range(2, 2 + 28 * MAX_CHUNK)])
        wait_for(lambda: len(gate.readers) == Many.threads)
        chunks = [chunk for _, chunk in ahead._reading]
        ending.start()
        wait_for(lambda: ahead._closed)
    finally:
        gate.opened.set()
        ahead.close()
    ending.join()
    assert len(chunks) == Many.threads == len(ahead._reading)
    assert all(len(chunk.result()) == MAX_CHUNK for chunk in chunks)


def test_bytes_bound_what_is_read_ahead_and_all_comes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mura_trt.readahead.MAX_HELD", 20 * len(good(0)))
    taken: list[Reference] = []

    class Noted(Gate):
        def read(self, reference: Reference) -> bytes:
            taken.append(reference)
            return good(0)

    ahead = ReadAhead(160, Noted())
    ahead.add(0, [(number,) for number in range(800)])
    ahead.flush()
    wait_for(lambda: ahead._held >= 20 * len(good(0)))
    time.sleep(0.1)  # in which whoever reads on would read much
    assert 20 <= len(taken) <= 20 + Noted.threads
    batches, failures = drain(ahead)  # whose batches are larger than what may be held
    assert [view for batch in batches for view in batch.views] == list(range(800)) and failures == []
    assert ahead._held == 0
    ahead.add(0, [(number,) for number in range(800)])
    wait_for(lambda: ahead._held >= 20 * len(good(0)))
    ahead.close()


def test_bytes_fill_a_batch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mura_trt.readahead.MAX_BATCH_BYTES", 5 * len(good(0)))
    gate = Gate()
    gate.opened.set()
    ahead = ReadAhead(64, gate)
    ahead.add(0, [(number,) for number in range(2, 102)])
    ahead.flush()
    batches, _ = drain(ahead)
    assert [view for batch in batches for view in batch.views] == list(range(100))
    assert max(len(batch.views) for batch in batches) <= MAX_CHUNK and ahead._ready_bytes == ahead._held == 0
    ahead.close()


def test_an_archive_that_is_read_in_order_is_read_by_one_thread_in_order() -> None:
    class InOrder(Gate):
        threads = 1

        def read(self, reference: Reference) -> bytes:
            seen.append(reference)
            return super().read(reference)

    seen: list[Reference] = []
    gate = InOrder()
    gate.opened.set()
    ahead = ReadAhead(3, gate)
    ahead.add(0, [(number,) for number in range(5, 200)])
    ahead.flush()
    drain(ahead)
    assert seen == [(number,) for number in range(5, 200)] and len(gate.readers) == 1
    ahead.close()

"""Shards that survive, tables made from them, and a folder that one run holds at a time."""

from __future__ import annotations

import csv
import gc
import json
import math
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from mura_trt import results
from mura_trt import tables as tables_module
from mura_trt.archives.folder import FolderSource
from mura_trt.archives.keys import display
from mura_trt.archives.listing import Listing
from mura_trt.errors import EnvironmentProblem, UsageError
from mura_trt.recipe import note_recipe
from mura_trt.results import Existing, Outcome, OutputFolder
from mura_trt.rows import Failure, Rows, scores_of

STUDIES = {
    "valid/XR_WRIST/patient1/study1_positive": 3,
    "valid/XR_HAND/patient1/study1_negative": 2,
    'odd, "quoted"\nname': 1,
    "valid/XR_ELBOW/patient2/study1": 4,
    "lost": 2,
}
LOST = {1: "read", 6: "decode", 10: "screen", 11: "worker"}


def listing_of(studies: dict[str, int]) -> Listing:
    views = [f"{study}/image{k}.png".encode() for study, count in studies.items() for k in range(count)]
    numbers = [number for number, count in enumerate(studies.values()) for _ in range(count)]
    return Listing(
        FolderSource("/"),
        pa.array(views, pa.large_binary()),
        np.array(numbers, np.int32),
        pa.array([study.encode() for study in studies], pa.large_binary()),
    )


LISTING = listing_of(STUDIES)


def scores(count: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    logit = np.random.default_rng(seed).normal(0, 3, count).astype(np.float32)
    return logit, (1 / (1 + np.exp(-logit.astype(np.float64)))).astype(np.float32)


def rows_of(start: int, stop: int, lost: dict[int, str] = LOST) -> Rows:
    views = np.array([view for view in range(start, stop) if view not in lost], np.int64)
    logit, probability = (values[views] for values in scores(stop))
    failures = [Failure(view, lost[view], "CODE", f'why, "{view}"') for view in range(start, stop) if view in lost]
    return Rows(start, stop, views, scores_of(logit, probability), failures)


def outcome_of(listing: Listing, lost: dict[int, str] = LOST) -> Outcome:
    logit, probability = scores(len(listing))
    logit[list(lost)] = probability[list(lost)] = np.nan
    return Outcome(logit, probability, np.zeros(len(listing), bool), rows_of(0, len(listing), lost).failures)


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.fixture
def out(tmp_path: Path) -> Iterator[OutputFolder]:
    folder = OutputFolder(tmp_path / "out", Existing.REFUSE)
    yield folder
    folder.close()


# Shards


def test_committed_rows_come_back_exactly_and_in_order(out: OutputFolder) -> None:
    edges = np.array([0, -0.0, 1e-45, 3.4028235e38, 0.1, 1 / 3, math.pi, 1 - 2**-24], np.float32)
    maps = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
    scores = scores_of(edges, edges[::-1], np.arange(8) % 3 == 0, maps)
    first = Rows(0, 9, np.arange(8), scores, [Failure(8, "read", "ENOENT", 'a "b"\n\u00e9\udcff')])
    for rows in (rows_of(20, 30), first, rows_of(9, 20)):
        out.commit(rows)
    back = list(out.committed())
    assert [(rows.start, rows.stop) for rows in back] == [(0, 9), (9, 20), (20, 30)]
    for rows, expected in zip(back, [first, rows_of(9, 20), rows_of(20, 30)], strict=True):
        assert rows.views.tolist() == expected.views.tolist() and rows.views.dtype == np.int64
        assert rows.scores.dtype == expected.scores.dtype
        assert rows.scores.tobytes() == expected.scores.tobytes()
        assert rows.failures == expected.failures


def test_outcome_holds_every_view_by_its_number(out: OutputFolder) -> None:
    for start, stop in ((7, 12), (0, 7)):
        out.commit(rows_of(start, stop))
    outcome, expected = out.outcome(12), outcome_of(LISTING)
    np.testing.assert_array_equal(outcome.logit, expected.logit)
    np.testing.assert_array_equal(outcome.probability, expected.probability)
    assert [failure.view for failure in outcome.failures] == list(LOST)
    assert outcome.scored == 8


@pytest.mark.parametrize(
    ("shards", "views"),
    [
        ([(0, 4), (8, 12)], 12),
        ([(4, 12)], 12),
        ([(0, 8)], 12),
        ([], 12),
        ([(0, 8), (4, 12)], 12),
        ([(0, 8), (4, 8), (8, 12)], 12),
        ([(0, 4), (4, 12)], 8),
    ],
    ids=["gap", "no first", "no last", "none", "overlap", "doubled", "too many"],
)
def test_outcome_refuses_missing_doubled_and_short_shards(
    out: OutputFolder, shards: list[tuple[int, int]], views: int
) -> None:
    for start, stop in shards:
        out.commit(rows_of(start, stop, lost={}))
    with pytest.raises(EnvironmentProblem, match="run again") as caught:
        out.outcome(views)
    assert str(out.path) in str(caught.value)


def test_outcome_refuses_a_shard_whose_views_were_changed(out: OutputFolder) -> None:
    out.commit(rows_of(0, 4, lost={}))
    (path,) = (out.path / "shards").iterdir()
    path.write_bytes(path.read_bytes().replace(b"[0, 1, 2, 3]", b"[0, 1, 1, 3]"))
    with pytest.raises(EnvironmentProblem, match=r"json: damaged .*wrong SHA-256.*--resume"):
        out.outcome(4)


def spoiled(shard: bytes) -> dict[str, bytes]:
    head, body, _ = shard.split(b"\n")
    return {
        "empty": b"",
        "cut": shard[: len(shard) // 2],
        "cut at the line": head + b"\n",
        "a bit": shard.replace(b"0.", b"1.", 1),
        "another count": shard.replace(b'"failed": 1', b'"failed": 2'),
        "no hash": shard.replace(b"sha256", b"sha257"),
        "no object": b"[]\n" + body + b"\n",
        "another shard's": shard.replace(b'"start": 0, "stop": 4', b'"start": 4, "stop": 8'),
        "garbage": b"\xff" * 100 + b"\n" + body,
    }


@pytest.mark.parametrize("damage", sorted(spoiled(b"0.\nbody\n")))
def test_a_damaged_shard_is_refused_and_scored_anew_by_a_resumed_run(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = OutputFolder(tmp_path, Existing.REFUSE)
    note_recipe(tmp_path, {"runtime": "null"})
    for start in (0, 4, 8):
        first.commit(rows_of(start, start + 4, {1: "read"}))
    path = tmp_path / "shards" / "000000000000.json"
    path.write_bytes(spoiled(path.read_bytes())[damage])
    with pytest.raises(EnvironmentProblem, match=r"000000000000\.json: damaged .*--resume"):
        first.outcome(12)
    first.close()
    again = OutputFolder(tmp_path, Existing.RESUME)
    assert [rows.start for rows in again.take_up()] == [4, 8]
    assert "000000000000.json is damaged" in caplog.text and not path.exists()
    again.commit(rows_of(0, 4, {1: "read"}))
    assert again.outcome(12).scored == 11
    again.close()


def test_a_shard_under_another_name_is_not_counted_twice(out: OutputFolder) -> None:
    for start in (0, 4):
        out.commit(rows_of(start, start + 4, lost={}))
    shards = out.path / "shards"
    (shards / "000000000008.json").write_bytes((shards / "000000000004.json").read_bytes())
    assert [rows.start for rows in out.take_up()] == [0, 4]


def test_outcome_refuses_a_score_that_is_no_number(out: OutputFolder) -> None:
    out.commit(Rows(0, 2, np.arange(2), scores_of([0, 0], [0.5, np.nan])))
    with pytest.raises(EnvironmentProblem, match="run again"):
        out.outcome(2)


def test_a_leftover_part_file_does_no_harm(out: OutputFolder) -> None:
    for name in ("shards/.000000000000.json.part", ".studies.csv.part", ".run.json.part"):
        (out.path / name).write_bytes(b'{"start":')
    out.commit(rows_of(0, 12))
    assert out.outcome(12).scored == 8
    out.write_tables(LISTING, out.outcome(12), 0.5, "csv")
    out.write_run({})
    assert sorted(path.name for path in out.path.rglob("*.part")) == []
    assert len(read_csv(out.path / "studies.csv")) == 1 + len(STUDIES)


# Tables


def test_tables_have_their_columns_rows_and_order(out: OutputFolder) -> None:
    outcome = outcome_of(LISTING)
    assert out.write_tables(LISTING, outcome, 0.5, "csv") == len(STUDIES)
    names = [display(name.encode()) for name in STUDIES]
    of_view = [name for name, count in zip(names, STUDIES.values(), strict=True) for _ in range(count)]
    keys = [f"{name}/image{k}.png" for name, count in zip(names, STUDIES.values(), strict=True) for k in range(count)]

    header, *rows = read_csv(out.path / "studies.csv")
    assert header == ["study", "body_part", "views", "scored", "failed", "probability", "abnormal"]
    expected = []
    for name, part in zip(names, ["WRIST", "HAND", "", "ELBOW", ""], strict=True):
        numbers = [view for view, study in enumerate(of_view) if study == name]
        scored = [float(outcome.probability[view]) for view in numbers if view not in LOST]
        mean = sum(scored) / len(scored) if scored else None
        decision = ["", ""] if mean is None else [repr(mean), str(int(mean > 0.5))]
        expected.append([name, part, *map(str, (len(numbers), len(scored), len(numbers) - len(scored))), *decision])
    assert rows == expected
    assert {row[-1] for row in rows} == {"0", "1", ""} and rows[-1][-2:] == ["", ""]  # or the data would show little

    header, *rows = read_csv(out.path / "views.csv")
    assert header == ["view", "study", "logit", "probability", "color"]
    scored_views = [view for view in range(12) if view not in LOST]
    assert [row[:2] for row in rows] == [[keys[view], of_view[view]] for view in scored_views]
    assert [np.float32(row[2]) for row in rows] == outcome.logit[scored_views].tolist()
    assert [np.float32(row[3]) for row in rows] == outcome.probability[scored_views].tolist()

    header, *rows = read_csv(out.path / "failures.csv")
    assert header == ["view", "study", "stage", "code", "message"]
    assert rows == [[keys[view], of_view[view], stage, "CODE", f'why, "{view}"'] for view, stage in LOST.items()]


@pytest.mark.parametrize("name", ["a\rb", "a\r\nb", "a\nb", "a,b", 'a"b', " a ", "#a", "NA", "1", "é", "\\xff"])
def test_any_name_comes_back_from_csv(out: OutputFolder, name: str) -> None:
    listing = listing_of({name: 2})
    out.write_tables(listing, outcome_of(listing, {1: "read"}), 0.5, "csv")
    text = display(name.encode())
    assert [row[0] for row in read_csv(out.path / "studies.csv")] == ["study", text]
    assert [row[:2] for row in read_csv(out.path / "views.csv")] == [["view", "study"], [f"{text}/image0.png", text]]
    assert [row[1] for row in read_csv(out.path / "failures.csv")] == ["study", text]


@pytest.mark.parametrize("lost", [{}, dict.fromkeys(range(12), "read"), dict.fromkeys(range(5), "read"), LOST])
@pytest.mark.parametrize("rows_at_once", [1, 3, 5, 12])
def test_tables_written_in_parts_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_at_once: int, lost: dict[int, str]
) -> None:
    tables = {}
    for rows in (tables_module.ROWS_AT_ONCE, rows_at_once):
        for module in (results, tables_module):
            monkeypatch.setattr(module, "ROWS_AT_ONCE", rows)
        out = OutputFolder(tmp_path / str(rows), Existing.REFUSE)
        for table_format in tables_module.FORMATS:
            assert out.write_tables(LISTING, outcome_of(LISTING, lost), 0.5, table_format) == len(STUDIES)
        out.close()
        tables[rows] = {path.name: path.read_bytes() for path in out.path.glob("*.csv")}
        tables[rows] |= {
            path.name: pd.read_parquet(path).to_csv().encode() for path in sorted(out.path.glob("*.parquet"))
        }
    whole, parts = tables.values()
    assert len(whole) == 6
    assert parts == whole


@pytest.mark.parametrize("lost", [{}, LOST], ids=["no failure", "failures"])
def test_parquet_equals_csv(out: OutputFolder, lost: dict[int, str]) -> None:
    outcome = outcome_of(LISTING, lost)
    for table_format in tables_module.FORMATS:
        out.write_tables(LISTING, outcome, 0.5, table_format)
    floats = {"logit": np.float32, "probability": np.float32}
    for name in ("studies", "views", "failures"):
        table = pd.read_parquet(out.path / f"{name}.parquet")
        texts = dict.fromkeys(("study", "view", "body_part", "stage", "code", "message"), "str")
        dtypes: Any = {**texts, **(floats if name == "views" else {}), "abnormal": "Int8"}
        with (out.path / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            again = pd.read_csv(
                file, dtype=dtypes, keep_default_na=False, na_values={"probability": "", "abnormal": ""}
            )
        pd.testing.assert_frame_equal(
            table.astype({"abnormal": "Int8"}) if name == "studies" else table, again, check_dtype=len(again) > 0
        )
        assert pa.parquet.read_schema(out.path / f"{name}.parquet").names == list(again.columns)


# The folder


def finish(path: Path, table_format: str = "csv") -> None:
    """What a finished run leaves."""
    out = OutputFolder(path, Existing.REFUSE)
    out.commit(rows_of(0, 12))
    out.write_tables(LISTING, out.outcome(12), 0.5, table_format)
    out.write_run({"listed": 12})
    out.close()


def test_run_file_is_json_and_ends_in_a_line_break(tmp_path: Path) -> None:
    finish(tmp_path / "out")
    text = (tmp_path / "out/run.json").read_text()
    assert json.loads(text) == {"listed": 12} and text.endswith("}\n")


@pytest.mark.parametrize("gone", ["nothing", "run.json", "[rs]*.json", "shards/*"])
def test_results_are_refused_without_overwrite_and_left_alone(tmp_path: Path, gone: str) -> None:
    finish(tmp_path)
    if gone == "run.json":
        note_recipe(tmp_path, {"runtime": "null"})
    for path in tmp_path.glob(gone):
        path.unlink()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    state = "a run that has not ended; --resume goes on with it" if gone == "run.json" else "results"
    with pytest.raises(UsageError, match=rf"holds {state}; add --overwrite") as caught:
        OutputFolder(tmp_path, Existing.REFUSE)
    assert str(tmp_path) in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("table_format", ["csv", "parquet"])
def test_overwrite_removes_old_results_and_nothing_else(tmp_path: Path, table_format: str) -> None:
    finish(tmp_path, table_format)
    for name in ("worker.log", "mine.csv", "recipe.json"):
        (tmp_path / name).write_text("x")
    out = OutputFolder(tmp_path, Existing.REPLACE)
    out.close()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".lock") == ["mine.csv", "shards"]
    assert list((tmp_path / "shards").iterdir()) == []


def test_a_resumed_run_takes_up_what_is_there_and_is_unfinished_until_its_end(tmp_path: Path) -> None:
    finish(tmp_path)
    note_recipe(tmp_path, {"runtime": "null"})
    (tmp_path / "mine.csv").touch()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    out = OutputFolder(tmp_path, Existing.RESUME)
    assert out.recipe == {"runtime": "null"}
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert [(rows.start, rows.stop, len(rows.failures)) for rows in out.take_up()] == [(0, 12, 4)]
    out.close()
    # Tables of another format than this run's would outlive it and be believed.
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {".lock", "recipe.json", "shards/000000000000.json", "mine.csv"}


def test_where_there_is_no_run_a_resumed_one_begins(tmp_path: Path) -> None:
    out = OutputFolder(tmp_path / "new", Existing.RESUME)
    assert out.recipe == {} and list(out.take_up()) == []
    out.close()


def test_results_that_do_not_tell_how_they_came_to_be_are_not_gone_on_with(tmp_path: Path) -> None:
    finish(tmp_path)
    with pytest.raises(UsageError, match=r"no recipe\.json.*--overwrite"):
        OutputFolder(tmp_path, Existing.RESUME)
    for note in ("{", "[]", ""):
        (tmp_path / "recipe.json").write_text(note)
        with pytest.raises(UsageError, match=r"recipe\.json: does not tell how the run began .*--overwrite"):
            OutputFolder(tmp_path, Existing.RESUME)
    assert len(list((tmp_path / "shards").iterdir())) == 1


def test_overwrite_of_a_new_folder_is_fine(tmp_path: Path) -> None:
    out = OutputFolder(tmp_path / "a/b", Existing.REPLACE)
    out.commit(rows_of(0, 12))
    out.close()
    assert out.outcome(12).scored == 8


@pytest.mark.parametrize("existing", list(Existing))
def test_a_folder_in_use_is_refused_until_it_is_closed(tmp_path: Path, existing: Existing) -> None:
    first = OutputFolder(tmp_path, Existing.REFUSE)
    first.commit(rows_of(0, 12))
    with pytest.raises(UsageError, match=r"another run is writing there; wait") as caught:
        OutputFolder(tmp_path, existing)
    assert str(tmp_path) in str(caught.value)
    assert first.outcome(12).scored == 8
    first.close()
    OutputFolder(tmp_path, Existing.REPLACE).close()


def try_to_open(path: Path) -> str:
    try:
        OutputFolder(path, Existing.REPLACE).close()
    except UsageError as error:
        return str(error)
    return "opened"


def test_a_folder_in_use_is_refused_in_another_process(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        out = OutputFolder(tmp_path, Existing.REFUSE)
        assert "another run" in pool.apply(try_to_open, (tmp_path,))
        out.close()
        assert pool.apply(try_to_open, (tmp_path,)) == "opened"
        pool.close()
        pool.join()


def test_a_refused_opening_gives_the_lock_back_at_once(tmp_path: Path) -> None:
    finish(tmp_path)
    with pytest.raises(UsageError, match="--overwrite") as caught:
        OutputFolder(tmp_path, Existing.REFUSE)
    OutputFolder(tmp_path, Existing.REPLACE).close()  # while the error is still held
    del caught
    gc.collect()  # a file left open would warn here


@pytest.mark.parametrize("at", ["file", "file/below"])
def test_what_cannot_be_a_folder_is_refused(tmp_path: Path, at: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match=rf"{at}: cannot be an output folder: (File exists|Not a directory)"):
        OutputFolder(tmp_path / at, Existing.REPLACE)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("table_format", ["csv", "parquet"])
def test_a_write_error_leaves_no_half_table(
    out: OutputFolder, monkeypatch: pytest.MonkeyPatch, table_format: str
) -> None:
    out.write_tables(LISTING, outcome_of(LISTING, {}), 0.5, table_format)
    before = {path.name: path.read_bytes() for path in out.path.glob(f"*.{table_format}")}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(EnvironmentProblem, match=r"No space.*make room, then run again with --resume") as caught:
        out.write_tables(LISTING, outcome_of(LISTING), 0.5, table_format)
    assert str(out.path) in str(caught.value)
    with pytest.raises(EnvironmentProblem, match="make room"):
        out.commit(rows_of(0, 4))
    with pytest.raises(EnvironmentProblem, match="make room"):
        out.write_run({})
    monkeypatch.undo()
    assert list(out.committed()) == [] and not (out.path / "run.json").exists()
    assert {path.name: path.read_bytes() for path in out.path.glob(f"*.{table_format}")} == before
    assert list(out.path.glob(".*.part")) == []

"""Whole runs, with real processes: what goes in comes out once, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pytest

from mura_trt.archive import FolderSource, Listing, list_archive
from mura_trt.bundle import Bundle
from mura_trt.errors import BundleError, EnvironmentProblem, RuntimeUnavailable, UsageError
from mura_trt.results import OutputFolder
from mura_trt.score import Progress, ScoreOptions, WorkerProcess, score
from mura_trt.worker import WorkerConfig


def run_null(archive: Path, bundle: Bundle, out: Path, **options: object) -> dict[str, object]:
    return score(ScoreOptions(archive, bundle.folder, out, runtime="null", **options))  # type: ignore[arg-type]


def tables(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.csv"))}


@pytest.fixture(scope="module")
def clean(archive: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the archive with ``null``."""
    out = tmp_path_factory.mktemp("clean") / "out"
    run_null(archive, bundle, out)
    return out


def test_every_view_and_study_comes_out_once(clean: Path, archive: Path) -> None:
    expected = sorted(str(path.relative_to(archive)) for path in archive.rglob("*.png"))
    views, studies = pd.read_csv(clean / "views.csv"), pd.read_csv(clean / "studies.csv")
    assert sorted(views["view"]) == expected
    assert list(views.columns) == ["view", "study", "logit", "probability"]
    assert list(studies.columns) == ["study", "body_part", "views", "scored", "failed", "probability", "abnormal"]
    assert studies["views"].sum() == len(expected)
    assert (studies["scored"] == studies["views"]).all()
    means = views.groupby("study")["probability"].mean()
    assert (studies.set_index("study")["probability"] - means).abs().max() < 1e-6
    assert (studies["abnormal"] == (studies["probability"] > 0.5)).all()
    assert (clean / "failures.csv").read_text() == "view,study,stage,code,message\n"


def test_run_file_tells_what_was_done(clean: Path, bundle: Bundle) -> None:
    run = json.loads((clean / "run.json").read_text())
    assert run["bundle"]["sha256"] == bundle.sha256
    assert run["scored"] + run["failed"] == run["listed"] > 0
    assert run["runtime"] == "null"
    assert {"python", "mura_trt", "onnxruntime", "nvidia-dali-cuda130"} <= set(run["versions"])
    assert run["command"]
    assert run["views_per_s"] > 0
    assert run["wall_s"] >= run["stage_s"]["score"]
    assert run["exit_code"] == 0


def test_same_archive_gives_the_same_bytes(clean: Path, archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    """Also in another order on the disk, in other shards and batches."""
    paths = sorted(archive.rglob("*.png"))
    random.Random(1).shuffle(paths)
    for path in paths:
        target = tmp_path / "shuffled" / path.relative_to(archive)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    run_null(tmp_path / "shuffled", bundle, tmp_path / "out", shard_views=7, batch=5)
    assert tables(tmp_path / "out") == tables(clean)


def test_engine_gives_the_same_bytes_twice(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    part = shutil.copytree(archive / "valid" / "XR_WRIST", tmp_path / "archive" / "XR_WRIST")
    assert len(list(part.rglob("*.png"))) > 8
    for name, batch in (("a", None), ("b", 3)):
        score(ScoreOptions(tmp_path / "archive", bundle.folder, tmp_path / name, runtime="auto", batch=batch))
    assert tables(tmp_path / "a") == tables(tmp_path / "b")


def test_list_scores_as_its_folder_does(clean: Path, archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    run_null(archive / "valid_image_paths.csv", bundle, tmp_path / "out")
    expected, listed = (pd.read_csv(out / "views.csv") for out in (clean, tmp_path / "out"))
    listed["view"] = listed["view"].str.removeprefix("archive/")
    merged = expected.merge(listed, on="view")
    assert len(merged) == len(expected)
    assert (merged["probability_x"] == merged["probability_y"]).all()


def spoil(archive: Path) -> dict[str, str]:
    """Spoils some views in every way; returns the expected code of each."""
    views = sorted(archive.rglob("*.png"))
    data = views[0].read_bytes()
    damage: dict[Path, tuple[bytes, str]] = {
        views[3]: (b"", "EMPTY"),
        views[4]: (b"hello", "NOT_AN_IMAGE"),
        views[11]: (b"GIF89a" + b"\0" * 50, "UNSUPPORTED_FORMAT"),
        views[12]: (data[: len(data) // 2], "TRUNCATED"),
        views[13]: (data[:200] + bytes([data[200] ^ 1]) + data[201:], "CORRUPT"),
        views[-1]: (png_with_a_cut_stream(data), "UNDECODABLE"),
    }
    for path, (content, _) in damage.items():
        path.write_bytes(content)
    views[20].unlink()
    views[20].symlink_to(archive / "gone.png")
    codes = {path: code for path, (_, code) in damage.items()} | {views[20]: "ENOENT"}
    return {str(path.relative_to(archive)): code for path, code in codes.items()}


def png_with_a_cut_stream(data: bytes) -> bytes:
    """A PNG whose chunks are whole and whose pixels end early: the screen passes it, no decoder does."""
    import struct
    import zlib

    at = data.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">I", data, at)
    body = b"IDAT" + data[at + 8 : at + 8 + length][: length // 3]
    end = b"\0\0\0\0IEND\xaeB`\x82"
    return data[:at] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + end


def test_bad_files_are_named_and_cost_no_other_file_anything(
    copied: Path, clean: Path, bundle: Bundle, tmp_path: Path
) -> None:
    expected = spoil(copied)
    run = run_null(copied, bundle, tmp_path / "out", shard_views=16, batch=8)
    failures = pd.read_csv(tmp_path / "out" / "failures.csv").set_index("view")
    assert dict(failures["code"]) == expected
    assert failures["message"].notna().all()
    views = pd.read_csv(tmp_path / "out" / "views.csv").set_index("view")
    untouched = pd.read_csv(clean / "views.csv").set_index("view")
    assert set(views.index) | set(expected) == set(untouched.index)
    pd.testing.assert_series_equal(views["probability"], untouched["probability"][views.index])
    studies = pd.read_csv(tmp_path / "out" / "studies.csv").set_index("study")
    assert studies["failed"].sum() == run["failed"] == len(expected)
    assert (studies["scored"] + studies["failed"] == studies["views"]).all()
    assert run["exit_code"] == 3
    assert run["worker_deaths"] == 0


def test_study_with_nothing_scored_is_listed_without_decision(bundle: Bundle, archive: Path, tmp_path: Path) -> None:
    good = tmp_path / "archive" / "a" / "x.png"
    bad = tmp_path / "archive" / "b" / "y.png"
    for path in (good, bad):
        path.parent.mkdir(parents=True)
    shutil.copyfile(next(archive.rglob("*.png")), good)
    bad.write_bytes(b"no image")
    run_null(tmp_path / "archive", bundle, tmp_path / "out")
    rows = (tmp_path / "out" / "studies.csv").read_text().splitlines()
    assert rows[1].startswith("a,,1,1,0,0.")
    assert rows[2] == "b,,1,0,1,,"


def test_parquet_holds_what_csv_holds(clean: Path, archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    run_null(archive, bundle, tmp_path / "out", table_format="parquet")
    for name in ("studies", "views"):
        csv, parquet = pd.read_csv(clean / f"{name}.csv"), pd.read_parquet(tmp_path / "out" / f"{name}.parquet")
        pd.testing.assert_frame_equal(csv, parquet, check_dtype=False, rtol=1e-6)


def test_threshold_is_strict(clean: Path, archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    studies = pd.read_csv(clean / "studies.csv").set_index("study")
    at = float(studies["probability"].iloc[0])
    run_null(archive, bundle, tmp_path / "out", threshold=at)
    again = pd.read_csv(tmp_path / "out" / "studies.csv").set_index("study")
    assert again["abnormal"].iloc[0] == 0
    assert (again["abnormal"] == (studies["probability"] > at)).all()


def test_results_are_not_replaced_unasked(copied: Path, bundle: Bundle, tmp_path: Path) -> None:
    run_null(copied, bundle, tmp_path / "out")
    before = tables(tmp_path / "out")
    with pytest.raises(UsageError, match="--overwrite"):
        run_null(copied, bundle, tmp_path / "out")
    assert tables(tmp_path / "out") == before
    next(copied.rglob("*.png")).unlink()
    run = run_null(copied, bundle, tmp_path / "out", overwrite=True)
    assert len(pd.read_csv(tmp_path / "out" / "views.csv")) == run["listed"]


def test_files_of_an_unread_format_beside_views_are_told(
    copied: Path, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copied / "scan.DCM").touch()
    run_null(copied, bundle, tmp_path / "out")
    assert "not scored: 1 .dcm" in caplog.text


def test_second_run_into_a_folder_in_use_is_refused(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    held = OutputFolder(tmp_path / "out", overwrite=False)
    with pytest.raises(UsageError, match="another run"):
        run_null(archive, bundle, tmp_path / "out")
    held.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "cuda"}, "--runtime cuda"),
        ({"table_format": "xlsx"}, "--format xlsx"),
        ({"batch": 0}, "--batch 0"),
        ({"shard_views": 0}, "--shard-views 0"),
        ({"threshold": 1.5}, "--threshold 1.5"),
        ({"runtime": "torch", "null_ms": 3.0}, "--null-ms"),
    ],
)
def test_wrong_option_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ScoreOptions(Path("a"), Path("e"), Path("o"), **options)  # type: ignore[arg-type]


def test_what_cannot_work_leaves_no_results(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no engine bundle"):
        score(ScoreOptions(archive, tmp_path / "nowhere", tmp_path / "out"))
    with pytest.raises(UsageError, match="no such folder"):
        score(ScoreOptions(tmp_path / "nowhere", bundle.folder, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="output folder"):
        run_null(archive, bundle, tmp_path / "file")


def test_runtime_that_cannot_work_says_why(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("tells what happens where there is no GPU")
    with pytest.raises(RuntimeUnavailable, match="no GPU"):
        score(ScoreOptions(archive, bundle.folder, tmp_path / "out", runtime="tensorrt_rtx"))


def the_worker() -> psutil.Process:
    """The worker of this process: its child that runs multiprocessing's spawn entry."""
    (worker,) = (
        child for child in psutil.Process().children() if any("spawn_main" in part for part in child.cmdline())
    )
    return worker


def killing(times: int) -> Callable[[Progress], None]:
    """A reporter that kills the worker at the first so many commits."""
    killed: list[int] = []

    def report(progress: Progress) -> None:
        committed = progress.scored + progress.failed
        if committed > (killed[-1] if killed else 0) and len(killed) < times:
            killed.append(committed)
            the_worker().kill()

    return report


def test_killed_worker_is_replaced_and_nothing_is_lost_or_doubled(
    clean: Path, archive: Path, bundle: Bundle, tmp_path: Path
) -> None:
    options = ScoreOptions(
        archive, bundle.folder, tmp_path / "out", runtime="null", shard_views=10, batch=4, null_ms=20
    )
    run = score(options, killing(2))
    assert run["worker_deaths"] == 2
    assert tables(tmp_path / "out") == tables(clean)


@dataclass(frozen=True)
class DeadlySource(FolderSource):
    """Kills the process that reads one of its deadly views, as a decoder that crashes would."""

    deadly: frozenset[bytes]

    def read(self, key: bytes) -> bytes:
        if key in self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(key)


def test_views_that_kill_the_worker_are_named_and_cost_no_other_view_anything(
    clean: Path, archive: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = list_archive(archive).keys(0, 10**6)
    deadly = frozenset(keys[20:24])

    def list_deadly(*arguments: object, **options: object) -> Listing:
        listing = list_archive(archive)
        return dataclasses.replace(listing, source=DeadlySource(listing.source.root, deadly))

    monkeypatch.setattr("mura_trt.score.list_archive", list_deadly)
    run = run_null(archive, bundle, tmp_path / "out", shard_views=16, batch=4)
    failures = pd.read_csv(tmp_path / "out" / "failures.csv").set_index("view")
    assert set(failures.index) == {key.decode() for key in deadly}
    assert set(failures["code"]) == {"WORKER_DIED"}
    views = pd.read_csv(tmp_path / "out" / "views.csv").set_index("view")
    untouched = pd.read_csv(clean / "views.csv").set_index("view").drop(failures.index)
    pd.testing.assert_frame_equal(views, untouched)
    assert run["worker_deaths"] == 2 + len(deadly)


def test_replacement_works_as_the_first_did(bundle: Bundle, tmp_path: Path) -> None:
    """The first was free to choose its runtime; a second choice could mix rows of two."""
    with WorkerProcess(WorkerConfig(bundle, "auto", None, 0.0, tmp_path / "log")) as process:
        first = process.start()
        assert first is not None
        assert (process._config.runtime, process._config.batch) == (first.runtime, first.batch)
        the_worker().kill()
        assert process.receive() is None


def test_archive_of_almost_nothing_but_junk_comes_to_its_end(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    """Its good views never fill a batch, whatever the worker is given."""
    junk = tmp_path / "junk"
    junk.mkdir()
    shutil.copyfile(next(archive.rglob("*.png")), junk / "0000.png")
    for number in range(1, 1200):
        (junk / f"{number:04d}.png").write_bytes(b"junk")
    run = run_null(junk, bundle, tmp_path / "out")
    assert (run["scored"], run["failed"]) == (1, 1199)


def test_messages_larger_than_a_pipe_do_not_block_both_ends(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / ("long name " * 14)
    folder.mkdir()
    for number in range(9000):
        (folder / f"{number:05d}.png").touch()
    run = run_null(tmp_path, bundle, tmp_path / "out", shard_views=2048)
    assert run["failed"] == 9000


def test_files_that_no_run_wrote_are_left_alone(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "project" / "shards").mkdir(parents=True)
    (tmp_path / "project" / "shards" / "train-000.tar").touch()
    with pytest.raises(UsageError, match=r"train-000\.tar, which no run wrote"):
        run_null(archive, bundle, tmp_path / "project", overwrite=True)
    assert (tmp_path / "project" / "shards" / "train-000.tar").exists()
    listed = tmp_path / "lists" / "views.csv"
    listed.parent.mkdir()
    listed.write_text(f"{next(archive.rglob('*.png'))}\n")
    before = listed.read_bytes()
    with pytest.raises(UsageError, match="lies in the output folder"):
        run_null(listed, bundle, listed.parent, overwrite=True)
    assert listed.read_bytes() == before


def test_worker_that_cannot_start_is_an_error_with_its_words(
    archive: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia").mkdir()
    (tmp_path / "nvidia" / "__init__.py").write_text(
        "import os, sys\nprint('out of luck', file=sys.stderr, flush=True)\nos._exit(9)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)  # which a spawned process inherits
    with pytest.raises(EnvironmentProblem, match=r"died while starting \(exit code 9, .*worker.log: out of luck"):
        run_null(archive, bundle, tmp_path / "out")


def start_scoring(archive: Path, bundle: Bundle, out: Path) -> subprocess.Popen[bytes]:
    """``mura-trt score`` in a process of its own, slowed down, and under way when this returns."""
    command = [sys.executable, "-m", "mura_trt", "score", str(archive), "--engine", str(bundle.folder), "-o", str(out)]
    slowed = ["--runtime", "null", "--null-ms", "200", "--batch", "4", "--shard-views", "8"]
    # A shell that runs the tests in the background has them ignore Ctrl-C, and children inherit that.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen([*command, *slowed])
    signal.signal(signal.SIGINT, handler)
    until = time.monotonic() + 60
    while not list((out / "shards").glob("*.json")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    return process


def wait_for_end(processes: list[psutil.Process]) -> None:
    gone, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive, f"still there: {alive}; gone: {gone}"


def test_worker_dies_with_its_supervisor_on_kill_9(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    process = start_scoring(archive, bundle, tmp_path / "out")
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for_end(children)
    assert not (tmp_path / "out" / "run.json").exists()
    assert not (tmp_path / "out" / "studies.csv").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_the_run_with_its_code(
    number: signal.Signals, code: int, archive: Path, bundle: Bundle, tmp_path: Path
) -> None:
    process = start_scoring(archive, bundle, tmp_path / "out")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    assert process.wait(timeout=20) == code
    wait_for_end(children)
    assert not (tmp_path / "out" / "run.json").exists()

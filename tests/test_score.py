"""Whole runs, with real processes: what goes in comes out once, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pytest
from PIL import Image

from mura_trt import score as score_module
from mura_trt.archives import list_archive
from mura_trt.archives.dicoms import HeaderIndex
from mura_trt.archives.folder import FolderSource
from mura_trt.archives.listing import Listing, Reference
from mura_trt.bench.sample import link_views
from mura_trt.bundle import Bundle
from mura_trt.cores import usable_cores
from mura_trt.crew import PATIENCE, SILENCE_SECONDS, Crew, Inbox, Lost
from mura_trt.cuda_devices import room
from mura_trt.errors import BundleError, EnvironmentProblem, RuntimeUnavailable, UsageError
from mura_trt.files import write_atomically
from mura_trt.places import Place
from mura_trt.progress import Progress
from mura_trt.results import Existing, OutputFolder
from mura_trt.rows import Task
from mura_trt.score import dry_run, score
from mura_trt.score_options import ScoreOptions
from mura_trt.supervisor import Supervisor
from mura_trt.worker import Assignment, WorkerConfig
from mura_trt.workerprocess import WorkerProcess
from tests.runs import start_scoring, tables


def run_null(archive: Path, bundle: Bundle, out: Path, **options: object) -> dict[str, object]:
    return score(ScoreOptions(archive, bundle.folder, out, runtime="null", **options))  # type: ignore[arg-type]


def test_every_view_and_study_comes_out_once(clean: Path, archive: Path) -> None:
    expected = sorted(str(path.relative_to(archive)) for path in archive.rglob("*.png"))
    views, studies = pd.read_csv(clean / "views.csv"), pd.read_csv(clean / "studies.csv")
    assert sorted(views["view"]) == expected
    assert list(views.columns) == ["view", "study", "logit", "probability", "color"]
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


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize(("runtime", "views"), [("null", 200), pytest.param("auto", 4000, marks=pytest.mark.gpu)])
def test_copies_of_a_file_get_one_score(
    runtime: str, views: int, suffix: str, archive: Path, bundle: Bundle, tmp_path: Path
) -> None:
    """Whatever goes before and beside them; on a GPU in batches at close quarters, by workers that share it."""
    for path in sorted(archive.rglob("*.png"))[:23]:
        copy = tmp_path / "files" / path.relative_to(archive).with_suffix(suffix)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.save(copy)
    link_views(tmp_path / "files", tmp_path / "many", views)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_module, "VIEWS_A_WORKER", 1000)
        run = score(ScoreOptions(tmp_path / "many", bundle.folder, tmp_path / "out", runtime=runtime))
    assert run["scored"] == views
    if runtime == "auto" and usable_cores() >= 4 and room() >= 20 << 30:
        assert len(run["workers"]) > 1
    scored = pd.read_csv(tmp_path / "out" / "views.csv")
    files = scored["view"].str.partition("/")[2]  # behind copyN/
    assert files.nunique() == 23
    assert (scored.groupby(files)["logit"].nunique() == 1).all()
    assert scored["logit"].nunique() > 20


@pytest.mark.parametrize(
    ("name", "runtime", "shared"),
    [
        ("archive", "auto", True),
        ("archive", "torch_fused", True),
        ("archive", "null", False),
        ("archive.tar", "auto", True),
        ("archive.tar.gz", "auto", False),
    ],
)
def test_a_gpu_is_shared_by_as_many_workers_as_the_views_are_worth(
    name: str, runtime: str, shared: bool, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive
    if name != "archive":
        path = tmp_path / name
        with tarfile.open(path, "w:gz" if name.endswith("gz") else "w") as tarred:
            tarred.add(archive, "archive")
    listing = list_archive(path)
    asked: list[tuple[str, int]] = []

    def places_of(devices: str, most: int = 1) -> list[Place]:
        asked.append((devices, most))
        return [Place()]

    monkeypatch.setattr(score_module, "places_of", places_of)
    monkeypatch.setattr(score_module, "VIEWS_A_WORKER", 7)
    options = ScoreOptions(path, tmp_path, tmp_path / "out", runtime=runtime)
    with score_module.workplace(options, listing, runtime, None) as (_, places):
        assert places == [Place()]
    assert asked == [("auto", len(listing) // 7 if shared else 1)]
    assert len(listing) // 7 > 1


def test_list_scores_as_its_folder_does(clean: Path, archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    run_null(archive / "valid_image_paths.csv", bundle, tmp_path / "out")
    expected, listed = (pd.read_csv(out / "views.csv") for out in (clean, tmp_path / "out"))
    listed["view"] = listed["view"].str.removeprefix("archive/")
    merged = expected.merge(listed, on="view")
    assert len(merged) == len(expected)
    assert (merged["probability_x"] == merged["probability_y"]).all()


def packed(archive: Path, path: Path) -> Path:
    """The archive's views as a zip or tar file, in the order in which the folder is read."""
    names = [os.fsdecode(key) for key in list_archive(archive).keys(0, 10**6)]
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zip_file:
            for name in names:
                zip_file.write(archive / name, name)
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar_file:
            for name in names:
                tar_file.add(archive / name, name)
    return path


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_packed_archive_gives_the_bytes_that_its_folder_gives(
    name: str, clean: Path, archive: Path, bundle: Bundle, tmp_path: Path
) -> None:
    path = packed(archive, tmp_path / name)
    options = ScoreOptions(path, bundle.folder, tmp_path / "out", runtime="null", shard_views=10, batch=4, null_ms=20)
    run = score(options, killing(1))  # so that a stream is read again from its beginning, too
    assert run["workers_lost"] == 1
    assert tables(tmp_path / "out") == tables(clean)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "out"]  # nothing is unpacked


def test_damaged_tar_ends_with_what_it_has_and_says_so(
    clean: Path, archive: Path, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = packed(archive, tmp_path / "a.tar")
    os.truncate(path, path.stat().st_size // 2)
    run = run_null(path, bundle, tmp_path / "out")
    assert run["exit_code"] == 3 and run["unlisted"] == 1
    assert "a.tar could not be listed to its end" in caplog.text
    whole = (clean / "views.csv").read_text().splitlines()
    part = (tmp_path / "out" / "views.csv").read_text().splitlines()
    assert 0.4 * len(whole) < len(part) < 0.6 * len(whole) and part == whole[: len(part)]


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
    assert run["workers_lost"] == 0


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
    (copied / "scan.TIF").touch()
    run_null(copied, bundle, tmp_path / "out")
    assert "not scored: 1 .tif" in caplog.text


def test_second_run_into_a_folder_in_use_is_refused(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    held = OutputFolder(tmp_path / "out", Existing.REFUSE)
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


def the_worker(others: Collection[psutil.Process]) -> psutil.Process:
    """The worker of this process: its child beside ``others`` that runs multiprocessing's spawn entry."""
    children = [child for child in psutil.Process().children() if child not in others]
    (worker,) = (child for child in children if any("spawn_main" in part for part in child.cmdline()))
    return worker


def killing(times: int) -> Callable[[Progress], None]:
    """A reporter that kills the worker at the first so many commits."""
    killed: list[int] = []
    others = psutil.Process().children()

    def report(progress: Progress) -> None:
        committed = progress.scored + progress.failed
        if committed > (killed[-1] if killed else 0) and len(killed) < times:
            killed.append(committed)
            the_worker(others).kill()

    return report


def test_killed_worker_is_replaced_and_nothing_is_lost_or_doubled(
    clean: Path, archive: Path, bundle: Bundle, tmp_path: Path
) -> None:
    options = ScoreOptions(
        archive, bundle.folder, tmp_path / "out", runtime="null", shard_views=10, batch=4, null_ms=20
    )
    run = score(options, killing(2))
    assert run["workers_lost"] == 2
    assert tables(tmp_path / "out") == tables(clean)


@dataclass(frozen=True)
class DeadlySource(FolderSource):
    """Kills the process that reads one of its deadly views, as a decoder that crashes would."""

    deadly: frozenset[bytes]

    def read(self, reference: Reference) -> bytes:
        if reference in self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(reference)


def test_views_that_kill_the_worker_are_named_and_cost_no_other_view_anything(
    clean: Path, archive: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = list_archive(archive).keys(0, 10**6)
    deadly = frozenset(keys[26:36])  # more in a row than losses that name nobody
    monkeypatch.setattr("mura_trt.supervisor.MAX_LOSSES_IN_A_ROW", 8)

    def list_deadly(*arguments: object, **options: object) -> Listing:
        listing = list_archive(archive)
        return dataclasses.replace(listing, source=DeadlySource(listing.source.root, deadly))

    monkeypatch.setattr("mura_trt.score.list_archive", list_deadly)
    run = run_null(archive, bundle, tmp_path / "out", shard_views=16, batch=4)
    failures = pd.read_csv(tmp_path / "out" / "failures.csv").set_index("view")
    assert set(failures.index) == {key.decode() for key in deadly}
    assert set(failures["code"]) == {"DECODER_CRASH"}
    views = pd.read_csv(tmp_path / "out" / "views.csv").set_index("view")
    untouched = pd.read_csv(clean / "views.csv").set_index("view").drop(failures.index)
    pd.testing.assert_frame_equal(views, untouched)
    assert run["workers_lost"] == 3 + len(deadly)


def test_replacement_works_as_the_first_did(bundle: Bundle, tmp_path: Path) -> None:
    """The first was free to choose its runtime; a second choice could mix rows of two."""
    hired: list[WorkerConfig] = []

    def hire(config: WorkerConfig, inbox: Inbox) -> WorkerProcess:
        hired.append(config)
        return WorkerProcess(config, inbox)

    config = WorkerConfig(bundle, FolderSource("/"), "auto", None, 0.0, tmp_path / "log")
    others = psutil.Process().children()
    with Crew(hire, config, [Place()]) as crew:
        first = crew.start()
        the_worker(others).kill()
        assert crew.receive() == (0, Lost())
        crew.stop(0, graceful=False)
        crew.launch(0)
        assert crew.receive() == (0, first._replace(passed_over=[]))
    assert [(config.runtime, config.batch) for config in hired] == [("auto", None), (first.runtime, first.batch)]


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


# --- going on ---


def resume(archive: Path, bundle: Bundle, out: Path, **options: object) -> dict[str, object]:
    """Goes on with a run of :func:`start_scoring`, at full speed."""
    return run_null(archive, bundle, out, resume=True, **options)


def shards_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "shards").glob("*.json")}


@pytest.mark.parametrize("victim", ["supervisor", "both"])
def test_after_kill_9_a_resumed_run_ends_in_the_same_bytes(
    victim: str, clean: Path, archive: Path, bundle: Bundle, tmp_path: Path
) -> None:
    process = start_scoring(archive, bundle, tmp_path / "out")
    family = psutil.Process(process.pid).children(recursive=True)
    if victim == "both":
        for child in family:
            child.kill()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for_end(family)
    committed = shards_of(tmp_path / "out")
    assert committed
    run = resume(archive, bundle, tmp_path / "out")
    assert run["resumed_views"] == sum(json.loads(shard.split(b"\n")[0])["scored"] for shard in committed.values())
    assert (run["batch"], run["shard_views"]) == (4, 8)  # as it began
    assert shards_of(tmp_path / "out").items() >= committed.items()
    assert tables(tmp_path / "out") == tables(clean)


@pytest.mark.parametrize(
    "lost",
    [pytest.param(False, id="all stay", marks=pytest.mark.slow), pytest.param(True, id="a worker is lost")],
)
def test_a_run_waits_for_an_archive_that_goes_away_and_comes_back(
    clean: Path, archive: Path, bundle: Bundle, tmp_path: Path, lost: bool
) -> None:
    root = shutil.copytree(archive, tmp_path / "archive")
    process = start_scoring(root, bundle, tmp_path / "out", stderr=subprocess.PIPE)
    root.rename(tmp_path / "elsewhere")
    time.sleep(3)
    if lost:  # who replaces it finds no archive
        family = psutil.Process(process.pid).children(recursive=True)
        for child in family:
            child.kill()
        wait_for_end(family)
        time.sleep(3)
    assert process.poll() is None
    (tmp_path / "elsewhere").rename(root)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told.decode()
    words = b"cannot be reached (No such file or directory); the worker process waits for it, 10 minutes at the most"
    assert told.count(words) == 1
    assert tables(tmp_path / "out") == tables(clean)


def test_an_interrupted_run_says_how_to_go_on_and_does(
    clean: Path, archive: Path, bundle: Bundle, tmp_path: Path
) -> None:
    process = start_scoring(archive, bundle, tmp_path / "out", stderr=subprocess.PIPE)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 143 and b"--resume goes on with it" in told
    resume(archive, bundle, tmp_path / "out")
    assert tables(tmp_path / "out") == tables(clean)


def test_a_finished_run_is_resumed_without_work(
    clean: Path, archive: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(clean, tmp_path / "out")
    (out / "run.json").unlink()
    (out / "views.csv").write_text("half a")

    def start(*_: object) -> None:
        raise AssertionError("no worker is needed")

    monkeypatch.setattr(WorkerProcess, "__init__", start)
    run = run_null(archive, bundle, out, resume=True, threshold=0.75)
    assert (run["resumed_views"], run["views_per_s"], run["exit_code"]) == (run["listed"], 0.0, 0)
    assert (out / "views.csv").read_bytes() == (clean / "views.csv").read_bytes()
    studies = pd.read_csv(out / "studies.csv")
    assert (studies["abnormal"] == (studies["probability"] > 0.75)).all()


def test_resume_begins_where_there_is_nothing_yet(clean: Path, archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    run = resume(archive, bundle, tmp_path / "out")
    assert run["resumed_views"] == 0
    assert tables(tmp_path / "out") == tables(clean)


def test_failed_views_are_tried_again_when_asked_and_only_they(
    copied: Path, clean: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = {path: path.read_bytes() for path in copied.rglob("*.png")}
    bad = spoil(copied)
    out = tmp_path / "out"
    run_null(copied, bundle, out, shard_views=8)
    run = resume(copied, bundle, out)  # which does not ask
    assert run["failed"] == len(bad) and len(pd.read_csv(out / "failures.csv")) == len(bad)
    assert run["resumed_views"] == run["listed"]
    for path, data in sound.items():
        path.unlink()
        path.write_bytes(data)
    handed: list[int] = []
    assignment = Supervisor._assignment

    def noted(supervisor: Supervisor, task: Task) -> Assignment:
        handed.extend(range(task.start, task.stop))
        return assignment(supervisor, task)

    monkeypatch.setattr(Supervisor, "_assignment", noted)
    keys = list_archive(copied).keys(0, 10**6)
    run = run_null(copied, bundle, out, retry_failed=True)
    assert {keys[view].decode() for view in handed} == set(bad) and len(handed) == len(bad)
    assert run["failed"] == 0 and run["exit_code"] == 0
    assert tables(out) == tables(clean)


def test_a_flat_folder_of_many_images_is_one_study_and_that_is_told(
    archive: Path, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(archive.rglob("*.png"))[:14]):
        shutil.copy(path, flat / f"{number}.png")
    for depth, studies in ((None, 1), (1, 14)):
        options = ScoreOptions(flat, bundle.folder, tmp_path / "out", study_depth=depth)
        assert len(score_module._opened(options, HeaderIndex())[1].studies) == studies
        assert ("all views are one study" in caplog.text) == (studies == 1)
        caplog.clear()
    listed = tmp_path / "list.csv"
    listed.write_text("view,study\n" + "".join(f"flat/{number}.png,mine\n" for number in range(14)))
    options = ScoreOptions(listed, bundle.folder, tmp_path / "out")
    assert len(score_module._opened(options, HeaderIndex())[1].studies) == 1
    assert "one study" not in caplog.text  # which was said to be one


def test_a_gpu_that_no_runtime_works_on_is_told(
    copied: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = Crew.start
    monkeypatch.setattr(Crew, "start", lambda crew: start(crew)._replace(passed_over=["tensorrt: not installed"]))
    for gpus in (0, 1):
        monkeypatch.setattr("mura_trt.score.cuda_device_count", lambda gpus=gpus: gpus)
        run_null(copied, bundle, tmp_path / str(gpus), shard_views=64)
        told = [record for record in caplog.records if "no runtime works on the GPU" in record.getMessage()]
        assert len(told) == gpus


def test_what_would_mix_two_runs_is_refused(copied: Path, bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_null(copied, bundle, out, batch=8)
    for options, told in (
        ({"runtime": "onnxruntime"}, "runtime null, now onnxruntime"),
        ({"batch": 9}, "batch 8, now 9"),
        ({"shard_views": 5}, "shard_views 256, now 5"),
    ):
        chosen = {"runtime": "auto", **options, "resume": True}
        with pytest.raises(UsageError, match=rf"the run began with {told}: give it what it began with"):
            score(ScoreOptions(copied, bundle.folder, out, **chosen))  # type: ignore[arg-type]
    moved = shutil.copytree(copied, tmp_path / "moved")
    with pytest.raises(UsageError, match=r"began with archive .*, now .*moved"):
        resume(moved, bundle, out)
    other = shutil.copytree(bundle.folder, tmp_path / "other")
    (other / "bundle.json").write_bytes(dataclasses.replace(bundle.manifest, name="other").to_json())
    with pytest.raises(UsageError, match="began with another bundle"):
        score(ScoreOptions(copied, other, out, resume=True))
    note = json.loads((out / "recipe.json").read_text())
    (out / "recipe.json").write_text(json.dumps(note | {"nvidia-dali-cuda130": "1.0"}))
    with pytest.raises(UsageError, match=r"began with nvidia-dali-cuda130 1\.0, now"):
        resume(copied, bundle, out)
    (out / "recipe.json").write_text(json.dumps(note))
    next(copied.rglob("*.png")).rename(copied / "moved.png")
    with pytest.raises(UsageError, match=r"began with other views in the archive \(--update"):
        resume(copied, bundle, out)
    assert (out / "run.json").exists()  # a run that was refused leaves the finished one as it is
    (out / "recipe.json").write_text('{"images": "of a training run"}')
    with pytest.raises(UsageError, match=r"recipe\.json is not a scoring run's"):
        resume(copied, bundle, out)
    (out / "recipe.json").write_text(json.dumps(note))
    (out / "run.json").unlink()
    with pytest.raises(UsageError, match=r"a run that has not ended; --resume goes on with it"):
        run_null(copied, bundle, out)


@pytest.mark.parametrize("option", ["resume", "retry_failed"])
def test_overwriting_and_going_on_exclude_each_other(option: str) -> None:
    with pytest.raises(UsageError, match="choose one"):
        ScoreOptions(Path("a"), Path("e"), Path("o"), overwrite=True, **{option: True})  # type: ignore[arg-type]


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    clean: Path, archive: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    written: list[Path] = []

    def full(path: Path, data: bytes) -> None:
        if len(written) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        write_atomically(path, data)

    with monkeypatch.context() as patch:
        patch.setattr("mura_trt.results.write_atomically", full)
        with pytest.raises(EnvironmentProblem, match=r"No space left.*make room, then run again with --resume"):
            run_null(archive, bundle, out, shard_views=8)
    assert len(shards_of(out)) == 5 and not (out / "run.json").exists()
    resume(archive, bundle, out)
    assert tables(out) == tables(clean)


# --- what it would do ---


@pytest.mark.parametrize("name", ["", "a.zip", "a.tar.gz"])
def test_a_dry_run_counts_predicts_and_writes_nothing(
    name: str, copied: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = sorted(copied.rglob("*.png"))
    views[3].rename(views[3].with_suffix(".JPG"))
    views[7].write_bytes(b"no image")
    (copied / "notes.doc").touch()
    path = packed(copied, tmp_path / name) if name else copied
    monkeypatch.setattr("mura_trt.score.SAMPLE_VIEWS", 4)
    monkeypatch.setattr("mura_trt.score.SAMPLE_GROWTH", 3)
    monkeypatch.setattr("mura_trt.score.ENOUGH_SECONDS", 1e6)  # whatever this machine takes, a sample took less
    found = dry_run(ScoreOptions(path, bundle.folder, tmp_path / "out", runtime="null", null_ms=50, batch=2))
    assert found["formats"] == {".png": len(views) - 1, ".jpg": 1}
    assert found["listed"] == len(views) and found["studies"] == len({view.parent for view in views})
    assert found["ignored_files"] == ({} if name else {".csv": 4, ".txt": 1, ".doc": 1})
    assert found["sampled"] == len(views) and found["sample_failed"] == 1  # too fast for a smaller sample
    assert found["predicted_s"] == round(len(views) / found["views_per_s"], 1)
    assert found["predicted_s"] > (len(views) - 1) / 2 * 0.05 - 0.1  # two views that can be scored take 50 ms
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_a_slow_engine_scores_a_few_views_of_all_the_archive(
    archive: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mura_trt.score.SAMPLE_VIEWS", 5)
    sampled: list[bytes] = []
    sample = Listing.sample

    def noted(listing: Listing, count: int) -> Listing:
        chosen = sample(listing, count)
        sampled.extend(chosen.keys(0, len(chosen)))
        return chosen

    monkeypatch.setattr(Listing, "sample", noted)
    options = ScoreOptions(archive, bundle.folder, tmp_path / "out", runtime="null", null_ms=1000, batch=1)
    found = dry_run(options)
    keys = list_archive(archive).keys(0, 10**6)
    assert found["sampled"] == len(sampled) == 5 and (sampled[0], sampled[-1]) == (keys[0], keys[-1])
    assert found["predicted_s"] == round(len(keys) / found["views_per_s"], 1) >= len(keys)  # a second each


def test_a_dry_run_of_what_kills_every_worker_says_that_there_is_no_telling(
    archive: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").mkdir()
    shutil.copyfile(next(archive.rglob("*.png")), tmp_path / "one" / "x.png")
    listing = list_archive(tmp_path / "one")
    source = DeadlySource(listing.source.root, frozenset({b"x.png"}))
    monkeypatch.setattr("mura_trt.score.list_archive", lambda *a, **o: dataclasses.replace(listing, source=source))
    found = dry_run(ScoreOptions(tmp_path / "one", bundle.folder, tmp_path / "out", runtime="null"))
    assert (found["sample_failed"], found["views_per_s"], found["predicted_s"]) == (1, 0.0, None)


# --- what hangs ---


@dataclass(frozen=True)
class HangingSource(FolderSource):
    """Never ends the read of one view, as a file server that went away; or stops the whole process at it."""

    hanging: bytes
    whole: bool

    def read(self, reference: Reference) -> bytes:
        if reference == self.hanging and self.whole:
            os.kill(os.getpid(), signal.SIGSTOP)
        elif reference == self.hanging:
            time.sleep(1e6)
        return super().read(reference)


@dataclass(frozen=True)
class SilentServer(FolderSource):
    """Answers nothing as long as a file is there, as a file server that is mounted to be waited for."""

    silent: str

    def read(self, reference: Reference) -> bytes:
        self._answer()
        return super().read(reference)

    def absence(self) -> str:
        self._answer()
        return super().absence()

    def _answer(self) -> None:
        while Path(self.silent).exists():
            time.sleep(0.05)


@pytest.mark.slow
def test_a_file_server_that_is_silent_for_a_while_costs_no_view_its_score(
    clean: Path,
    archive: Path,
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    silent, listing = tmp_path / "silent", list_archive(archive)
    source = SilentServer(listing.source.root, str(silent))
    monkeypatch.setattr("mura_trt.score.list_archive", lambda *a, **o: dataclasses.replace(listing, source=source))
    monkeypatch.setattr("mura_trt.crew.PATIENCE", {"read": 3.0})

    def be_silent() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and not shards_of(tmp_path / "out"):
            time.sleep(0.05)
        silent.touch()
        while time.monotonic() < until and "hangs: read" not in caplog.text:
            time.sleep(0.05)
        time.sleep(3)  # in which whoever replaces it would hang, too
        silent.unlink()

    thread = threading.Thread(target=be_silent)
    thread.start()
    run = run_null(archive, bundle, tmp_path / "out", shard_views=8, batch=4, null_ms=200)
    thread.join()
    assert run["workers_lost"] == 1  # whoever replaces it waits
    assert tables(tmp_path / "out") == tables(clean)


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True], ids=["a read", "the process"])
def test_what_hangs_is_told_tried_again_and_named(
    whole: bool,
    clean: Path,
    archive: Path,
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    listing = list_archive(archive)
    (hanging,) = listing.keys(20, 21)
    source = HangingSource(listing.source.root, hanging, whole)
    monkeypatch.setattr("mura_trt.score.list_archive", lambda *a, **o: dataclasses.replace(listing, source=source))
    monkeypatch.setattr("mura_trt.crew.PATIENCE", {"read": 3.0})
    monkeypatch.setattr("mura_trt.crew.SILENCE_SECONDS", 10.0)
    run = run_null(archive, bundle, tmp_path / "out", shard_views=16, batch=4)
    failures = pd.read_csv(tmp_path / "out" / "failures.csv")
    assert failures[["view", "stage", "code"]].to_numpy().tolist() == [[hanging.decode(), "worker", "STALLED"]]
    assert run["workers_lost"] == caplog.text.count("hangs: ") >= 3  # a slow machine may be silent for once
    views = pd.read_csv(tmp_path / "out" / "views.csv").set_index("view")
    pd.testing.assert_frame_equal(views, pd.read_csv(clean / "views.csv").set_index("view").drop(hanging.decode()))


def test_patience_is_below_a_minute_where_bytes_are_read_and_decoded() -> None:
    assert PATIENCE["read"] < 60 and PATIENCE["decode"] < 60 and SILENCE_SECONDS < 60
    assert PATIENCE["engine"] >= 600  # of a large batch on a slow engine

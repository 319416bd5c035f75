"""Runs on several devices, which are two shares of this machine's cores, with real processes."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from mura_trt.archives import list_archive
from mura_trt.archives.folder import FolderSource
from mura_trt.archives.listing import Reference
from mura_trt.bundle import Bundle
from mura_trt.cores import usable_cores
from mura_trt.errors import EnvironmentProblem, UsageError
from mura_trt.places import places_of
from mura_trt.progress import Progress
from mura_trt.score import score
from mura_trt.score_options import ScoreOptions
from mura_trt.supervisor import Supervisor
from mura_trt.workerprocess import WorkerProcess
from tests.cores import ALL
from tests.runs import start_scoring, tables

pytestmark = [
    pytest.mark.skipif(len(ALL) < 2, reason="two workers need two cores"),
    pytest.mark.usefixtures("all_cores"),
]

TWO = "cpu,cpu"


def run_null(archive: Path, bundle: Bundle, out: Path, **options: Any) -> dict[str, Any]:
    given = {"runtime": "null", "devices": TWO, **options}
    return score(ScoreOptions(archive, bundle.folder, out, **given))


def children() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if any("spawn_main" in part for part in one.cmdline())]


@pytest.mark.parametrize("options", [{"batch": 8}, {"shard_views": 7, "batch": 2, "null_ms": 20}])
def test_two_workers_give_the_bytes_of_one(
    options: dict[str, Any], clean: Path, archive: Path, bundle: Bundle, tmp_path: Path
) -> None:
    run = run_null(archive, bundle, tmp_path / "out", **options)
    assert tables(tmp_path / "out") == tables(clean)
    first, second = run["workers"]
    assert first["views"] > 0 and second["views"] > 0 and first["views"] + second["views"] == run["listed"]
    assert [one["place"] for one in run["workers"]] == [str(place) for place in places_of(TWO)]
    assert {(one["runtime"], one["device"], one["lost"], one["given_up"]) for one in run["workers"]} == {
        ("null", "cpu", 0, False)
    }
    total = sum(one["stage_s"]["decode"] for one in run["workers"])
    assert run["stage_s"]["worker_decode"] == pytest.approx(total, abs=0.02) and total > 0
    assert "devices" not in json.loads((tmp_path / "out" / "recipe.json").read_text())


def test_two_engines_on_a_core_each_give_the_bytes_of_one_on_two(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(archive / "valid" / "XR_WRIST", tmp_path / "archive" / "XR_WRIST")
    for devices in ("auto", TWO):
        run_null(tmp_path / "archive", bundle, tmp_path / devices, runtime="onnxruntime", devices=devices, batch=4)
    assert tables(tmp_path / TWO) == tables(tmp_path / "auto")


def test_workers_keep_to_their_own_cores(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    found: list[list[int]] = []
    others = children()

    def report(_: Progress) -> None:
        found.append([core for child in children() if child not in others for core in child.cpu_affinity()])

    options = ScoreOptions(archive, bundle.folder, tmp_path / "out", runtime="null", devices=TWO)
    before = os.sched_getaffinity(0)
    score(options, report)
    assert found and sorted(found[0]) == sorted(before)[: usable_cores()]
    assert os.sched_getaffinity(0) == before
    assert [path.name for path in sorted((tmp_path / "out").glob("worker*"))] == ["worker-1.log", "worker.log"]
    run_null(archive, bundle, tmp_path / "out", devices="cpu", overwrite=True)
    assert [path.name for path in (tmp_path / "out").glob("worker*")] == ["worker.log"]


@pytest.fixture
def supervisors(monkeypatch: pytest.MonkeyPatch) -> list[Supervisor]:
    """Of the runs that begin from here on."""
    begun: list[Supervisor] = []

    class Noted(Supervisor):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            begun.append(self)

    monkeypatch.setattr("mura_trt.score.Supervisor", Noted)
    return begun


@pytest.mark.parametrize(("kills", "copies"), [(3, 3), pytest.param(10, 14, marks=pytest.mark.slow)])
def test_kills_of_one_of_two_at_random_moments_change_no_byte(
    kills: int, copies: int, archive: Path, bundle: Bundle, tmp_path: Path, supervisors: list[Supervisor]
) -> None:
    for number in range(copies):
        shutil.copytree(archive / "valid", tmp_path / "archive" / str(number))
    run_null(tmp_path / "archive", bundle, tmp_path / "clean", devices="auto")
    rng = random.Random(7)
    killed: dict[int, int] = {}  # worker by process

    def report(_: Progress) -> None:
        crew, ledger = supervisors[-1]._crew, supervisors[-1]._ledger
        number = rng.randrange(2)
        handle, hand = crew._members[number].handle, ledger._hands[number]
        # A view that a worker is killed on twice, the second time alone, is taken for what killed it.
        if len(killed) < kills and rng.random() < 0.7 and handle and not hand.alone and not hand.suspects:
            assert isinstance(handle, WorkerProcess)
            process = handle._process
            if process.pid not in killed and process.pid is not None:
                killed[process.pid] = number
                process.kill()

    options = ScoreOptions(
        tmp_path / "archive",
        bundle.folder,
        tmp_path / "out",
        runtime="null",
        devices=TWO,
        shard_views=10,
        batch=4,
        null_ms=150,
    )
    run = score(options, report)
    assert len(killed) == run["workers_lost"] == kills
    assert tables(tmp_path / "out") == tables(tmp_path / "clean")


@dataclass(frozen=True)
class Cursed(FolderSource):
    """Kills, or freezes, the process that reads one of its views."""

    cursed: frozenset[bytes]
    number: int

    def read(self, reference: Reference) -> bytes:
        if reference in self.cursed:
            os.kill(os.getpid(), self.number)
        return super().read(reference)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGKILL, "DECODER_CRASH", id="kills"),
        pytest.param(signal.SIGSTOP, "STALLED", id="hangs", marks=pytest.mark.slow),
    ],
)
def test_a_view_that_costs_its_worker_is_the_only_failure(
    number: int,
    code: str,
    clean: Path,
    archive: Path,
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    supervisors: list[Supervisor],
) -> None:
    listing = list_archive(archive)
    (cursed,) = listing.keys(20, 21)
    source = Cursed(listing.source.root, frozenset({cursed}), number)
    monkeypatch.setattr("mura_trt.score.list_archive", lambda *a, **o: dataclasses.replace(listing, source=source))
    monkeypatch.setattr("mura_trt.crew.SILENCE_SECONDS", 10.0)
    before = children()
    run = run_null(archive, bundle, tmp_path / "out", shard_views=8, batch=4)
    failures = pd.read_csv(tmp_path / "out" / "failures.csv")
    assert failures[["view", "stage", "code"]].to_numpy().tolist() == [[cursed.decode(), "worker", code]]
    views = pd.read_csv(tmp_path / "out" / "views.csv").set_index("view")
    pd.testing.assert_frame_equal(views, pd.read_csv(clean / "views.csv").set_index("view").drop(cursed.decode()))
    assert 2 <= run["workers_lost"] <= (3 if code == "DECODER_CRASH" else 4)  # a slow machine may be silent for once
    assert set(children()) <= set(before)


@dataclass(frozen=True)
class LostPlace(FolderSource):
    """On one core, kills the process at its first read; whoever comes later finds nothing there."""

    core: int
    marks: Path
    last: bytes
    """A view whose read elsewhere takes until that has come out, so that a run does not end before."""

    def open(self) -> LostPlace:
        if self._here and (self.marks / "died").exists():
            (self.marks / "gone").touch()
            raise OSError("the device has fallen off the bus")
        return self

    def read(self, reference: Reference) -> bytes:
        if self._here:
            (self.marks / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if reference == self.last:
            while not (self.marks / "gone").exists():
                time.sleep(0.1)
            time.sleep(2)  # for the news to arrive
        return super().read(reference)

    @property
    def _here(self) -> bool:
        return self.core in os.sched_getaffinity(0)


@pytest.mark.parametrize("devices", [TWO, "cpu"])
def test_a_device_lost_for_good_ends_the_run_only_where_it_is_the_last(
    devices: str,
    clean: Path,
    archive: Path,
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    listing = list_archive(archive)
    core = max(max(place.cores or {0}) for place in places_of(TWO))
    (last,) = listing.keys(len(listing) - 1, len(listing))
    source = LostPlace(listing.source.root, core, tmp_path, last)
    monkeypatch.setattr("mura_trt.score.list_archive", lambda *a, **o: dataclasses.replace(listing, source=source))
    if devices == "cpu":
        with pytest.raises(EnvironmentProblem, match="fallen off the bus"):
            run_null(archive, bundle, tmp_path / "out", devices=devices)
        return
    run = run_null(archive, bundle, tmp_path / "out", shard_views=8, batch=4)
    assert [one["given_up"] for one in run["workers"]] == [False, True]
    assert [one["views"] for one in run["workers"]] == [run["listed"], 0]
    assert (
        f"CPU cores {core}: the worker cannot work: the device has fallen off the bus; the run goes on without it"
        in (caplog.text)
    )
    assert tables(tmp_path / "out") == tables(clean)


def test_a_device_whose_worker_cannot_start_ends_the_run_before_a_view_is_scored(
    archive: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = list_archive(archive)
    core = max(max(place.cores or {0}) for place in places_of(TWO))
    (tmp_path / "died").touch()
    (last,) = listing.keys(len(listing) - 1, len(listing))
    source = LostPlace(listing.source.root, core, tmp_path, last)
    monkeypatch.setattr("mura_trt.score.list_archive", lambda *a, **o: dataclasses.replace(listing, source=source))
    before = children()
    with pytest.raises(EnvironmentProblem, match=rf"CPU cores {core}: the worker cannot work: the device has fallen"):
        run_null(archive, bundle, tmp_path / "out")
    assert not list((tmp_path / "out" / "shards").iterdir())
    assert set(children()) <= set(before)


@pytest.mark.parametrize("devices", ["0,cpu", "4711", "cuda"])
def test_a_device_that_is_not_there_is_told_before_anything_is_written(
    devices: str, archive: Path, bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"--devices {devices}: "):
        run_null(archive, bundle, tmp_path / "out", devices=devices)
    assert not (tmp_path / "out").exists()


def test_a_runtime_of_gpus_has_no_place_on_the_cpu(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"CPU cores .*: no GPU"):
        run_null(archive, bundle, tmp_path / "out", runtime="tensorrt_rtx", devices="cpu")


@pytest.mark.parametrize(("first", "then"), [(TWO, "cpu"), ("auto", TWO), (TWO, "auto")])
def test_an_interrupted_run_goes_on_with_other_devices(
    first: str, then: str, clean: Path, archive: Path, bundle: Bundle, tmp_path: Path
) -> None:
    process = start_scoring(archive, bundle, tmp_path / "out", "--devices", first, null_ms=400, stderr=subprocess.PIPE)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 130 and b"--resume goes on with it" in told
    assert not psutil.wait_procs(family, timeout=10)[1]
    run = run_null(archive, bundle, tmp_path / "out", devices=then, resume=True)
    assert 0 < run["resumed_views"] < run["listed"]
    assert (run["devices"], len(run["workers"])) == (then, then.count("cpu") or 1)
    assert tables(tmp_path / "out") == tables(clean)


def test_workers_die_with_their_supervisor_on_kill_9(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    process = start_scoring(archive, bundle, tmp_path / "out", "--devices", TWO, null_ms=400, stderr=subprocess.PIPE)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    process.kill()
    process.communicate()
    assert not psutil.wait_procs(family, timeout=10)[1]


def test_a_run_of_gpus_is_not_gone_on_with_on_the_cpu(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    run_null(archive, bundle, tmp_path / "out", devices="auto")
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())
    (tmp_path / "out" / "recipe.json").write_text(json.dumps({**recipe, "device": "cuda"}))
    with pytest.raises(UsageError, match="the run began with device cuda, now cpu"):
        run_null(archive, bundle, tmp_path / "out", resume=True)


@pytest.mark.gpu
def test_all_gpus_give_the_bytes_of_the_first(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    for devices in ("0", "all"):
        score(ScoreOptions(archive, bundle.folder, tmp_path / devices, devices=devices, shard_views=16))
    assert tables(tmp_path / "all") == tables(tmp_path / "0")

"""Runs on a real Ray cluster: two nodes, on one machine."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pandas as pd
import psutil
import pytest

from mura_trt.archives import list_archive
from mura_trt.archives.awaited import AwaitedSource
from mura_trt.archives.zips import ZipSource
from mura_trt.bundle import Bundle
from mura_trt.cluster import hire
from mura_trt.cluster.actor import END, WorkerActor
from mura_trt.cluster.hire import END_SECONDS
from mura_trt.cluster.join import joined
from mura_trt.cluster.sight import Sight
from mura_trt.demo.archive import DemoPlan, write_archive
from mura_trt.errors import EnvironmentProblem, UsageError
from mura_trt.score import score
from mura_trt.score_options import ScoreOptions
from mura_trt.worker import WorkerConfig
from tests.runs import tables

# Ray leaves sockets and files to the end of its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)

ACTOR = "ray::WorkerActor"
MOMENT_SECONDS = 120  # in which a run comes to the moment of a blow
ENDED_SECONDS = 6 * END_SECONDS  # in which a run that is told to end, and its actors, have ended


class Nodes:
    """Two nodes of a CPU each, which processes of this test find by ``--cluster auto``."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.second = self.cluster.add_node(num_cpus=1)

    def lose_second(self) -> None:
        """As when its machine is switched off."""
        self.cluster.remove_node(self.second, allow_graceful=False)

    def whole(self) -> None:
        """Has two again."""
        if self.second not in self.cluster.worker_nodes:
            self.second = self.cluster.add_node(num_cpus=1)
        self.cluster.wait_for_nodes()


@pytest.fixture(scope="module")
def running(module_environment: pytest.MonkeyPatch) -> Iterator[Nodes]:
    nodes = Nodes()
    module_environment.setenv("RAY_ADDRESS", nodes.cluster.address)
    yield nodes
    nodes.cluster.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def module_environment() -> Iterator[pytest.MonkeyPatch]:
    # Not pytest's folder: a socket's path has 107 bytes at the most.
    folder = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
    with folder as name, pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_TMPDIR", name)
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("RAY_AUTH_MODE", "disabled")
        yield environment


@pytest.fixture
def nodes(running: Nodes) -> Nodes:
    running.whole()
    return running


def run(archive: Path, bundle: Bundle, out: Path, **options: Any) -> dict[str, Any]:
    given = {"runtime": "null", "cluster": "auto", "shard_views": 8, "batch": 4, **options}
    return score(ScoreOptions(archive, bundle.folder, out, **given))


def test_two_nodes_give_what_one_machine_gives(
    nodes: Nodes, archive: Path, bundle: Bundle, clean: Path, tmp_path: Path
) -> None:
    told = run(archive, bundle, tmp_path / "out")
    assert tables(tmp_path / "out") == tables(clean)
    assert told["cluster"] == "auto" and len(told["workers"]) == 2
    assert len({worker["node"] for worker in told["workers"]}) == 2
    assert len({worker["actor"] for worker in told["workers"]}) == 2
    assert sum(worker["views"] for worker in told["workers"]) == told["listed"]
    assert all(worker["views"] and worker["device_name"] for worker in told["workers"])
    assert told["stage_s"]["worker_cpu"] > 0 and told["views_per_s"] > 0


@pytest.mark.parametrize("pack", ["zip", "tar"])
def test_nodes_read_packed_archives_by_relative_paths_too(
    nodes: Nodes, pack: str, archive: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), pack, archive))
    monkeypatch.chdir(tmp_path)
    relative = Path(os.path.relpath(bundle.folder))
    one, two = tmp_path / "one", Path("two")
    run(Path(packed.name), Bundle.open(relative), two)
    run(packed, bundle, one, cluster=None)
    assert tables(two) == tables(one)


def actors() -> list[psutil.Process]:
    """Processes of actors that are at work on nodes of this test, whose processes are all below this one."""
    ours = set(psutil.Process().children(recursive=True))
    every = psutil.process_iter(["cmdline"])
    return [process for process in every if process in ours and ACTOR in " ".join(process.info["cmdline"] or [])]


def wait_for_no_actor() -> None:
    until = time.monotonic() + ENDED_SECONDS
    while actors():
        assert time.monotonic() < until
        time.sleep(0.1)


@contextmanager
def strike(out: Path, shards: int, blow: Callable[[], None]) -> Iterator[None]:
    """Does it once the run within has committed so many shards, which it must have when it is over."""
    over = threading.Event()

    def wait() -> None:
        until = time.monotonic() + MOMENT_SECONDS
        while len(list((out / "shards").glob("*.json"))) < shards:
            assert not over.is_set() and time.monotonic() < until, f"never came to {shards} shards"
            over.wait(0.01)
        blow()

    with ThreadPoolExecutor(1) as thread:
        striking = thread.submit(wait)
        try:
            yield
        finally:
            over.set()
    striking.result()


def kill_one() -> None:
    """As the kernel does where memory is short."""
    random.choice(actors()).kill()


def test_an_actor_that_is_killed_costs_a_retry(
    nodes: Nodes, archive: Path, bundle: Bundle, clean: Path, tmp_path: Path
) -> None:
    with strike(tmp_path / "out", 2, kill_one):
        told = run(archive, bundle, tmp_path / "out", null_ms=300)
    assert told["workers_lost"] == 1 and told["failed"] == 0
    assert tables(tmp_path / "out") == tables(clean)


def test_a_straggler_is_helped_and_not_waited_for(
    nodes: Nodes, archive: Path, bundle: Bundle, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mura_trt.supervisor.LATE_SECONDS", 2.0)
    stopped: list[psutil.Process] = []

    def stop_one() -> None:
        stopped.append(actors()[0])
        stopped[0].suspend()

    try:
        with strike(tmp_path / "out", 1, stop_one):
            told = run(archive, bundle, tmp_path / "out", null_ms=300)
    finally:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    assert told["workers_lost"] == 0 and told["failed"] == 0  # after 45 s it would be taken to hang
    assert tables(tmp_path / "out") == tables(clean)


def test_a_driver_that_is_killed_leaves_no_actor_and_its_run_is_gone_on_with(
    nodes: Nodes, archive: Path, bundle: Bundle, clean: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "mura_trt", "score", str(archive), "--engine", str(bundle.folder), "-o", str(out)]
    slowed = ["--runtime", "null", "--null-ms", "200", "--batch", "4", "--shard-views", "8", "--cluster", "auto"]
    driver = subprocess.Popen([*command, *slowed], stderr=subprocess.DEVNULL)
    try:
        with strike(out, 1, driver.kill):
            driver.wait(MOMENT_SECONDS)
    finally:
        driver.kill()
    wait_for_no_actor()
    told = run(archive, bundle, out, resume=True)
    assert 0 < told["resumed_views"] < told["listed"]
    assert tables(out) == tables(clean)


def test_ctrl_c_ends_the_run_and_its_actors(nodes: Nodes, archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "mura_trt", "score", str(archive), "--engine", str(bundle.folder), "-o", str(out)]
    slowed = ["--runtime", "null", "--null-ms", "400", "--batch", "4", "--shard-views", "8", "--cluster", "auto"]
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    driver = subprocess.Popen([*command, *slowed], stderr=subprocess.PIPE)
    signal.signal(signal.SIGINT, handler)
    try:
        with strike(out, 1, lambda: driver.send_signal(signal.SIGINT)):
            _, words = driver.communicate(timeout=MOMENT_SECONDS + ENDED_SECONDS)
    finally:
        driver.kill()
    assert driver.returncode == 130 and b"--resume goes on with it" in words
    wait_for_no_actor()


@pytest.mark.slow
def test_a_cluster_of_its_own_scores_with_the_real_engine(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    arguments = [str(archive), "--engine", str(bundle.folder), "--runtime", "onnxruntime", "--batch", "8"]
    command = [sys.executable, "-m", "mura_trt", "score", *arguments, "-o"]
    # As a user starts it: with Ray's own token, which a process keeps for all clusters that it joins.
    subprocess.run([*command, str(tmp_path / "ray"), "--cluster", "local"], check=True)
    subprocess.run([*command, str(tmp_path / "one")], check=True)
    (worker,) = json.loads((tmp_path / "ray" / "run.json").read_text())["workers"]
    assert worker["runtime"] == "onnxruntime" and worker["node"] and worker["actor"]
    assert tables(tmp_path / "ray") == tables(tmp_path / "one")


def test_where_runtimes_may_be_mixed_each_view_tells_its_own(
    nodes: Nodes, archive: Path, bundle: Bundle, tmp_path: Path
) -> None:
    part, out = tmp_path / "part", tmp_path / "out"
    shutil.copytree(min(archive.rglob("XR_*")), part)  # a few views, for each takes the engine a tenth of a second
    options = {"runtime": "auto", "batch": 2, "shard_views": 4}
    told = run(part, bundle, out, allow_mixed=True, **options)
    assert (told["runtime"], told["device"]) == ("mixed", "mixed")
    assert {worker["runtime"] for worker in told["workers"]} == {"onnxruntime"}
    assert json.loads((out / "recipe.json").read_text())["onnxruntime"] == told["versions"]["onnxruntime"]
    views = pd.read_csv(out / "views.csv")
    assert set(views.pop("runtime")) == {"onnxruntime"}
    run(part, bundle, tmp_path / "one", cluster=None, **options)
    pd.testing.assert_frame_equal(views, pd.read_csv(tmp_path / "one" / "views.csv"))
    with pytest.raises(UsageError, match="its run mixes runtimes; go on with --cluster and --allow-mixed"):
        run(part, bundle, out, resume=True, **options)
    with pytest.raises(UsageError, match="the run began with runtime onnxruntime, now mixed"):
        run(part, bundle, tmp_path / "one", resume=True, allow_mixed=True, **options)
    again = run(part, bundle, out, resume=True, allow_mixed=True, **options)
    assert again["resumed_views"] == again["listed"] and "runtime" in pd.read_csv(out / "views.csv")


class Seeing(WorkerActor):
    """In place of a worker: tells which GPUs it may use, and ends where it is told to stop."""

    def work(self, config: WorkerConfig, _sight: Sight) -> None:
        config.place.take()
        self._line.from_worker.put(os.environ["CUDA_VISIBLE_DEVICES"])
        self._line.recv()
        self._line.from_worker.put(END)


def test_ray_finds_room_for_all_who_share_a_gpu(
    nodes: Nodes, archive: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a node that is said to have one GPU: who shares it is started, all at the same time."""
    several = 6  # a sixth of a GPU, rounded to Ray's four decimal places, would be too much for the last
    monkeypatch.setattr(hire, "ActorHandle", functools.partial(hire.ActorHandle, actor=Seeing))
    options = ScoreOptions(archive, bundle.folder, tmp_path / "out", cluster="auto", workers_per_gpu=several)
    listing = list_archive(archive)
    config = WorkerConfig(bundle, listing.source, "auto", 4, 0.0, tmp_path / "log")
    with_gpu = nodes.cluster.add_node(num_cpus=several, num_gpus=1)
    try:
        nodes.cluster.wait_for_nodes()
        with joined(options, listing, options.runtime, None) as (start, shares):
            inbox = SimpleQueue[tuple[Any, Any]]()
            handles = [start(dataclasses.replace(config, place=share), inbox) for share in shares]
            visible = [inbox.get(timeout=60)[1] for _ in range(several)]
            for handle in handles:
                handle.stop(graceful=True)
    finally:
        nodes.cluster.remove_node(with_gpu)
    assert len(handles) == several and visible[0] and visible == visible[:1] * several


# --- what an actor cannot see ---
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"versions": {"onnxruntime": "0.1"}}, "onnxruntime is .* here, and 0.1 where the command runs"),
        ({"own_decoder": False}, "the C library of mura-trt is there, other than where the command runs"),
        ({"versions": {"tensorfoo": "0.1"}}, "tensorfoo is not installed here, and 0.1 where the command runs"),
        ({"stamps": [("a.png", b"a.png", b"1 2")]}, "a.png cannot be read here .*every node needs the archive"),
    ],
)
def test_a_worker_that_does_not_see_what_the_driver_sees_is_told_before_work_begins(
    nodes: Nodes,
    change: dict[str, Any],
    told: str,
    archive: Path,
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = dataclasses.replace(Sight.of(list_archive(archive)), **change)
    monkeypatch.setattr(Sight, "of", lambda _listing: seen)
    with pytest.raises(EnvironmentProblem, match=f"node .*: {told}"):
        run(archive, bundle, tmp_path / "out")
    assert not list((tmp_path / "out" / "shards").iterdir()) and not (tmp_path / "out" / "recipe.json").exists()


def test_what_is_seen_is_compared(copied: Path, bundle: Bundle, tmp_path: Path) -> None:
    listing = list_archive(copied)
    sight = Sight.of(listing)
    config = WorkerConfig(bundle, AwaitedSource.of(listing.source), "null", 4, 0.0, tmp_path / "log")
    assert len(sight.stamps) == 3 and sight.versions["onnxruntime"]
    sight.check(config)
    (first,) = listing.keys(0, 1)
    view = copied / os.fsdecode(first)
    view.write_bytes(view.read_bytes() + b"more")
    with pytest.raises(EnvironmentProblem, match=f"{view.name} is another file than where the command runs"):
        sight.check(config)
    shutil.rmtree(copied)
    with pytest.raises(EnvironmentProblem, match=f"{copied}: .* cannot be read here .No such file"):
        sight.check(config)  # at once: a node that never had the archive is not waited for
    config = dataclasses.replace(config, source=listing.source)
    sight.of_a_replacement().check(config)  # what became of files is told in their rows
    with pytest.raises(EnvironmentProblem, match=f"{tmp_path}/gone.zip cannot be read here .No such file"):
        sight.check(dataclasses.replace(config, source=ZipSource(f"{tmp_path}/gone.zip")))
    elsewhere = dataclasses.replace(bundle, folder=tmp_path / "nowhere")
    with pytest.raises(EnvironmentProblem, match=r"nowhere.*every node needs the archive and the bundle"):
        sight.check(dataclasses.replace(config, bundle=elsewhere))
    with pytest.raises(EnvironmentProblem, match="another bundle than where the command runs"):
        sight.check(dataclasses.replace(config, bundle=dataclasses.replace(bundle, sha256="0")))


# --- what cannot be ---
def test_too_many_workers_and_no_cluster_are_told(
    nodes: Nodes, archive: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"the cluster has room for 2 workers .* 3 are wanted"):
        run(archive, bundle, tmp_path / "out", workers=3)
    with pytest.raises(UsageError, match="--devices all: the cluster has no GPU"):
        run(archive, bundle, tmp_path / "out", workers=3, devices="all", runtime="auto")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(EnvironmentProblem, match=r"--cluster auto: .*ray start"):
        run(archive, bundle, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cluster": None, "workers": 2}, "--workers, .* are of a cluster"),
        ({"cluster": None, "workers_per_gpu": 2}, "--workers, .* are of a cluster"),
        ({"cluster": None, "allow_mixed": True}, "--workers, .* are of a cluster"),
        ({"workers_per_gpu": 0}, "--workers-per-gpu 0: give 1 or more"),
        ({"cluster": "far"}, "--cluster far: give auto, local or ray://HOST:PORT"),
        ({"devices": "0,1"}, "--devices 0,1: with --cluster give auto, all"),
        ({"devices": "all"}, "--devices all: a cluster computes null on the CPU; give --devices cpu"),
        ({"workers": 0}, "--workers 0: give 1 or more"),
        ({"allow_mixed": True}, "leave --devices and --runtime out"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=told):
        ScoreOptions(tmp_path, tmp_path, tmp_path / "out", **{"runtime": "null", "cluster": "auto", **options})


# --- whoever dies, and when; last, for a dead node is counted for ten seconds ---
@pytest.mark.slow
def test_a_node_that_dies_costs_a_retry_and_its_work_is_done_by_the_other(
    nodes: Nodes, archive: Path, bundle: Bundle, clean: Path, tmp_path: Path
) -> None:
    with strike(tmp_path / "out", 2, nodes.lose_second):
        told = run(archive, bundle, tmp_path / "out", null_ms=300)
    assert told["workers_lost"] == 1 and told["failed"] == 0
    assert tables(tmp_path / "out") == tables(clean)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 studies."""
    root = tmp_path_factory.mktemp("many") / "archive"
    write_archive(root, DemoPlan(400, seed=11))
    return root


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as trying:
        return trying.connect_ex(("127.0.0.1", port)) == 0


# Now and then Ray's process for a client dies as it starts; here the first one does so every time.
FIRST_CLIENT_DIES = """
import os, sys
died = os.path.join(os.path.dirname(__file__), "died")
if "--mode=specific-server" in sys.orig_argv and not os.path.exists(died):
    open(died, "w").close()
    os._exit(1)
"""


@contextmanager
def far_cluster(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The ``ray://`` address of a cluster that this machine is no node of, as far as it knows, and its head."""
    port, client = free_port(), free_port()
    ports = [f"--port={port}", f"--ray-client-server-port={client}"]
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--num-cpus=2", *ports, "--block"]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_ADDRESS", None)
    (folder / "sitecustomize.py").write_text(FIRST_CLIENT_DIES)
    environment["PYTHONPATH"] = str(folder)
    command = [*start, "--include-dashboard=false"]
    head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not listens(client):
            assert time.monotonic() < until
            time.sleep(0.5)
        yield f"ray://127.0.0.1:{client}", head
    finally:
        head.terminate()
        head.wait()


@pytest.mark.slow
def test_a_cluster_that_this_machine_is_no_node_of_scores_by_rays_client_and_may_go_away(
    module_environment: pytest.MonkeyPatch, archive: Path, bundle: Bundle, clean: Path, tmp_path: Path
) -> None:
    out, later = tmp_path / "out", tmp_path / "later"
    command = [sys.executable, "-m", "mura_trt", "score", str(archive), "--engine", str(bundle.folder), "--runtime"]
    command += ["null", "--shard-views", "8", "--batch", "4"]
    with far_cluster(tmp_path) as (address, head):
        with_ray = [*command, "--cluster", address, "--workers", "2", "-o"]
        scored = subprocess.run([*with_ray, str(out)], check=True, stderr=subprocess.PIPE, text=True)
        assert scored.stderr.count("trying again, 2 of 2 left") == 1, scored.stderr
        assert tables(out) == tables(clean)
        assert len(json.loads((out / "run.json").read_text())["workers"]) == 2
        driver = subprocess.Popen([*with_ray, str(later), "--null-ms", "1000"], stderr=subprocess.PIPE, text=True)

        def switch_off() -> None:
            for process in [*psutil.Process(head.pid).children(recursive=True), head]:
                process.kill()

        try:
            with strike(later, 1, switch_off):
                _, told = driver.communicate(timeout=MOMENT_SECONDS + ENDED_SECONDS)
        finally:
            driver.kill()
        assert driver.returncode == 5 and "it went away" in told and "--resume" in told, told
    subprocess.run([*command, "--resume", "-o", str(later)], check=True)
    assert tables(later) == tables(clean)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("runtime", "times", "null_ms"), [("null", 20, 25.0), ("onnxruntime", 2, 0.0)])
def test_nodes_and_workers_die_at_random_moments_and_nothing_is_lost_or_doubled(
    runtime: str, times: int, null_ms: float, nodes: Nodes, many: Path, bundle: Bundle, tmp_path: Path
) -> None:
    # Of an engine that takes a tenth of a second a view, a part.
    archive = many if runtime == "null" else min(many.rglob("XR_*"))
    options = {"runtime": runtime, "batch": 8, "shard_views": 32}
    listed = run(archive, bundle, tmp_path / "one", cluster=None, **options)["listed"]
    expected, rng, lost = tables(tmp_path / "one"), random.Random(0), 0
    for number in range(times):
        nodes.whole()
        out = tmp_path / f"out{number}"
        blow = nodes.lose_second if number % 2 else kill_one
        with strike(out, rng.randrange(listed // 32 * 3 // 4), blow):
            told = run(archive, bundle, out, null_ms=null_ms, **options)
        assert (told["scored"], told["failed"], told["listed"]) == (listed, 0, listed), number
        assert tables(out) == expected, number
        lost += told["workers_lost"]
        assert json.loads((out / "run.json").read_text())["exit_code"] == 0
        shutil.rmtree(out)
    assert lost >= times * 3 // 4  # or the blows would have come too late

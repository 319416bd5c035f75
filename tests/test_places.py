"""What ``--devices`` means on this machine and on others."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mura_trt import places
from mura_trt.cores import CORES, usable_cores
from mura_trt.errors import UsageError
from mura_trt.places import Place, places_of
from tests.cores import ALL


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three GPUs, and the cores 2 to 9, of which a quota leaves seven."""
    monkeypatch.setattr(places, "cuda_device_count", lambda: 3)
    monkeypatch.setattr(places, "usable_cores", lambda: 7)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(2, 10)))


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ("auto", [(None, None)]),
        ("all", [(0, {2, 3}), (1, {4, 5}), (2, {6, 7, 8})]),
        ("0,2", [(0, {2, 3, 4}), (2, {5, 6, 7, 8})]),
        ("2, 0", [(2, {2, 3, 4}), (0, {5, 6, 7, 8})]),
        ("1", [(1, None)]),
        ("1,1", [(1, {2, 3, 4}), (1, {5, 6, 7, 8})]),
        ("cpu", [(None, {2, 3, 4, 5, 6, 7, 8, 9})]),
        ("cpu,cpu", [(None, {2, 3, 4}), (None, {5, 6, 7, 8})]),
        ("cpu,cpu,cpu,cpu,cpu,cpu,cpu", [(None, {core}) for core in range(2, 9)]),
    ],
)
def test_each_worker_has_its_place(devices: str, expected: list[tuple[int | None, set[int] | None]]) -> None:
    assert [(place.gpu, place.cores) for place in places_of(devices)] == expected


@pytest.mark.parametrize(
    ("devices", "most", "cores", "gpu_gib", "host_gib", "expected"),
    [
        ("auto", 99, 16, 140, 128, [None] * 8),
        ("auto", 99, 64, 140, None, [None] * 8),
        ("auto", 3, 16, 140, 128, [None] * 3),
        ("auto", 99, 6, 140, 128, [None] * 3),
        ("auto", 99, 16, 24, 128, [None] * 3),
        ("auto", 99, 16, 15, 128, [None]),
        ("auto", 99, 16, 140, 16, [None] * 5),
        ("auto", 99, 16, 140, 1, [None]),
        ("auto", 0, 16, 140, 128, [None]),
        ("all", 99, 16, 140, 128, [0, 0, 0, 0, 1, 1, 1, 1]),
        ("all", 5, 16, 140, 128, [0, 0, 1, 1]),
        ("all", 99, 16, 23, 128, [0, 0, 1, 1]),
        ("all", 99, 16, 140, 12, [0, 0, 1, 1]),
        ("all", 1, 16, 140, 128, [0, 1]),
        ("0", 99, 16, 140, 128, [0]),
    ],
)
def test_workers_share_a_gpu_as_far_as_there_are_cores_and_memory_and_views(
    devices: str,
    most: int,
    cores: int,
    gpu_gib: int,
    host_gib: int | None,
    expected: list[int | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(places, "cuda_device_count", lambda: 2)
    monkeypatch.setattr(places, "usable_cores", lambda: cores)
    monkeypatch.setattr(places, "room", lambda _: gpu_gib << 30)
    available = None if host_gib is None else host_gib << 30
    monkeypatch.setattr(places, "memory", lambda: {"available_bytes": available})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    found = places_of(devices, most)
    assert [place.gpu for place in found] == expected
    if len(found) > 1:
        shares = [place.cores or frozenset() for place in found]
        assert frozenset().union(*shares) == set(range(cores)) and sum(map(len, shares)) == cores
    # Where the runtime decides, it may be that none works on the GPU.
    assert {place.device for place in found} == {None if devices == "auto" else "cuda"}


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ("3", "no GPU 3 here; there are 3, counted from 0"),
        ("0,7", "no GPU 7 here"),
        ("0,cpu", "results of one run come from one kind of device"),
        ("all,cpu", "results of one run come from one kind of device"),
        ("-1", "give auto, all, GPUs by number"),
        ("cuda:0", "give auto, all, GPUs by number"),
        ("all,0", "give auto, all, GPUs by number"),
        ("", "give auto, all, GPUs by number"),
        ("0,", "give auto, all, GPUs by number"),
        (",".join(["cpu"] * 8), "8 workers on 7 usable cores"),
    ],
)
def test_what_is_not_there_or_makes_no_sense_is_refused(devices: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        places_of(devices)


@pytest.mark.parametrize("devices", ["all", "0", "0,1"])
def test_gpus_where_there_is_none_are_an_error_that_says_so(devices: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "cuda_device_count", lambda: 0)
    with pytest.raises(UsageError, match="the NVIDIA driver knows of no GPU here"):
        places_of(devices)


def test_gpus_outnumbering_the_cores_share_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "cuda_device_count", lambda: 4)
    monkeypatch.setattr(places, "usable_cores", lambda: 2)
    assert [place.cores for place in places_of("all")] == [None] * 4


@pytest.mark.parametrize(
    ("place", "device", "name"),
    [
        (Place(), None, "auto"),
        (Place(1), "cuda", "GPU 1"),
        (Place(0, frozenset({1, 2})), "cuda", "GPU 0, CPU cores 1-2"),
        (Place(cores=frozenset({3})), "cpu", "CPU cores 3"),
        (Place(cores=frozenset({3}), shared=True), None, "auto, CPU cores 3"),
        (Place(cores=frozenset({0, 1, 2, 3, 8, 10, 11})), "cpu", "CPU cores 0-3,8,10-11"),
    ],
)
def test_a_place_has_a_kind_and_a_name(place: Place, device: str | None, name: str) -> None:
    assert (place.device, str(place)) == (device, name)


def test_workers_that_share_a_gpu_under_a_quota_keep_to_no_cores_that_others_are_given_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(places, "usable_cores", lambda: 16)
    monkeypatch.setattr(places, "room", lambda _: 140 << 30)
    monkeypatch.setattr(places, "memory", lambda: {"available_bytes": 128 << 30})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(128)))
    found = places_of("auto", 99)
    assert [place.cores for place in found] == [frozenset(range(at, at + 16)) for at in range(0, 128, 16)]
    assert {(place.threads, place.optional) for place in found} == {(2, True)}


SHARE = """
import os
from mura_trt.places import Place
from mura_trt.cores import usable_cores
assert usable_cores() > 1
Place(cores=frozenset(os.sched_getaffinity(0)), threads=1, shared=True).take()
assert usable_cores() == 1 and "CUDA_VISIBLE_DEVICES" not in os.environ
"""


@pytest.mark.skipif(len(ALL) < 2, reason="fewer cores than there are, need two")
@pytest.mark.usefixtures("all_cores")
def test_a_worker_that_shares_a_gpu_sees_it_and_uses_as_many_cores_as_it_may() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("CUDA_VISIBLE_DEVICES", CORES)}
    subprocess.run([sys.executable, "-c", SHARE], check=True, env=environment)


TAKE = """
import os
from mura_trt.places import Place
from mura_trt.cores import usable_cores
from mura_trt.cuda_devices import cuda_device_count
Place(cores=frozenset({%d})).take()
assert os.sched_getaffinity(0) == {%d} and usable_cores() == 1 and cuda_device_count() == 0
"""


def test_a_worker_on_the_cpu_has_its_own_cores_and_no_gpu() -> None:
    core = max(os.sched_getaffinity(0))
    subprocess.run([sys.executable, "-c", TAKE % (core, core)], check=True)


def test_shares_are_disjoint_and_are_all_that_is_usable_here() -> None:
    shares = [place.cores or frozenset() for place in places_of(",".join(["cpu"] * usable_cores()))]
    assert len(frozenset().union(*shares)) == sum(map(len, shares)) == usable_cores()

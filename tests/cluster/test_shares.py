"""What each worker gets of a cluster's machines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mura_trt.cluster.join import nodes_of
from mura_trt.cluster.shares import Node, Share, shares_of
from mura_trt.cores import CORES, usable_cores
from mura_trt.errors import UsageError


@pytest.mark.parametrize(
    ("nodes", "workers", "device", "cpus"),
    [
        ([Node(8, 0), Node(8, 0)], None, None, [8, 8]),
        ([Node(8, 0), Node(4, 0)], None, None, [4, 4]),
        ([Node(8, 0), Node(8, 0)], 3, None, [4, 4, 4]),
        ([Node(8, 0), Node(8, 0)], 1, None, [8]),
        ([Node(8, 0), Node(3, 0)], 3, None, [3, 3, 3]),
        ([Node(16, 2), Node(16, 2)], None, None, [8] * 4),
        ([Node(16, 2), Node(16, 2)], None, "cpu", [16, 16]),
        ([Node(16, 2), Node(64, 0)], None, "cuda", [8, 8]),
        ([Node(16, 1), Node(0, 0)], None, None, [16]),  # a head that gives no CPUs
        ([Node(2, 4)], 2, None, [1, 1]),
    ],
)
def test_all_workers_get_as_many_cpus_as_there_is_room_for(
    nodes: list[Node], workers: int | None, device: str | None, cpus: list[int]
) -> None:
    shares = shares_of(nodes, workers, device)
    assert [share.cpus for share in shares] == cpus
    assert [share.number for share in shares] == list(range(1, len(cpus) + 1))
    with_gpu = device != "cpu" and any(node.gpus for node in nodes)
    assert {share.device for share in shares} == {"cuda" if with_gpu else "cpu"}
    assert {share.gpu for share in shares} == {0 if with_gpu else None}


@pytest.mark.parametrize(
    ("nodes", "workers", "per_gpu", "found"),
    [
        ([Node(16, 1)], None, 8, [(2, 0.125)] * 8),
        ([Node(16, 2), Node(16, 2), Node(64, 0)], None, 2, [(4, 0.5)] * 8),
        ([Node(16, 2)], 3, 2, [(5, 0.5)] * 3),
        ([Node(16, 1), Node(4, 1)], 10, 8, [(2, 0.125)] * 10),  # of the smaller node, two
        ([Node(8, 0), Node(8, 0)], None, 4, [(8, 0)] * 2),
    ],
)
def test_several_share_a_gpu_where_that_is_said(
    nodes: list[Node], workers: int | None, per_gpu: int, found: list[tuple[int, float]]
) -> None:
    assert [(share.cpus, share.gpus) for share in shares_of(nodes, workers, None, per_gpu=per_gpu)] == found


def test_where_they_are_mixed_each_gpu_has_as_many_as_are_said() -> None:
    nodes = [Node(16, 2), Node(8, 0)]
    assert [share.gpus for share in shares_of(nodes, None, None, True, 2)] == [0.5] * 4 + [0]
    assert [share.gpus for share in shares_of(nodes, 6, None, True, 2)] == [0.5] * 4 + [0] * 2
    assert [share.gpus for share in shares_of(nodes, 3, None, True, 2)] == [0.5] * 3


def test_too_many_to_share_gpus_are_refused() -> None:
    with pytest.raises(UsageError, match=r"room for 2 workers with 1/2 GPU and a CPU each, on 1 nodes, and 3"):
        shares_of([Node(8, 1)], 3, None, per_gpu=2)
    with pytest.raises(UsageError, match=r"room for 12 workers with 1/8 GPU and a CPU each, on 2 nodes, and 16"):
        shares_of([Node(16, 1), Node(4, 1)], None, None, per_gpu=8)


@pytest.mark.parametrize(
    ("nodes", "workers", "found"),
    [
        ([Node(16, 2), Node(8, 0), Node(8, 0)], None, [(8, 1), (8, 1), (8, 0), (8, 0)]),
        ([Node(16, 2), Node(8, 0), Node(8, 0)], 3, [(8, 1), (8, 1), (8, 0)]),
        ([Node(16, 2), Node(8, 0), Node(8, 0)], 1, [(16, 1)]),
        ([Node(8, 0), Node(8, 0)], None, [(8, 0), (8, 0)]),
        ([Node(16, 2)], None, [(8, 1), (8, 1)]),
        ([Node(16, 2), Node(0, 0)], None, [(8, 1), (8, 1)]),  # a head that gives no CPUs
    ],
)
def test_where_they_are_mixed_what_has_no_gpu_works_beside(
    nodes: list[Node], workers: int | None, found: list[tuple[int, int]]
) -> None:
    assert [(share.cpus, share.gpus) for share in shares_of(nodes, workers, None, mixed=True)] == found


@pytest.mark.parametrize(
    ("nodes", "workers", "device", "told"),
    [
        ([Node(1, 0), Node(2, 0)], 4, None, "room for 3 workers with a CPU each, on 2 nodes, and 4 are wanted"),
        ([Node(8, 2)], 3, None, "room for 2 workers with a GPU and a CPU each, on 1 nodes, and 3"),
        ([Node(8, 0)], None, "cuda", "--devices all: the cluster has no GPU"),
        ([], None, None, "the cluster has room for 0 workers .* add nodes first"),
        ([Node(0, 0)], None, None, "room for 0 workers with a CPU each, on 1 nodes, and 1 are wanted"),
    ],
)
def test_too_many_workers_are_refused(nodes: list[Node], workers: int | None, device: str | None, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        shares_of(nodes, workers, device)


def test_where_they_are_mixed_there_must_be_room_for_one() -> None:
    for nodes in ([], [Node(0, 0)]):  # a head that gives no CPUs, before others have joined
        with pytest.raises(UsageError, match="room for 0 workers"):
            shares_of(nodes, None, None, mixed=True)


def test_a_worker_keeps_to_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CORES, "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    several = usable_cores(Path("/nowhere"))
    Share(1, several, 1).take()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0" and usable_cores() <= several
    Share(1, 1).take()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "" and usable_cores() == 1
    Share(1, 10_000).take()
    assert usable_cores(Path("/nowhere")) == several
    assert str(Share(2, 1)) == "place 2 of the cluster (1 CPU)"
    assert str(Share(3, 8, 1)) == "place 3 of the cluster (1 GPU and 8 CPUs)"
    assert str(Share(3, 2, 1 / 6)) == "place 3 of the cluster (0.167 GPU and 2 CPUs)"


def test_nodes_that_are_gone_do_not_count() -> None:
    alive = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0, "memory": 1e9}}
    head = {"Alive": True, "Resources": {"memory": 1e9}}
    assert nodes_of([alive, head, {**alive, "Alive": False}]) == [Node(8, 1), Node(0, 0)]

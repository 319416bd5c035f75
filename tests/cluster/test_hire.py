"""Who is started in a cluster, and what is said when one joins it; no Ray is needed for that."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from mura_trt.archives.folder import FolderSource
from mura_trt.bundle import Bundle
from mura_trt.cluster import hire, join
from mura_trt.cluster.shares import Share
from mura_trt.cluster.sight import Sight
from mura_trt.worker import WorkerConfig


def test_who_replaces_a_worker_does_not_compare_files_again(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, Sight]] = []
    monkeypatch.setattr(hire, "ActorHandle", lambda config, _inbox, sight: seen.append((config.place, sight)))
    sight = Sight([("a.png", b"a.png", b"1 2")], {"numpy": "2"})
    hiring = hire.Hiring(sight)
    for place in (Share(1, 2), Share(2, 2), Share(1, 2)):
        hiring(WorkerConfig(bundle, FolderSource("/"), "null", 4, 0.0, Path("log"), place=place), SimpleQueue())
    assert [found for _, found in seen] == [sight, sight, Sight((), sight.versions, sight.own_decoder)]


@pytest.mark.parametrize(
    ("free", "told"),
    [
        ({"CPU": 16.0, "GPU": 2.0}, None),
        ({"CPU": 12.0, "GPU": 2.0}, "the workers take 16 CPUs and 12 are free: others hold the rest"),
        ({"CPU": 16.0}, "the workers take 2 GPUs and 0 are free"),
    ],
)
def test_a_cluster_that_others_hold_part_of_is_told(
    free: dict[str, float], told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        join._warn_of_others(free, [Share(1, 8, 1), Share(2, 8, 1)])
    assert (told in caplog.text) if told else not caplog.text


@pytest.mark.parametrize("per_gpu", range(1, 33))
def test_parts_of_gpus_are_no_more_than_the_whole(per_gpu: int, caplog: pytest.LogCaptureFixture) -> None:
    """A float's rounding is no worker that waits for room."""
    with caplog.at_level(logging.WARNING):
        join._warn_of_others(
            {"CPU": 96.0, "GPU": 3.0}, [Share(number, 1, 1 / per_gpu) for number in range(3 * per_gpu)]
        )
    assert not caplog.text


def test_ray_keeps_to_itself_and_starts_nothing_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_AUTO_CONNECT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    join._ray()
    assert (os.environ["RAY_USAGE_STATS_ENABLED"], os.environ["RAY_ENABLE_AUTO_CONNECT"]) == ("0", "0")

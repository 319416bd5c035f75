"""Cores by affinity and by what the cgroup allows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mura_trt.cores import usable_cores

V2 = "cpu.max"
QUOTA, PERIOD = "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({V2: "max 100000\n"}, 8),
        ({V2: "200000 100000\n"}, 2),
        ({V2: "250000 100000\n"}, 3),
        ({V2: "50000 100000\n"}, 1),
        ({V2: "1000 100000\n"}, 1),
        ({V2: "6400000 100000\n"}, 8),
        ({V2: "150000 50000\n"}, 3),
        ({V2: "\n"}, 8),
        ({QUOTA: "-1\n", PERIOD: "100000\n"}, 8),
        ({QUOTA: "400000\n", PERIOD: "100000\n"}, 4),
        ({QUOTA: "150000\n", PERIOD: "100000\n"}, 2),
        ({QUOTA: "400000\n"}, 8),
        ({V2: "200000 100000\n", QUOTA: "400000\n", PERIOD: "100000\n"}, 2),
    ],
)
def test_the_smaller_of_affinity_and_quota_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == cores


def test_affinity_binds(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    assert usable_cores(tmp_path) == len(before)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cores(tmp_path) == 1
        (tmp_path / V2).write_text("800000 100000\n")
        assert usable_cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)


def test_this_machine_has_at_least_one() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))

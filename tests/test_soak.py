"""A minute of the soak: each part with fewer of everything. ``make soak`` is the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from benchmarks.soak import disk, files, hostile, kills
from benchmarks.soak.__main__ import main
from mura_trt.bundle import Bundle
from mura_trt.files import sync_folder, write_atomically


@pytest.mark.slow
def test_any_refused_operation_is_told_and_gone_on_from(bundle: Bundle, tmp_path: Path) -> None:
    found = disk.refuse_each(tmp_path / "work", bundle.folder, step=5)
    assert found["refusals"] > 100


def test_what_was_committed_survives_power_cuts(bundle: Bundle, tmp_path: Path) -> None:
    assert disk.cut_power(tmp_path / "work", bundle.folder, 40)["committed_views_found_again"] > 0


def test_the_command_takes_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel tells what is synced by its path from the root."""
    given: list[Path] = []

    def cut_power(work: Path, engine: Path, cuts: int) -> dict[str, int]:
        given.extend((work, engine))
        return {"cuts": cuts}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(disk, "cut_power", cut_power)
    main(Path("soak"), Path("engine"), only=["power_cuts"])
    assert given == [tmp_path / "soak" / "power_cuts", tmp_path / "engine"]


def without_sync(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)
    sync_folder(path.parent)


def without_folder_sync(path: Path, data: bytes) -> None:
    with mock.patch("mura_trt.files.sync_folder"):
        write_atomically(path, data)


@pytest.mark.parametrize(
    ("write", "error", "told"),
    [
        (without_sync, ValueError, "not enough values|Expecting|Unterminated"),  # of a shard that is cut or zeros
        (without_folder_sync, AssertionError, "views were committed, and .* are there after the cut"),
    ],
)
def test_power_cuts_find_a_sync_that_is_missing(
    bundle: Bundle, tmp_path: Path, write: Any, error: type[Exception], told: str
) -> None:
    with mock.patch("mura_trt.results.write_atomically", write), pytest.raises(error, match=told):
        disk.cut_power(tmp_path / "work", bundle.folder, 200)


def test_bad_files_of_every_kind_at_every_place_cost_no_other_anything(bundle: Bundle, tmp_path: Path) -> None:
    found = files.positions(tmp_path, bundle.folder, (2, 5))
    assert len(found["kinds"]) > 10


def test_mutated_files_cost_no_good_one_anything(bundle: Bundle, tmp_path: Path) -> None:
    assert files.mutations(tmp_path, bundle.folder, good=400, bad=150)["good_lost"] == 0


@pytest.mark.slow
def test_hostile_archives_do_no_harm(bundle: Bundle, tmp_path: Path) -> None:
    assert hostile.archives(tmp_path, bundle.folder, 4)["good_views"] > 0


@pytest.mark.slow
def test_kills_at_random_moments_change_no_byte(bundle: Bundle, tmp_path: Path) -> None:
    found = kills.kill_at_random(tmp_path / "work", bundle.folder, kills=3, views=400)
    assert found["supervisor"] + found["worker"] == 3 and found["runs_ended"] > 0

"""A run's note of what decides its results."""

from __future__ import annotations

from pathlib import Path

import pytest

from mura_trt.errors import UsageError
from mura_trt.recipe import check_recipe, note_recipe, noted_recipe


def test_what_is_noted_comes_back(tmp_path: Path) -> None:
    assert noted_recipe(tmp_path) == {}
    note_recipe(tmp_path, {"runtime": "null", "batch": 64})
    assert noted_recipe(tmp_path) == {"runtime": "null", "batch": 64}
    check_recipe(tmp_path, {"runtime": "null", "batch": 64})
    check_recipe(tmp_path, {"batch": 64})


def test_an_empty_note_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(UsageError, match="does not tell how the run began"):
        noted_recipe(tmp_path)


def test_each_difference_is_told(tmp_path: Path) -> None:
    note_recipe(tmp_path, {"runtime": "null", "batch": 64, "bundle": "ab"})
    with pytest.raises(UsageError) as caught:
        check_recipe(tmp_path, {"runtime": "torch", "batch": 64, "bundle": "cd", "listing": "ef"})
    assert str(caught.value) == (
        f"{tmp_path}: the run began with runtime null, now torch; another bundle; other views in the archive (--update"
        " scores what is new or changed): give it what it began with, or begin anew: --overwrite"
    )

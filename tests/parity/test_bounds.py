"""Bounds of agreement: defaults, recipes, and what the command line changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mura_trt.contract import PRECISIONS
from mura_trt.engine_recipe import Recipe
from mura_trt.errors import UsageError
from mura_trt.parity.bounds import BOUNDS, flattened, parsed, with_changes

ENGINES = Path(__file__).parent.parent.parent / "engines"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_shipped_recipes_state_the_bounds_that_hold_without_them(precision: str) -> None:
    recipe = Recipe.read(ENGINES / f"densenet169-{precision}.toml")
    assert recipe.precision == precision
    assert flattened(recipe.parity) == BOUNDS[precision] == recipe.bounds


def test_a_recipe_changes_some_bounds(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("precision = 'int8'\n[parity.model]\ndp_max = 0.2\n")
    assert Recipe.read(tmp_path / "r.toml").bounds == {**BOUNDS["int8"], "model.dp_max": 0.2}


def test_bounds_on_the_command_line() -> None:
    assert parsed(["model.dp_max=0.1", "pixels.inside = 3"]) == {"model.dp_max": 0.1, "pixels.inside": 3.0}
    for wrong in ("model.dp_max", "model.dp_max=", "model.dp_max=x"):
        with pytest.raises(UsageError, match=r"--bound .*not of the form"):
            parsed([wrong])
    with pytest.raises(UsageError, match="no number from 0 up"):
        with_changes(BOUNDS["fp16"], parsed(["model.dp_max=nan"]))

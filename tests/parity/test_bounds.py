"""Bounds of agreement: defaults, recipes, and what the command line changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mura_trt.build import Recipe
from mura_trt.contract import PRECISIONS
from mura_trt.errors import UsageError
from mura_trt.parity.bounds import BOUNDS, flattened, parsed, with_changes


@pytest.mark.parametrize("precision", PRECISIONS)
def test_shipped_recipes_state_the_bounds_that_hold_without_them(precision: str) -> None:
    recipe = Recipe.read(Path(f"engines/densenet169-{precision}.toml"))
    assert recipe.precision == precision
    assert flattened(recipe.parity) == BOUNDS[precision] == recipe.bounds


def test_a_recipe_changes_some_bounds(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("precision = 'int8'\n[parity.model]\ndp_max = 0.2\n")
    assert Recipe.read(tmp_path / "r.toml").bounds == {**BOUNDS["int8"], "model.dp_max": 0.2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[parity.model]\ndp_min = 1", "bound 'model.dp_min': there is none"),
        ("[parity.model]\ndp_max = -1", "model.dp_max: -1 is no number from 0 up"),
        ("[parity.model]\ndp_max = 'a'", "'a' is no number"),
        ("[parity]\nmodel = 3", "takes tables"),
        ("precision = 'fp32'\n[parity.half]\nlargest = 3", "half.largest"),
        ("error_budget = -1", "error_budget"),
        ("calibration_method = 'mse'", "percentile, max"),
        ("check_views = 0", "check_views 0"),
    ],
)
def test_a_recipe_with_a_wrong_bound_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        Recipe.read(tmp_path / "r.toml")


def test_bounds_on_the_command_line() -> None:
    assert parsed(["model.dp_max=0.1", "pixels.inside = 3"]) == {"model.dp_max": 0.1, "pixels.inside": 3.0}
    for wrong in ("model.dp_max", "model.dp_max=", "model.dp_max=x"):
        with pytest.raises(UsageError, match=r"--bound .*not of the form"):
            parsed([wrong])
    with pytest.raises(UsageError, match="no number from 0 up"):
        with_changes(BOUNDS["fp16"], parsed(["model.dp_max=nan"]))

"""Options of the builders: what a recipe may say, and that a real builder takes each."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorrt_rtx as trt

from mura_trt.builder_options import DEFAULTS, TARGETS, TILING, VARIANTS, BuilderOptions
from mura_trt.engine_recipe import Recipe
from mura_trt.errors import EnvironmentProblem, UsageError
from mura_trt.plan import build_plan
from tests.graphs import tiny_graph


def configured(options: BuilderOptions) -> trt.IBuilderConfig:
    config = trt.Builder(trt.Logger(trt.Logger.ERROR)).create_builder_config()
    options.apply(trt, config)
    return config


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("optimization_level = 6", "optimization_level 6: 0 to 5"),
        ("optimization_level = 2.5", "optimization_level 2.5: not of type int"),
        ("tiling = 'some'", "none, fast, moderate, full"),
        ("tf32 = 1", "tf32 1: not of type bool"),
        ("max_aux_streams = -2", "max_aux_streams from -1"),
        ("l2_limit_for_tiling = -1", "l2_limit_for_tiling from 0"),
        ("targets = ['SM90']", "SM90.*SM75, SM80"),
        ("targets = 'SM80'", "not of type tuple"),
        ("level = 3", "unknown key builder_options.level"),
    ],
)
def test_wrong_option_is_refused(table: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(f"[builder_options]\n{table}")
    with pytest.raises(UsageError, match=rf"r\.toml: .*{message}"):
        Recipe.read(tmp_path / "r.toml")
    (tmp_path / "r.toml").write_text("builder_options = 3")
    with pytest.raises(UsageError, match="takes a table"):
        Recipe.read(tmp_path / "r.toml")


def test_recipe_sets_what_it_names_and_leaves_the_rest(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[builder_options]\ntiling = 'full'\ntargets = ['SM75', 'SM80']")
    options = Recipe.read(tmp_path / "r.toml").builder_options
    assert options == BuilderOptions(tiling="full", targets=("SM75", "SM80"))
    assert options.described()["targets"] == ["SM75", "SM80"]
    assert BuilderOptions.of(options.described()) == options
    assert Recipe().builder_options == DEFAULTS


def test_builder_takes_every_option() -> None:
    config = configured(
        BuilderOptions(
            optimization_level=5,
            tiling="moderate",
            l2_limit_for_tiling=1 << 20,
            max_aux_streams=2,
            targets=("SM86", "SM120"),
        )
    )
    assert config.builder_optimization_level == 5
    assert config.tiling_optimization_level == trt.TilingOptimizationLevel.MODERATE
    assert config.l2_limit_for_tiling == 1 << 20
    assert config.max_aux_streams == 2
    assert [config.get_compute_capability(number).name for number in range(2)] == ["SM86", "SM120"]


def test_defaults_are_the_builders_own_but_for_tf32() -> None:
    config, untouched = configured(DEFAULTS), trt.Builder(trt.Logger(trt.Logger.ERROR)).create_builder_config()
    for name in ("builder_optimization_level", "tiling_optimization_level", "l2_limit_for_tiling", "max_aux_streams"):
        assert getattr(config, name) == getattr(untouched, name)
    assert untouched.get_flag(trt.BuilderFlag.TF32) and not config.get_flag(trt.BuilderFlag.TF32)
    assert configured(BuilderOptions(tf32=True)).get_flag(trt.BuilderFlag.TF32)


def test_names_are_the_librarys() -> None:
    assert [level.upper() for level in TILING] == list(trt.TilingOptimizationLevel.__members__)
    assert set(TARGETS) < set(trt.ComputeCapability.__members__)


def test_option_that_a_version_lacks_is_named() -> None:
    old = SimpleNamespace(__name__="tensorrt", __version__="10.0.1", BuilderFlag=trt.BuilderFlag, ComputeCapability=())
    config = SimpleNamespace(clear_flag=lambda flag: None, num_compute_capabilities=0)
    with pytest.raises(EnvironmentProblem, match=r"tensorrt 10\.0\.1 has no tiling_optimization_level"):
        BuilderOptions(tiling="fast").apply(old, config)
    with pytest.raises(EnvironmentProblem, match=r"tensorrt 10\.0\.1 does not build for SM121"):
        BuilderOptions(targets=("SM121",)).apply(old, config)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_builds(name: str, tmp_path: Path) -> None:
    graph = tiny_graph(tmp_path / "g.onnx")
    built = build_plan("tensorrt-rtx", graph, tmp_path / "plan", (8, 8, 8), VARIANTS[name])
    assert built["options"] == VARIANTS[name].described()
    assert (tmp_path / "plan").stat().st_size == built["plan_bytes"] > 0

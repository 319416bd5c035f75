"""Recipes, the choice of a builder, and what a build leaves."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest

from mura_trt import build, plan
from mura_trt.build import build_bundle
from mura_trt.builder_options import DEFAULTS
from mura_trt.bundle import Bundle
from mura_trt.contract import PRECISIONS
from mura_trt.cuda_devices import GpuKind, cuda_device_count
from mura_trt.engine_recipe import Recipe
from mura_trt.errors import CheckpointError, EnvironmentProblem, UsageError
from mura_trt.networks.checkpoints import Checkpoints
from mura_trt.networks.imported import Imported
from mura_trt.networks.told import Told
from mura_trt.parity.bounds import BOUNDS
from mura_trt.plan import build_plan, find_builder
from tests.gpu import skip_without_plans_of
from tests.networks.graphs import Small

ENGINES = Path(__file__).parent.parent / "engines"


@pytest.mark.parametrize("path", sorted(ENGINES.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipe_reads(path: Path) -> None:
    recipe = Recipe.read(path)
    assert recipe.name.startswith(path.stem)
    assert recipe.precision in path.stem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("precision = 'fp4'", "fp4.*fp32, fp16"),
        ("batch = [4, 2, 8]", "batch"),
        ("batch = 0", "batch 0: a number from 1 up"),
        ("batch = [4, 8]", "batch"),
        ("batch = 'big'", "batch big"),
        ("batch = 'auto'\nbuilder = 'none'", "makes no plan"),
        ("builder = 'make'", "builder 'make'"),
        ("precison = 'fp16'", "unknown key precison"),
        ("= 3", "not a readable recipe"),
        ("error_budget = -1", "error_budget"),
        ("calibration_method = 'mse'", "percentile, max"),
        ("check_views = 0", "check_views 0"),
        ("name = 2026-11-27", "name 2026-11-27: text"),
        ("calibration_views = 6.5", "calibration_views 6.5: a whole number"),
        ("[parity.model]\ndp_min = 1", "bound 'model.dp_min': there is none"),
        ("[parity.model]\ndp_max = -1", "model.dp_max: -1 is no number from 0 up"),
        ("[parity.model]\ndp_max = 'a'", "'a' is no number"),
        ("[parity]\nmodel = 3", "takes tables"),
        ("parity = 3", "takes tables"),
        ("precision = 'fp32'\n[parity.half]\nlargest = 3", "half.largest"),
    ],
)
def test_wrong_recipe_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(UsageError, match=rf"r\.toml: .*({message})"):
        Recipe.read(tmp_path / "r.toml")
    with pytest.raises(UsageError, match="not a readable recipe"):
        Recipe.read(tmp_path / "absent.toml")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_recipe_for_another_precision_has_that_ones_bounds_and_name(precision: str) -> None:
    recipe = Recipe.read(ENGINES / "densenet169-fp16.toml").in_precision(precision)
    assert recipe.bounds == BOUNDS[precision]
    assert recipe.precision in recipe.name
    assert Recipe(name="mine").in_precision(precision).name == f"mine-{precision}"


def test_bundle_tells_how_it_was_built(bundle: Bundle) -> None:
    built = bundle.manifest.builder
    assert built is not None
    assert bundle.manifest.name == "densenet169-fp16"
    assert built["name"] == "tensorrt-rtx"
    assert built["batch"] == [1, 64, 256]
    assert built["plan_bytes"] > 20_000_000
    assert built["seconds"] > 0
    assert built["options"] == DEFAULTS.described()
    assert built["least_compute_capability"] == [8, 0]
    assert built["rebuild"].startswith("mura-trt build-engine /")
    assert built["rebuild"].endswith(" --overwrite")
    assert f" -o {bundle.folder} " in built["rebuild"]
    assert " --checkpoint " in built["rebuild"] and " --calibrate " in built["rebuild"]
    assert bundle.manifest.precision == "fp16"
    assert set(bundle.manifest.versions) == {"mura_trt", "torch", "onnx"}


def test_bundle_without_a_builder_has_both_graphs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    origin = Imported(Told(Small().write(tmp_path / "lab.onnx"), (0.5,), (0.25,)))
    bundle = build_bundle(origin, Recipe(precision="fp32", builder="none"), tmp_path / "engine", check=False)
    assert bundle.manifest.builder is None
    assert bundle.path("onnx").read_bytes() == bundle.path("fp32_onnx").read_bytes()
    assert "has no plan" in caplog.text


@pytest.mark.skipif(cuda_device_count() > 0, reason="a GPU, on which a batch can be measured")
def test_batch_is_measured_on_a_gpu_only(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"--batch auto measures plans on a GPU.*--batch 64"):
        build_bundle(Checkpoints([checkpoint]), Recipe(batch="auto"), tmp_path / "engine")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
def test_batch_is_measured_and_recorded(checkpoint: Path, tmp_path: Path) -> None:
    skip_without_plans_of(find_builder("auto"))
    bundle = build_bundle(Checkpoints([checkpoint]), Recipe(batch="auto"), tmp_path / "engine", check=False)
    built = bundle.manifest.builder
    assert built is not None
    assert set(built["sweep"]) == {"16", "32", "64", "128", "256"}
    assert built["batch"] == [built["batch"][0]] * 3
    assert built["sweep"][str(built["batch"][0])] > 0


@pytest.mark.parametrize(
    ("batch", "profile"), [(64, (64, 64, 64)), ((1, 2, 3), (1, 2, 3)), ("auto", None), ((8, 8, 8), (8, 8, 8))]
)
def test_batch_is_one_number_three_or_measured(
    batch: int | str | tuple[int, int, int], profile: tuple[int, int, int] | None
) -> None:
    assert Recipe(batch=batch).profile == profile


def test_gpu_that_the_builder_does_not_support_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(build, "gpu_kind", lambda: GpuKind("a card", (9, 0)))
    monkeypatch.setattr(build, "cuda_device_count", lambda: 1)
    recipe, absent = Recipe(builder="tensorrt-rtx"), Checkpoints([tmp_path / "absent.pth"])
    with pytest.raises(EnvironmentProblem, match=r"--batch auto .*does not support a card.*--batch 64"):
        build_bundle(absent, dataclasses.replace(recipe, batch="auto"), tmp_path / "engine")
    assert caplog.text == ""
    with pytest.raises(CheckpointError):  # for it goes on
        build_bundle(absent, recipe, tmp_path / "engine")
    (told,) = caplog.messages
    assert told.startswith(
        "TensorRT-RTX does not support a card (compute capability 9.0): the plan is for other machines"
    )
    assert "--builder tensorrt " in told and "--runtime auto" in told


def test_wrong_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        build_bundle(Checkpoints([tmp_path / "absent.pth"]), Recipe(builder="none"), tmp_path / "engine")
    assert list(tmp_path.iterdir()) == []


def test_unparsable_graph_names_the_reason(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 3, 1])
    node = onnx.helper.make_node("NoSuchOperator", ["image"], ["y"])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [result])), tmp_path / "g.onnx")
    with pytest.raises(EnvironmentProblem, match=r"cannot parse g\.onnx"):
        build_plan("tensorrt-rtx", tmp_path / "g.onnx", tmp_path / "plan", (1, 1, 1))


def test_builder_that_refuses_is_told_with_its_log(bundle: Bundle, tmp_path: Path) -> None:
    """A profile whose least exceeds its most passes our recipe check only when called past it, and not TensorRT's."""
    with pytest.raises(EnvironmentProblem, match=r"could not build model\.onnx: (?!no reason)"):
        build_plan("tensorrt-rtx", bundle.path("onnx"), tmp_path / "plan", (4, 2, 1))
    assert not (tmp_path / "plan").exists()


def test_builder_is_chosen_by_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_builder("none") is None
    assert find_builder("tensorrt-rtx") == "tensorrt-rtx"
    if cuda_device_count() == 0:
        assert find_builder("auto") == "tensorrt-rtx"
        with pytest.raises(EnvironmentProblem, match=r"--builder tensorrt: .*none here"):
            find_builder("tensorrt")
    with monkeypatch.context() as both:
        both.setattr(plan, "cuda_device_count", lambda: 1)
        both.setitem(plan.BUILDERS, "tensorrt", "tensorrt_rtx")  # a module that imports, in TensorRT's place
        assert find_builder("auto") == "tensorrt"
    monkeypatch.setitem(plan.BUILDERS, "tensorrt-rtx", "no_such_module")
    with pytest.raises(EnvironmentProblem, match=r"no_such_module does not import.*pip install tensorrt-rtx"):
        find_builder("tensorrt-rtx")

"""What a plan was built for, and where it is refused before it is tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mura_trt import plan
from mura_trt.builder_options import DEFAULTS, BuilderOptions
from mura_trt.bundle import Bundle
from mura_trt.cuda_devices import GpuKind, cuda_device_count, gpu_kind
from mura_trt.errors import UsageError
from mura_trt.plan import build_plan, header_problem, unsupported, why_not
from tests.graphs import tiny_graph

trt = pytest.importorskip("tensorrt_rtx")

UNSUPPORTED = "UNSUPPORTED_CC"  # the header's problem in the library's words
REBUILD = "mura-trt build-engine r.toml --checkpoint c.pth -o engines/mine --overwrite"
TENSORRT = {
    "name": "tensorrt",
    "version": "10.16.1.11",
    "targets": "NVIDIA H100 (SM90)",
    "compute_capability": [9, 0],
    "least_compute_capability": None,
    "rebuild": REBUILD,
}
RTX = {
    "name": "tensorrt-rtx",
    "version": "1.7.1.116",
    "targets": "SM80, SM86, SM89, SM120 and later",
    "compute_capability": None,
    "least_compute_capability": [8, 0],
    "rebuild": REBUILD,
}


@pytest.mark.parametrize(
    ("built", "installed", "capability"),
    [
        (TENSORRT, "10.16.1.11", (9, 0)),
        (TENSORRT, "10.16.1.12", (9, 0)),  # another build of one release: nothing says that it does not load
        (RTX, "1.7.1.116", (8, 0)),
        (RTX, "1.7.1.116", (8, 9)),
        (RTX, "1.7.1.116", (12, 1)),
        (RTX, "1.7.1.116", (13, 0)),
        ({**RTX, "least_compute_capability": [7, 5]}, "1.7.1.116", (7, 5)),
        ({"name": "tensorrt", "version": "10.16.1.11", "targets": "this machine's GPU"}, "10.16.1.11", (8, 6)),
    ],
)
def test_plan_that_may_load_is_not_refused(built: dict[str, Any], installed: str, capability: tuple[int, int]) -> None:
    assert why_not(built, installed, GpuKind("a card", capability)) is None


@pytest.mark.parametrize(
    ("built", "installed", "capability", "reason"),
    [
        (TENSORRT, "10.16.1.11", (8, 9), "GPU here is SM89"),
        (TENSORRT, "10.16.1.11", (12, 0), "GPU here is SM120"),
        (TENSORRT, "10.16.2.1", (9, 0), "tensorrt here is 10.16.2.1"),
        (TENSORRT, "11.0.0.1", (9, 0), "tensorrt here is 11.0.0.1"),
        (RTX, "1.8.0.10", (8, 9), "tensorrt-rtx here is 1.8.0.10"),
        (RTX, "1.7.1.116", (7, 5), "SM75, which is older"),
        ({**RTX, "least_compute_capability": [12, 0]}, "1.7.1.116", (8, 9), "SM89, which is older"),
    ],
)
def test_plan_that_cannot_load_is_refused_with_the_command_that_rebuilds_it(
    built: dict[str, Any], installed: str, capability: tuple[int, int], reason: str
) -> None:
    refusal = why_not(built, installed, GpuKind("a card", capability))
    assert refusal is not None
    assert reason in refusal
    assert f"built by {built['name']} {built['version']} for {built['targets']}" in refusal
    assert refusal.endswith(f"rebuild it: {REBUILD}")


def test_refusal_of_an_older_bundle_still_ends_with_a_command() -> None:
    built = {"name": "tensorrt", "version": "10.8.0.43", "targets": "this machine's GPU"}
    refusal = why_not(built, "11.0.0", GpuKind("a card", (9, 0)))
    assert refusal is not None
    assert refusal.endswith("mura-trt build-engine --checkpoint CHECKPOINT --builder tensorrt -o BUNDLE --overwrite")


@pytest.mark.parametrize("capability", [(7, 0), (8, 7), (9, 0), (10, 0), (10, 3), (11, 0)])
def test_gpu_that_tensorrt_rtx_does_not_support_is_named_with_what_does(capability: tuple[int, int]) -> None:
    card = GpuKind("a card", capability)
    named = "TensorRT-RTX does not support a card (compute capability {}.{})".format(*capability)
    assert unsupported("tensorrt-rtx", card) == named
    assert unsupported("tensorrt", card) is None
    for installed in ("1.7.1.116", "1.8.0.10"):  # building it anew with the release here is no help
        refusal = why_not({**RTX, "least_compute_capability": [7, 5]}, installed, card)
        assert refusal is not None
        assert refusal.startswith(f"{named}; score with another runtime (--runtime auto does)")
        assert refusal.endswith(f"rebuild it: {REBUILD} --builder tensorrt")
    without_command = {name: value for name, value in RTX.items() if name != "rebuild"}
    assert " --builder tensorrt -o BUNDLE" in str(why_not(without_command, "1.7.1.116", card))


def test_entry_tells_what_the_plan_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "gpu_kind", lambda: GpuKind("a card", (9, 0)))
    graph = tiny_graph(tmp_path / "g.onnx")
    options = BuilderOptions(targets=("SM120", "SM75"))
    built = build_plan("tensorrt-rtx", graph, tmp_path / "plan", (4, 4, 4), options, tmp_path / "timings")
    assert built["batch"] == [4, 4, 4]
    assert built["version"] == trt.__version__
    assert built["targets"] == "SM120, SM75"
    assert built["least_compute_capability"] == [7, 5]
    assert why_not(built, trt.__version__, GpuKind("a card", (7, 5))) is None
    # It has no timing cache; with one, it would look for a GPU.
    assert not (tmp_path / "timings").exists()


def test_rtx_builds_for_an_older_gpu_where_it_is_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = tiny_graph(tmp_path / "g.onnx")
    for capability, targets, least in (((7, 5), ["SM75"], [7, 5]), ((8, 9), [], [8, 0])):
        monkeypatch.setattr(plan, "gpu_kind", lambda capability=capability: GpuKind("a card", capability))
        built = build_plan("tensorrt-rtx", graph, tmp_path / "plan", (4, 4, 4))
        assert built["options"]["targets"] == targets
        assert built["least_compute_capability"] == least
        assert why_not(built, trt.__version__, GpuKind("a card", capability)) is None


def test_rtx_builds_for_other_machines_where_it_does_not_support_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = tiny_graph(tmp_path / "g.onnx")
    for capability in ((7, 0), (9, 0)):
        monkeypatch.setattr(plan, "gpu_kind", lambda capability=capability: GpuKind("a card", capability))
        built = build_plan("tensorrt-rtx", graph, tmp_path / "plan", (4, 4, 4))
        assert (built["options"]["targets"], built["least_compute_capability"]) == ([], [8, 0])


def test_entry_of_a_tensorrt_plan_is_for_its_gpu() -> None:
    entry = {"name": "tensorrt", "version": "11.0.0.1", **plan._built_for("tensorrt", GpuKind("T4", (7, 5)), DEFAULTS)}
    assert entry["targets"] == "T4 (SM75)"
    assert why_not(entry, "11.0.0.1", GpuKind("T4", (7, 5))) is None
    assert "for T4 (SM75); the GPU here is SM80" in str(why_not(entry, "11.0.0.1", GpuKind("A100", (8, 0))))


def test_targets_are_refused_where_the_gpu_at_hand_is_the_target(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="targets: tensorrt builds for the GPU at hand"):
        build_plan("tensorrt", tmp_path / "g.onnx", tmp_path / "plan", (1, 1, 1), BuilderOptions(targets=("SM80",)))


def test_header_of_what_is_no_plan_is_refused_with_the_librarys_words() -> None:
    runtime = trt.Runtime(trt.Logger(trt.Logger.INTERNAL_ERROR))
    assert header_problem(trt, runtime, b"no plan at all" * 10) == "MALFORMED_ENGINE"
    assert header_problem(trt, object(), b"") is None  # TensorRT's runtime has no such check


@pytest.mark.gpu
def test_header_of_a_plan_is_sound_where_tensorrt_rtx_supports_the_gpu(bundle: Bundle) -> None:
    device = gpu_kind()
    assert device is not None
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    problem = header_problem(trt, runtime, bundle.path("plan").read_bytes())
    assert problem == (UNSUPPORTED if unsupported("tensorrt-rtx", device) else None)


def test_device_is_none_where_there_is_none() -> None:
    assert gpu_kind(cuda_device_count()) is None


@pytest.mark.gpu
def test_device_has_name_and_architecture() -> None:
    device = gpu_kind()
    assert device is not None
    assert device.name
    assert device.architecture == f"SM{device.compute_capability[0]}{device.compute_capability[1]}"


@pytest.mark.gpu
def test_tensorrt_keeps_its_timings(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt")
    graph = tiny_graph(tmp_path / "g.onnx")
    built = build_plan("tensorrt", graph, tmp_path / "plan", (8, 8, 8), timings=tmp_path / "timings")
    (kept,) = (tmp_path / "timings").iterdir()
    first = kept.stat().st_size
    assert first > 200
    build_plan("tensorrt", graph, tmp_path / "plan", (8, 8, 8), timings=tmp_path / "timings")
    assert [path.name for path in (tmp_path / "timings").iterdir()] == [kept.name]
    device = gpu_kind()
    assert device is not None
    assert built["compute_capability"] == list(device.compute_capability)
    assert why_not(built, built["version"], device) is None

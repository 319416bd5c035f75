"""``mura-trt inspect``: all of a bundle, sound or not, and a plan's layers where there is a GPU."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mura_trt.bundle import Bundle
from mura_trt.cuda_devices import cuda_device_count
from mura_trt.errors import BundleError, RuntimeUnavailable
from mura_trt.inspect_bundle import in_words, inspected
from mura_trt.plan_layers import Layer, layers_of, plan_layers, timed_layers
from tests.bundles import remade
from tests.gpu import skip_where_refused


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mura_trt", "inspect", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_tells_of_manifest_files_and_graph(bundle: Bundle) -> None:
    done = run(bundle.folder)
    assert done.returncode == 0, done.stderr
    words = done.stdout
    assert "tensorrt-rtx" in words and "SM80, SM86, SM89, SM120 and later" in words
    assert "1 to 256 views, tuned for 64" in words
    assert "options     the defaults" in words
    assert "12.6 GFLOP a view" in words and "168 in fp16, 1 in fp32" in words
    assert bundle.manifest.parity_summary in words
    assert words.count("as it was built") == 3
    assert "build-engine" in words
    assert "layers" not in words


def test_json_is_the_manifest_and_more(bundle: Bundle) -> None:
    found = json.loads(run(bundle.folder, "--json").stdout)
    manifest = json.loads((bundle.folder / "bundle.json").read_text())
    assert {name: found[name] for name in manifest if name not in ("files", "digest")} == {
        name: value for name, value in manifest.items() if name not in ("files", "digest")
    }
    assert [(file["name"], file["bytes"], file["problem"]) for file in found["files"]] == [
        (name, (bundle.folder / name).stat().st_size, None) for name in ("model.plan", "model.onnx", "model-fp32.onnx")
    ]
    assert found["sha256"] == bundle.sha256
    assert found["graph"]["gflop_per_view"] == pytest.approx(12.59, abs=0.05)
    assert found["layers"] is None and found["layers_problem"] is None


def test_damaged_files_are_named_and_the_rest_is_told(bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.folder, tmp_path / "engine"))
    (folder / "model.plan").unlink()
    with (folder / "model-fp32.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"x")
    done = run(folder)
    assert done.returncode == 5
    assert "model.plan is missing" in done.stdout
    assert "model-fp32.onnx differs from what was built" in done.stdout
    assert "12.6 GFLOP" in done.stdout
    (folder / "model.onnx").write_bytes(b"short")
    found = inspected(folder)
    assert found["graph"] is None
    assert "has 5 bytes instead of" in found["graph_problem"]
    assert "not looked at" in in_words(found)


def test_no_bundle_is_an_error(bundle: Bundle, tmp_path: Path) -> None:
    assert "no engine bundle there" in run(tmp_path).stderr
    shutil.copytree(bundle.folder, tmp_path / "engine")
    path = tmp_path / "engine" / "bundle.json"
    path.write_text(path.read_text().replace("fp16", "fp32"))
    with pytest.raises(BundleError, match="changed after it was written"):
        inspected(tmp_path / "engine")


def test_bundle_without_a_plan_and_one_with_more_to_tell(bundle: Bundle, tmp_path: Path) -> None:
    without = remade(bundle, tmp_path / "without", builder=None)
    with pytest.raises(RuntimeUnavailable, match="no plan"):
        plan_layers(without)
    built = bundle.manifest.builder
    assert built is not None
    more = {
        **built,
        "batch": [32, 32, 32],
        "options": {**built["options"], "tiling": "full"},
        "sweep": {"16": 1000.4, "32": 2000.0, "256": None},
    }
    rounding = {"method": "max", "sample": ["a", "b"], "in_half_precision": {"x": 1.0}, "ranges": {"x": 1.0, "y": 2.0}}
    words = in_words(inspected(remade(bundle, tmp_path / "more", builder=more, quantization=rounding).folder))
    assert "batch       32 views" in words
    assert "options     tiling full" in words
    assert "16: 1000, 32: 2000, 256: -" in words
    assert "max on 2 views; 1 of 2 convolutions stay in half precision" in words


@pytest.mark.skipif(cuda_device_count() > 0, reason="a GPU, which has layers to show")
def test_layers_need_a_gpu(bundle: Bundle) -> None:
    done = run(bundle.folder, "--layers")
    assert done.returncode == 5
    assert "no layers to show: layers are a plan's on a GPU, and there is none here" in done.stderr
    assert "12.6 GFLOP" in done.stdout


def test_layers_are_read_with_details_and_without() -> None:
    detailed = {
        "Name": "conv0 + relu0",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "a", "Format/Datatype": "Int8"}],
        "Outputs": [{"Name": "b", "Format/Datatype": "Half"}],
        "TacticName": "sm90_xmma",
    }
    apart = {"Name": "conv1", "Outputs": [{"Name": "c", "Datatype": "FP16", "Format": "NHWC"}]}
    layers = layers_of(json.dumps({"Layers": [detailed, apart, "names only", {"Name": "bare"}], "Bindings": ["image"]}))
    assert layers == [
        Layer("conv0 + relu0", "CaskConvolution", "Half", "sm90_xmma"),
        Layer("conv1", None, "FP16, NHWC"),
        Layer("names only"),
        Layer("bare"),
    ]


def test_layers_have_the_median_of_their_times() -> None:
    layers = [Layer("a", kind="Conv"), Layer("b"), Layer("c")]
    timed = timed_layers(layers, [{"a": 1.0, "b": 5.0, "copy": 0.5}, {"a": 9.0, "b": 6.0}, {"a": 2.0, "b": 7.0}])
    assert timed == [Layer("a", kind="Conv", ms=2.0), Layer("b", ms=6.0), Layer("c"), Layer("copy", ms=0.5)]


@pytest.mark.gpu
def test_layers_of_a_plan_take_time(bundle: Bundle) -> None:
    skip_where_refused(bundle)
    layers = plan_layers(bundle)
    assert any(layer.kind for layer in layers)  # else the plan was built without details
    assert sum(layer.ms or 0 for layer in layers) > 0
    done = run(bundle.folder, "--layers")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ms a batch" in done.stdout

"""Bundles of imported networks through everything that takes a bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image
from typer.testing import CliRunner

from mura_trt.archives import NamedArchive
from mura_trt.bench.reference import GFLOP_PER_VIEW
from mura_trt.build import build_bundle
from mura_trt.bundle import Bundle
from mura_trt.cli import app
from mura_trt.engine_recipe import Recipe
from mura_trt.errors import BundleError, RuntimeUnavailable, UsageError
from mura_trt.graph_facts import graph_facts
from mura_trt.heatmaps import heatmap_of_image
from mura_trt.networks.imported import Imported, opened
from mura_trt.networks.original import Original, normalised
from mura_trt.networks.told import Facts, Told
from mura_trt.networks.trial import pictures
from mura_trt.parity.judge import Judgement
from mura_trt.parity.onnx_reference import OnnxReference
from mura_trt.parity.run import ParityOptions, parity
from mura_trt.runtimes import SessionOptions, open_session
from mura_trt.score import score
from mura_trt.score_options import ScoreOptions
from tests.bundles import remade
from tests.networks.graphs import Small

NET = Small(columns=2, squash="Softmax")
RECIPE = Recipe(builder="none", check_views=6)


def told(path: Path, **changes: Any) -> Told:
    return replace(Told(path, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), **changes)


@pytest.fixture(scope="module")
def named(archive: Path) -> NamedArchive:
    return NamedArchive(archive)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of two classes that ends in a map's tail."""
    return NET.write(tmp_path_factory.mktemp("file") / "lab.onnx")


@pytest.fixture(scope="module")
def mapped(file: Path, named: NamedArchive, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An FP16 bundle of it without a plan."""
    origin = Imported(told(file, abnormal=1))
    return build_bundle(origin, RECIPE, tmp_path_factory.mktemp("mapped") / "engine", archive=named)


@pytest.fixture(scope="module")
def mapless(named: NamedArchive, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("mapless")
    origin = Imported(told(Small(head="deep").write(folder / "deep.onnx")))
    return build_bundle(origin, RECIPE, folder / "engine", archive=named)


def test_the_bundle_says_what_it_is_of(mapped: Bundle, file: Path) -> None:
    manifest = mapped.manifest
    assert (manifest.name, manifest.network, manifest.reference) == ("lab-fp16", "lab", "its ONNX file")
    assert manifest.contract.map_shape == (6, 4) and (manifest.contract.height, manifest.contract.width) == (48, 32)
    assert manifest.imported == Facts("picture", "NCHW", None, "squashed", 2, "probability", 1).described()
    assert manifest.checkpoints_sha256 == Imported(told(file)).sha256
    assert manifest.parity is not None and manifest.parity["kept"] and manifest.parity["views"] == 6
    assert manifest.parity["reference"] == "its ONNX file"
    assert "half.largest" in json.dumps(manifest.bounds) and "torch" not in manifest.versions
    mapped.require_proof()
    mapped.require_map()


def test_inspect_tells_it(mapped: Bundle, mapless: Bundle) -> None:
    for bundle, output in ((mapped, "map of 6 x 4"), (mapless, "no map")):
        done = CliRunner().invoke(app, ["inspect", str(bundle.folder)])
        assert done.exit_code == 0, done.output
        assert f"output      probability, logit, {output}" in done.stdout
        assert f"network     {bundle.manifest.network}, imported from ONNX" in done.stdout
        assert "(SHA-256 of the ONNX file)" in done.stdout and "GFLOP a view" in done.stdout
    assert 0 < graph_facts(mapped.path("fp32_onnx")).gflop_per_view < GFLOP_PER_VIEW / 1000


def compared(bundle: Bundle, archive: NamedArchive, *files: Path, **options: Any) -> Judgement:
    """In few studies, so that a decision that turns is a large share of them."""
    loose = {"studies.flip_share": 1.0, "clinical.auroc": 1.0, "clinical.kappa": 2.0}
    judgement, _ = parity(ParityOptions(bundle.folder, archive, files, studies=6, changes=loose, **options))
    return judgement


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime"])
def test_parity_compares_with_the_file_itself(runtime: str, mapped: Bundle, file: Path, named: NamedArchive) -> None:
    judgement = compared(mapped, named, file, runtime=runtime)
    assert not judgement.missed, judgement.missed
    assert judgement.value("model", "dp_max") < 5e-3
    assert any(figure.name.startswith("largest, of ") for figure in judgement.figures)
    if runtime == "auto":
        assert judgement.value("model", "dp_max") > 0  # it is not the FP32 graph that was compared


def spoiled(bundle: Bundle, folder: Path, name: str, factor: float) -> Bundle:
    graph = onnx.load(bundle.path("onnx"))
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), name))
    return remade(bundle, folder, graph)


@pytest.mark.parametrize(("name", "factor"), [("mean", 0.8), ("scale", 1.2), ("classifier.weight", 1.1)])
def test_a_wrong_wrapping_is_caught(
    name: str, factor: float, mapped: Bundle, file: Path, named: NamedArchive, tmp_path: Path
) -> None:
    judgement = compared(spoiled(mapped, tmp_path / "engine", name, factor), named, file)
    assert "model" in {figure.level for figure in judgement.missed}


def test_parity_takes_what_the_bundle_was_built_from(
    mapped: Bundle,
    bundle: Bundle,
    checkpoint: Path,
    file: Path,
    named: NamedArchive,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(UsageError, match=r"lab\.onnx: the bundle was built from PyTorch checkpoints"):
        compared(bundle, named, file)
    with pytest.raises(UsageError, match=r"model\.safetensors: not an ONNX file"):
        compared(mapped, named, checkpoint)
    with pytest.raises(UsageError, match="of one ONNX file, by import-onnx, and --checkpoint names 2 files"):
        compared(mapped, named, file, file)
    other = replace(NET, seed=3).write(tmp_path / "other.onnx")
    assert "model" in {figure.level for figure in compared(mapped, named, other).missed}
    assert "built from other files than these" in caplog.text


def test_narrow_formats_are_refused_before_any_work(file: Path, named: NamedArchive, tmp_path: Path) -> None:
    command = ["import-onnx", str(file), "--engine", str(tmp_path / "e"), "--mean", "0", "--std", "1"]
    done = CliRunner().invoke(app, [*command, "--precision", "int8", "--calibrate", str(named.place)])
    assert done.exit_code == 2
    assert "measured by PyTorch's gradients" in done.output and "--precision fp16 or fp32" in done.output
    assert list(tmp_path.iterdir()) == []


def test_the_command_needs_to_be_told_the_numbers(file: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["import-onnx", str(file), "--engine", str(tmp_path / "e")])
    assert done.exit_code == 2
    assert "--mean is not in the graph and has to be told" in done.output


@pytest.fixture(scope="module")
def run(mapped: Bundle, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive's wrists, scored with heatmaps."""
    out = tmp_path_factory.mktemp("run") / "out"
    wrists = next(archive.rglob("XR_WRIST"))
    score(ScoreOptions(wrists, mapped.folder, out, runtime="onnxruntime", heatmaps="all", batch=4))
    return out


def test_scores_are_the_files_own(run: Path, file: Path, mapped: Bundle, archive: Path) -> None:
    from mura_trt.archives import list_archive
    from mura_trt.pixels import decoded_views

    listing = list_archive(next(archive.rglob("XR_WRIST")))
    count = len(listing)
    parts = decoded_views(listing.source, listing.references(0, count), (48, 32), listing.kinds_of(0, count))
    pixels = np.concatenate([part.pixels.copy() for part in parts])
    assert mapped.manifest.imported is not None
    probability, logit = Original(file, mapped.contract, Facts.of(mapped.manifest.imported)).scores(pixels)
    views = pd.read_csv(run / "views.csv")
    np.testing.assert_allclose(views["probability"], probability, atol=1e-5)
    np.testing.assert_allclose(views["logit"], logit, atol=1e-3)
    assert views["probability"].std() > 0.01
    said = json.loads((run / "run.json").read_text())
    assert said["bundle"]["reference"] == "its ONNX file" and said["heatmaps"] == count


def test_heatmaps_have_the_networks_own_size(run: Path) -> None:
    table = pd.read_csv(run / "heatmaps.csv")
    assert [name for name in table.columns if name.startswith("m")] == [f"m{at}" for at in range(24)]
    views = pd.read_csv(run / "views.csv")
    means = table[[f"m{at}" for at in range(24)]].mean(axis=1)
    bias = NET.weights()["bias"]
    np.testing.assert_allclose(means + bias[1] - bias[0], views["logit"], atol=1e-3)
    with Image.open(run / table["file"][0]) as picture:
        assert picture.size == (32, 48)


def test_a_report_and_an_evaluation_follow(run: Path) -> None:
    for command in (["evaluate", str(run), "--resamples", "50"], ["report", str(run)]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    assert "against its ONNX file in FP32" in (run / "report.html").read_text()


def test_one_picture_is_drawn(mapped: Bundle, archive: Path, tmp_path: Path) -> None:
    found = heatmap_of_image(next(archive.rglob("*.png")), mapped.folder, tmp_path / "a.png", "onnxruntime")
    assert np.shape(found["map"]) == (6, 4)


def test_without_a_map_no_heatmap_is_begun(mapless: Bundle, archive: Path, tmp_path: Path) -> None:
    image = next(archive.rglob("*.png"))
    for resume in (False, True):
        with pytest.raises(UsageError, match=r"this bundle's graph has no class activation map.*without heatmaps"):
            score(ScoreOptions(archive, mapless.folder, tmp_path / "out", heatmaps="all", resume=resume))
    with pytest.raises(UsageError, match="no class activation map"):
        heatmap_of_image(image, mapless.folder, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("runtime", ["onnxruntime", "null"])
def test_without_a_map_all_else_is_scored(runtime: str, mapless: Bundle, archive: Path, tmp_path: Path) -> None:
    wrists = next(archive.rglob("XR_WRIST"))
    found = score(ScoreOptions(wrists, mapless.folder, tmp_path / "out", runtime=runtime))
    assert found["scored"] == found["listed"] > 0


@pytest.mark.parametrize("runtime", ["torch", "torch_fused", "torch_cuda"])
def test_pytorch_has_no_module_for_it(runtime: str, mapped: Bundle) -> None:
    reason = "imported from an ONNX file" if runtime == "torch" else "no GPU here|imported from an ONNX file"
    with pytest.raises(RuntimeUnavailable, match=reason):
        open_session(runtime, mapped, SessionOptions())


def test_a_damaged_bundle_says_how_it_is_built_again(mapped: Bundle, tmp_path: Path) -> None:
    copy = remade(mapped, tmp_path / "engine")
    copy.path("onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"rebuild it: mura-trt import-onnx lab\.onnx --precision fp16"):
        Bundle.open(copy.folder)
    unproven = remade(mapped, tmp_path / "unproven", parity=None)
    with pytest.raises(BundleError, match=r"never compared with its ONNX file; .*--checkpoint lab\.onnx"):
        unproven.require_proof()


def values_of(path: Path, net: Small, pixels: NDArray[np.uint8]) -> OnnxReference:
    found = opened(told(net.write(path)))
    reference = OnnxReference(path, found.contract, found.facts, ranges=True)
    reference.scores(pixels)
    return reference


def test_the_reference_notes_how_large_values_become(tmp_path: Path) -> None:
    pixels = pictures(48, 32)
    reference = values_of(tmp_path / "a.onnx", Small(batch=2), pixels)  # the last of three fills up a batch
    assert set(reference.largest) == {"picture", "conv1", "conv2", "pooled", "scores"}
    first = Small().weights()["first"]
    grown = Small().model()
    tensor = next(one for one in grown.graph.initializer if one.name == "first")
    tensor.CopyFrom(numpy_helper.from_array(first * np.float32(1e4), "first"))
    onnx.save(grown, tmp_path / "b.onnx")
    found = opened(told(tmp_path / "b.onnx"))
    larger = OnnxReference(tmp_path / "b.onnx", found.contract, found.facts, ranges=True)
    larger.scores(pixels)
    assert larger.largest["conv1"] == pytest.approx(1e4 * reference.largest["conv1"], rel=1e-3)


def test_the_reference_takes_what_is_no_number_for_infinite(tmp_path: Path) -> None:
    net = Small(head="own deviation", channels=1)
    path = net.write(tmp_path / "a.onnx")
    found = opened(told(path, mean=(0.5,), std=(0.25,)))
    reference = OnnxReference(path, found.contract, found.facts, ranges=True)
    reference.scores(pictures(48, 32))
    assert np.isfinite(list(reference.largest.values())).all()
    reference.scores(np.full((1, 48, 32, 1), 128, np.uint8))
    assert reference.largest["ratio"] == reference.largest["scores"] == np.inf


def test_half_precision_rounds_features_and_weights_and_overflows(tmp_path: Path) -> None:
    """Against the same in NumPy's own half precision, one convolution after the other in torch's FP32."""
    pixels = pictures(48, 32)
    reference = values_of(tmp_path / "a.onnx", Small(head="gemm"), pixels)

    def half(x: torch.Tensor) -> torch.Tensor:
        return x.half().float()

    weights = {name: half(torch.from_numpy(values)) for name, values in Small().weights().items()}
    contract = opened(told(tmp_path / "a.onnx")).contract
    x = half(torch.from_numpy(normalised(pixels, contract, "NCHW")))
    x = half(torch.relu(half(torch.nn.functional.conv2d(x, weights["first"], padding=1, stride=4))))
    x = half(torch.relu(half(torch.nn.functional.conv2d(x, weights["second"], padding=1, stride=2))))
    expected = torch.sigmoid(half(x.mean((2, 3))) @ weights["weight"][0] + weights["bias"])
    found = reference.half_scores(pixels)
    exact = reference.scores(pixels)[0]
    assert np.abs(exact - expected.numpy()).max() > 2e-6  # rounding shows
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-6)
    model = Small().model()
    for name, factor in (("first", 1e5), ("second", 1e-5)):  # the same network, but for what lies between
        tensor = next(one for one in model.graph.initializer if one.name == name)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), name))
    onnx.save(model, tmp_path / "b.onnx")
    found_of = opened(told(tmp_path / "b.onnx"))
    grown = OnnxReference(tmp_path / "b.onnx", found_of.contract, found_of.facts, ranges=False)
    np.testing.assert_allclose(grown.scores(pixels)[0], exact, atol=1e-5)
    assert not np.isfinite(grown.half_scores(pixels)).all()

"""Bundles against PyTorch: sound ones agree, broken ones do not, each at the level where it is broken."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import nvidia.dali.fn
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from benchmarks.calibrations import rounding
from mura_trt import gray
from mura_trt.archives import list_archive
from mura_trt.archives.listing import Listing
from mura_trt.bundle import Bundle
from mura_trt.calibrate import METHODS, input_ranges
from mura_trt.contract import InputContract
from mura_trt.errors import BundleError, UsageError
from mura_trt.model import Ensemble, MuraNet
from mura_trt.parity.bounds import BOUNDS, with_changes
from mura_trt.parity.judge import Judgement
from mura_trt.parity.measure import in_batches, pillow_pixels
from mura_trt.parity.reference import Reference, TorchReference
from mura_trt.parity.run import compare
from mura_trt.precision import Quantization, lower, raised
from mura_trt.runtimes import Scores, SessionOptions, open_session
from mura_trt.runtimes.base import HostSession
from mura_trt.sample import whole_studies
from mura_trt.score import score
from mura_trt.score_options import ScoreOptions
from tests.bundles import remade
from tests.conftest import set_batch_norms

# The tests' network has a random head, which makes more of small differences than a trained one.
LOOSE = {"model.dp_mean": 0.02, "model.dp_max": 0.05, "studies.dp_mean": 0.02, "studies.dp_max": 0.05}
DECISIONS = {"studies.flip_share": 1.0, "clinical.auroc": 1.0, "clinical.kappa": 1.0}  # of a handful of studies
INT8 = with_changes(BOUNDS["int8"], LOOSE | DECISIONS)
Change = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def few(archive: Path) -> Listing:
    return whole_studies(list_archive(archive), 2)


@pytest.fixture(scope="module")
def reference(model: MuraNet) -> Reference:
    return TorchReference(model)


@pytest.fixture(scope="module")
def int8(bundle: Bundle, model: MuraNet, pixels: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """INT8 but for the first convolution, calibrated on the tests' views."""
    ranges = input_ranges(model, pixels, METHODS["percentile"])
    graph = lower(onnx.load(bundle.path("fp32_onnx")), Quantization("int8", ranges, kept=["features.conv0"]))
    return remade(bundle, tmp_path_factory.mktemp("int8") / "engine", graph, precision="int8", bounds=INT8)


def missed_levels(judgement: Judgement) -> set[str]:
    return {figure.level for figure in judgement.missed}


def set_tensor(graph: onnx.ModelProto, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(change(values).astype(values.dtype), name))


def double_a_scale(graph: onnx.ModelProto) -> None:
    set_tensor(graph, "features.denseblock2.denselayer3.conv1.weight_scale", lambda scale: 2 * scale)


def swap_mean_and_std(graph: onnx.ModelProto) -> None:
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    set_tensor(graph, "mean", lambda _: 255 * np.reshape(std, (1, 3, 1, 1)))
    set_tensor(graph, "scale", lambda _: 1 / (255 * np.reshape(mean, (1, 3, 1, 1))))


def expand_one_channel_thrice(graph: onnx.ModelProto) -> None:
    for name in ("mean", "scale"):
        set_tensor(graph, name, lambda values: np.repeat(values[:, :1], 3, 1))


def apply_the_sigmoid_twice(graph: onnx.ModelProto) -> None:
    last = next(node for node in graph.graph.node if node.output[0] == "probability")
    last.output[0] = "once"
    graph.graph.node.append(helper.make_node("Sigmoid", ["once"], ["probability"]))


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_fp32_agrees_to_five_digits(runtime: str, bundle: Bundle, few: Listing, reference: Reference) -> None:
    judgement, found = compare(bundle, few, reference, with_changes(BOUNDS["fp32"], DECISIONS), runtime)
    assert not judgement.missed
    assert (found["runtime"], found["kept"], found["views"]) == (runtime, True, len(few))


def test_int8_agrees_within_its_bounds(int8: Bundle, few: Listing, reference: Reference) -> None:
    judgement, found = compare(int8, few, reference, INT8)
    assert not judgement.missed, judgement.missed
    assert found["runtime"] in ("emulated", "tensorrt_rtx")
    assert judgement.value("model", "dp_max") > 1e-4  # it is not FP32 that was compared


@pytest.mark.parametrize(
    "spoil", [double_a_scale, swap_mean_and_std, expand_one_channel_thrice, apply_the_sigmoid_twice]
)
def test_a_broken_graph_fails_at_the_level_of_the_model(
    spoil: Change, int8: Bundle, few: Listing, reference: Reference, tmp_path: Path
) -> None:
    graph = onnx.load(int8.path("onnx"))
    spoil(graph)
    judgement, _ = compare(remade(int8, tmp_path / "broken", graph), few, reference, INT8, "emulated")
    assert "model" in missed_levels(judgement)
    assert missed_levels(judgement) <= {"model", "studies"}
    if spoil is apply_the_sigmoid_twice:
        assert judgement.value("model", "dlogit_max") < 0.3


def test_another_resize_fails_at_the_level_of_pixels(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, few: Listing, reference: Reference
) -> None:
    monkeypatch.setattr(gray, "available", lambda: False)  # so that it is DALI that resizes
    resize = nvidia.dali.fn.resize
    monkeypatch.setattr(
        nvidia.dali.fn, "resize", lambda *inputs, **options: resize(*inputs, **options | {"antialias": False})
    )
    judgement, _ = compare(bundle, few, reference, with_changes(BOUNDS["fp32"], DECISIONS), "onnxruntime")
    assert missed_levels(judgement) == {"pixels"}


@pytest.mark.slow
def test_values_beyond_half_precision_are_found_with_their_layer(model: MuraNet, bundle: Bundle, few: Listing) -> None:
    """In FP32 the second network is the first; in half precision one of its layers overflows."""
    grown = copy.deepcopy(model)
    layer = grown.features.denseblock3.denselayer4  # type: ignore[union-attr]
    with torch.no_grad():
        layer.conv1.weight.mul_(1e5)  # type: ignore[union-attr, operator]
        layer.norm2.running_mean.mul_(1e5)  # type: ignore[union-attr, operator]
        layer.norm2.running_var.mul_(1e10)  # type: ignore[union-attr, operator]
    bounds = with_changes(BOUNDS["fp16"], LOOSE | DECISIONS)
    judgement, _ = compare(bundle, few, TorchReference(grown), bounds, "onnxruntime", half_views=1)
    assert missed_levels(judgement) == {"half"}
    names = {figure.name for figure in judgement.missed}
    assert "largest, of features.denseblock3.denselayer4.conv1" in names
    assert "dp_max" in names  # no number comes out there
    sound, _ = compare(bundle, few, TorchReference(model), bounds, "onnxruntime")
    assert not sound.missed


def test_half_precision_is_what_every_layer_takes(model: MuraNet, pixels: NDArray[np.uint8]) -> None:
    """And scores are near those of torch's half precision; of small pictures, for it takes long on a CPU."""
    small = pixels[:4, 96:160, 96:160]
    reference = TorchReference(model)
    single = reference.scores(small)[0]
    seen: list[bool] = []

    def look(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.AvgPool2d):
            seen.extend(torch.equal(values, values.half().float()) for values in (*inputs, *layer.parameters()))

    looking = register_module_forward_pre_hook(look)
    try:
        rounded = reference.half_scores(small)
    finally:
        looking.remove()
    assert len(seen) > 800 and all(seen)
    assert reference.scores(small)[0].tolist() == single.tolist() != rounded.tolist()  # the network is as it was
    with torch.inference_mode():
        half = copy.deepcopy(model).half_body()(torch.from_numpy(small.copy()))[0].numpy()
    assert np.abs(rounded - half).max() < LOOSE["model.dp_max"]


@pytest.mark.slow
def test_kernels_that_saturate_are_caught(model: MuraNet, pixels: NDArray[np.uint8]) -> None:
    """ONNX Runtime's integer kernels on CPUs with AVX2 and no VNNI add pairs of products in 16 bits (vpmaddubsw).

    Done here in torch to the 1x1 convolutions of blocks 2 to 4, in the integers of the format: weights of 8 bits with
    sign, inputs of 8 bits without, which inputs of 8 bits with sign become by adding 128. It takes large weights to
    saturate there, so that each layer's are made equal in size.
    """
    network = copy.deepcopy(model)
    with torch.no_grad():
        for name, layer in network.convolutions():
            if name.endswith("conv1"):
                layer.weight.copy_(layer.weight.sign() * layer.weight.abs().mean())
    set_batch_norms(network, pixels)
    ranges = input_ranges(network, pixels, METHODS["max"])

    def spoiled(saturate: bool) -> NDArray[np.float32]:
        changed = copy.deepcopy(network)
        for name, layer in changed.convolutions():
            if name.endswith("conv1") and "denseblock1" not in name:
                layer.register_forward_hook(_integers(ranges[name], saturate))
        with torch.inference_mode():
            return np.asarray(changed(torch.from_numpy(pixels[:1]))[0].numpy())

    with torch.inference_mode():
        exact = network(torch.from_numpy(pixels[:1]))[0].numpy()
    assert np.abs(spoiled(saturate=False) - exact).max() <= LOOSE["model.dp_max"]
    assert np.abs(spoiled(saturate=True) - exact).max() > LOOSE["model.dp_max"]


def _integers(largest: float, saturate: bool) -> Callable[..., torch.Tensor]:
    def hook(layer: torch.nn.Conv2d, inputs: tuple[torch.Tensor], _: torch.Tensor) -> torch.Tensor:
        weight = layer.weight[:, :, 0, 0]
        scale = weight.abs().amax(1, keepdim=True) / 127
        narrow = (weight / scale).round()
        step = largest / 127
        shifted = (inputs[0] / step).round().clamp(-128, 127) + 128
        columns = shifted[0].flatten(1)  # of the one view: in, position
        pairs = narrow[:, 0::2, None] * columns[0::2] + narrow[:, 1::2, None] * columns[1::2]  # out, pair, position
        if saturate:
            pairs = pairs.clamp(-(2**15), 2**15 - 1)
        total = pairs.sum(1) - 128 * narrow.sum(1, keepdim=True)
        result: torch.Tensor = (total * scale * step).reshape(1, -1, *inputs[0].shape[2:])
        return result

    return hook


def test_integer_kernels_of_cpus_with_vnni_agree_with_the_emulation(int8: Bundle, pixels: NDArray[np.uint8]) -> None:
    """What ONNX Runtime makes of the graph where it is left free to; ``emulated`` does not leave it so."""
    free = ort.InferenceSession(
        raised(onnx.load(int8.path("onnx"))).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    session, _ = open_session("emulated", int8, SessionOptions(batch=12))
    fused = free.run(["probability"], {"image": pixels})[0]
    apart = float(np.abs(fused - session.run(pixels).probability).max())
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    if "vnni" not in flags:
        pytest.skip(f"a CPU without VNNI: its kernels are {apart:.4f} apart, and say nothing of the graph")
    assert 0 < apart <= INT8["model.dp_max"]  # not the same kernels, and no other scores


@pytest.mark.parametrize("narrow", ["int8", pytest.param("fp8", marks=pytest.mark.slow)])
def test_the_emulation_rounds_as_torch_does(
    narrow: str, bundle: Bundle, model: MuraNet, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    ranges = input_ranges(model, pixels, METHODS["percentile"])
    graph = lower(onnx.load(bundle.path("fp32_onnx")), Quantization(narrow, ranges))
    session, _ = open_session("emulated", remade(bundle, tmp_path / "engine", graph), SessionOptions())
    with torch.inference_mode():
        expected = rounding(model, Quantization(narrow, ranges))(torch.from_numpy(pixels[:4]))[0].numpy()
    # Not to many digits: a sum that comes out otherwise in its last may be rounded the other way.
    assert np.abs(session.run(pixels[:4]).probability - expected).max() < LOOSE["model.dp_max"]


def test_emulated_gives_a_view_the_same_bits_in_any_company(int8: Bundle, pixels: NDArray[np.uint8]) -> None:
    session, _ = open_session("emulated", int8, SessionOptions(batch=12))
    together = session.run(pixels[:8]).probability.copy()
    alone = np.concatenate([session.run(pixels[at : at + 1]).probability.copy() for at in range(8)])
    assert np.array_equal(together, alone)


def test_pillows_pixels_are_pillows(archive: Path, pixels: NDArray[np.uint8]) -> None:
    path = sorted(archive.rglob("*.png"))[0]
    assert np.array_equal(pillow_pixels(path.read_bytes(), (320, 320)), pixels[0])


def test_scores_of_a_session_that_reuses_its_memory_are_taken_before_it_does() -> None:
    class Reusing(HostSession):
        name = "reusing"
        memory = np.zeros(2, np.float32)

        def _run(self, images: NDArray[np.uint8]) -> Scores:
            self.memory[: len(images)] = images[:, 0, 0, 0]
            found = self.memory[: len(images)]
            return Scores(found, found, np.zeros((len(images), 10, 10), np.float32))

    views = np.zeros((5, 320, 320, 1), np.uint8)
    views[:, 0, 0, 0] = range(5)
    for found in in_batches(Reusing(InputContract(), batch=2), views, 64):
        assert found.tolist() == [0, 1, 2, 3, 4]


def test_a_file_that_only_dali_reads_costs_the_others_nothing(
    bundle: Bundle, reference: Reference, make_png: Callable[[str], Path], tmp_path: Path
) -> None:
    """Pillow refuses long compressed texts, which no decoder of pixels needs."""
    good = make_png("a/study1/image1.png").read_bytes()
    text = b"zTXtkey\0\0" + zlib.compress(bytes(2 << 20))
    chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    (tmp_path / "a/study1/image2.png").write_bytes(good[:33] + chunk + good[33:])
    judgement, found = compare(bundle, list_archive(tmp_path / "a"), reference, {}, "onnxruntime")
    assert judgement.value("pixels", "views that Pillow cannot read") == 1
    assert (found["views"], found["failed_views"]) == (2, 0)


def test_no_view_with_pixels_is_told(bundle: Bundle, reference: Reference, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/empty.png").touch()
    with pytest.raises(UsageError, match=r"none of the 1 views has pixels.*no bytes"):
        compare(bundle, list_archive(tmp_path / "a"), reference, BOUNDS["fp16"])


def test_an_ensemble_averages_probabilities(model: MuraNet, pixels: NDArray[np.uint8]) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.classifier.bias.add_(2.0)
    images = torch.from_numpy(pixels[:3])
    with torch.inference_mode():
        (first, _, first_cam), (second, _, second_cam) = model(images), other(images)
        probability, logit, cam = Ensemble([model, other])(images)
    torch.testing.assert_close(probability, (first + second) / 2)
    torch.testing.assert_close(torch.sigmoid(logit), probability)
    torch.testing.assert_close(cam, (first_cam + second_cam) / 2)


def test_an_ensembles_logit_holds_where_probabilities_round_to_one(model: MuraNet, pixels: NDArray[np.uint8]) -> None:
    sure = copy.deepcopy(model)
    with torch.no_grad():
        sure.classifier.bias.add_(40.0)
        logit = Ensemble([sure, sure])(torch.from_numpy(pixels[:2]))[1]
        torch.testing.assert_close(logit, sure(torch.from_numpy(pixels[:2]))[1])


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mura_trt", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_prints_a_table_writes_its_files_and_ends_with_4_where_a_bound_is_missed(
    bundle: Bundle, checkpoint: Path, archive: Path, tmp_path: Path
) -> None:
    options = (
        "--checkpoint",
        checkpoint,
        "--studies",
        1,
        "--bound",
        "studies.flip_share=1",
        "--bound",
        "half.dp_max=1",
    )
    loose = [part for name, bound in (LOOSE | DECISIONS).items() for part in ("--bound", f"{name}={bound}")]
    done = run("parity", bundle.folder, archive, *options, *loose, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "model" in done.stdout
    assert "MISSED" not in done.stdout
    told = json.loads((tmp_path / "out/parity.json").read_text())
    assert told["kept"] is True
    assert told["studies"] == 1
    assert {figure["name"] for figure in told["figures"] if figure["level"] == "half"} >= {"dp_max"}
    assert (tmp_path / "out/parity.png").read_bytes().startswith(b"\x89PNG")
    never = ("--bound", "model.dp_max=0", "--json", "--runtime", "onnxruntime")
    strict = run("parity", bundle.folder, archive, *options, *never)
    assert strict.returncode == 4
    assert json.loads(strict.stdout)["kept"] is False
    nowhere = run("parity", bundle.folder, archive, *options, "-o", tmp_path / "out" / "parity.json")
    assert nowhere.returncode == 2
    assert "parity.json: File exists; name a folder for parity.json" in nowhere.stderr


def test_a_bundle_without_proof_is_not_scored_unasked(bundle: Bundle, archive: Path, tmp_path: Path) -> None:
    never = remade(bundle, tmp_path / "never", parity=None)
    assert bundle.manifest.parity is not None
    figures = [
        {**figure, "kept": False} if figure["name"] == "dp_max" else figure
        for figure in bundle.manifest.parity["figures"]
    ]
    failed = remade(bundle, tmp_path / "failed", parity={**bundle.manifest.parity, "kept": False, "figures": figures})
    for one, told in ((never, "was never compared"), (failed, r"missed model\.dp_max")):
        with pytest.raises(BundleError, match=rf"{told}.*--allow-unproven"):
            score(ScoreOptions(archive, one.folder, tmp_path / "out", runtime="null"))
        allowed = ScoreOptions(
            archive, one.folder, tmp_path / "out", runtime="null", overwrite=True, allow_unproven=True
        )
        assert score(allowed)["bundle"]["parity"] == one.manifest.parity_summary
    assert failed.manifest.parity_summary.startswith("MISSES ITS BOUNDS")

"""Sessions: each against the torch reference on the same pixels, and the choice among them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mura_trt.builder_options import BuilderOptions
from mura_trt.bundle import Bundle
from mura_trt.cuda_devices import GpuKind, cuda_device_count
from mura_trt.errors import EnvironmentProblem, RuntimeUnavailable, UsageError
from mura_trt.model import MuraNet
from mura_trt.plan import build_plan
from mura_trt.runtimes import Scores, SessionOptions, open_session
from mura_trt.runtimes.loaded_plan import LoadedPlan
from mura_trt.runtimes.torch import TorchFusedSession
from tests.gpu import opened

no_gpu = pytest.mark.skipif(cuda_device_count() > 0, reason="tells what happens where there is no GPU")


@pytest.fixture(scope="module")
def expected(model: MuraNet, pixels: NDArray[np.uint8]) -> Scores:
    with torch.inference_mode():
        return Scores(*(tensor.numpy() for tensor in model(torch.from_numpy(pixels))))


def close(scores: Scores, expected: Scores, bound: float) -> bool:
    return float(np.abs(scores.probability - expected.probability).max()) <= bound


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_cpu_runtime_agrees_with_the_reference(
    runtime: str, bundle: Bundle, pixels: NDArray[np.uint8], expected: Scores
) -> None:
    session, passed_over = open_session(runtime, bundle, SessionOptions(batch=16))
    assert session.name == runtime
    assert passed_over == []
    scores = session.run(pixels)
    assert close(scores, expected, 1e-5)
    assert scores.cam is not None and expected.cam is not None
    np.testing.assert_allclose(scores.cam, expected.cam, atol=1e-3)


@pytest.mark.usefixtures("all_cores")
def test_onnxruntime_gives_a_view_the_same_bits_in_any_company(bundle: Bundle, pixels: NDArray[np.uint8]) -> None:
    two, _ = open_session("onnxruntime", bundle, SessionOptions(batch=8))
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    one, _ = open_session("onnxruntime", bundle, SessionOptions(batch=8))  # on one core, so with one thread
    os.sched_setaffinity(0, cores)
    whole = one.run(pixels[:8])
    backwards = two.run(pixels[7::-1])
    alone = np.concatenate([two.run(pixels[at : at + 1]).logit for at in range(8)])
    np.testing.assert_array_equal(whole.logit, backwards.logit[::-1])
    np.testing.assert_array_equal(whole.logit, alone)


def engine_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("engine")}


@pytest.mark.usefixtures("all_cores")
def test_onnxruntime_has_two_batches_under_way_and_gives_them_in_order(
    bundle: Bundle, pixels: NDArray[np.uint8]
) -> None:
    session, _ = open_session("onnxruntime", bundle, SessionOptions(batch=8))
    expected = session.run(pixels[:8]).logit.copy()
    session.submit(pixels[:5])
    session.submit(pixels[5:8])
    assert not session.room
    with pytest.raises(ValueError, match="2 batches that nobody has collected"):
        session.submit(pixels[:1])
    first = session.collect()
    session.submit(pixels[:1])
    np.testing.assert_array_equal(first.logit, expected[:5])
    np.testing.assert_array_equal(session.collect().logit, expected[5:])
    np.testing.assert_array_equal(session.collect().logit, expected[:1])


@pytest.mark.usefixtures("all_cores")
def test_onnxruntime_computes_on_as_many_cores_as_there_are(bundle: Bundle, pixels: NDArray[np.uint8]) -> None:
    before = engine_threads()
    session, _ = open_session("onnxruntime", bundle, SessionOptions(batch=16))
    session.run(pixels[:16])
    threads = engine_threads() - before
    assert len(threads) == min(len(os.sched_getaffinity(0)), 16)
    session.close()
    assert not any(thread.is_alive() for thread in threads)


def test_null_tells_pixels_apart_and_takes_its_time(bundle: Bundle, pixels: NDArray[np.uint8]) -> None:
    import time

    session, _ = open_session("null", bundle, SessionOptions(null_ms=50))
    started = time.monotonic()
    scores = session.run(pixels)
    assert 0.05 <= time.monotonic() - started < 5  # not a thousand times that
    assert len(set(scores.probability.tolist())) == len(pixels)
    assert np.isfinite(scores.logit).all()
    np.testing.assert_array_equal(session.run(pixels[::-1]).probability[::-1], scores.probability)
    np.testing.assert_allclose(scores.probability, 1 / (1 + np.exp(-scores.logit)), rtol=1e-4)
    darker = pixels.copy()
    darker[0, 5, 5, 0] ^= 1
    assert session.run(darker).probability[0] != scores.probability[0]


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 320, 320, 1), np.float32),
        np.zeros((1, 320, 320, 3), np.uint8),
        np.zeros((1, 224, 320, 1), np.uint8),
        np.zeros((320, 320, 1), np.uint8),
        np.zeros((0, 320, 320, 1), np.uint8),
        np.zeros((5, 320, 320, 1), np.uint8),
    ],
)
def test_another_shape_or_dtype_is_refused(images: NDArray[np.generic], bundle: Bundle) -> None:
    session, _ = open_session("null", bundle, SessionOptions(batch=4))
    with pytest.raises(ValueError, match=r"null takes uint8 \(1..4, 320, 320, 1\), not"):
        session.run(images)  # type: ignore[arg-type]


def test_onnxruntime_keeps_nothing_for_its_makers(bundle: Bundle, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mura_trt.bundle import Bundle\n"
        "from mura_trt.runtimes import SessionOptions, open_session\n"
        "open_session('onnxruntime', Bundle.open(Path(sys.argv[1])), SessionOptions())"
    )
    kept_back = ("ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI")  # with any of them it tells nothing anyway
    environment = {name: value for name, value in os.environ.items() if name not in kept_back}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", code, bundle.folder], env=environment, check=True)
    assert not list(tmp_path.rglob("*onnxruntime*"))


def test_a_bundle_that_onnxruntime_cannot_open_is_told_in_a_line(bundle: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / os.fsdecode(b"R\xf6ntgen")
    shutil.copytree(bundle.folder, copy)
    with pytest.raises(RuntimeUnavailable, match=r"does not take the graph of .*ntgen: [^\n]*$"):
        open_session("onnxruntime", Bundle.open(copy), SessionOptions())


@no_gpu
def test_auto_takes_onnxruntime_without_a_gpu_and_says_why(bundle: Bundle) -> None:
    session, passed_over = open_session("auto", bundle, SessionOptions())
    assert session.name == "onnxruntime"
    assert [line.split(":")[0] for line in passed_over] == ["tensorrt", "tensorrt_rtx", "torch_fused", "torch_cuda"]
    assert all("no GPU" in line for line in passed_over)


@no_gpu
@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt_rtx"])
def test_gpu_runtime_says_that_there_is_no_gpu(runtime: str, bundle: Bundle) -> None:
    with pytest.raises(RuntimeUnavailable, match=f"{runtime}: no GPU"):
        open_session(runtime, bundle, SessionOptions())


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("runtime", "bound"),
    # FP16's bound is that of this network, whose random head magnifies small differences.
    [("tensorrt_rtx", 2e-2), ("torch_fused", 2e-2), ("torch_cuda", 2e-2), ("torch", 1e-4)],
)
def test_gpu_runtime_agrees_with_the_reference(
    runtime: str, bound: float, bundle: Bundle, pixels: NDArray[np.uint8], expected: Scores
) -> None:
    session = opened(runtime, bundle, SessionOptions(batch=16))
    assert session.device == "cuda"
    assert close(session.run(pixels), expected, bound)
    tail = session.run(pixels[:3])
    assert tail.probability.shape == (3,)
    assert close(tail, Scores(expected.probability[:3], expected.logit[:3]), bound)
    session.close()


@pytest.mark.gpu
def test_plan_of_the_other_builder_is_refused(bundle: Bundle) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"tensorrt-rtx's.*--builder tensorrt"):
        open_session("tensorrt", bundle, SessionOptions())


@no_gpu
def test_a_plan_that_does_not_load_has_no_say_in_the_batch(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mura_trt.runtimes.tensorrt.cuda_device_count", lambda: 1)
    session, passed_over = open_session("auto", bundle, SessionOptions(512))  # more than its plan takes
    session.close()
    assert (session.name, session.batch) == ("onnxruntime", 512)
    assert [line.partition(":")[0] for line in passed_over[:2]] == ["tensorrt", "tensorrt_rtx"]


@pytest.mark.gpu
def test_bundle_without_a_plan_is_refused(bundle: Bundle) -> None:
    without = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, builder=None))
    with pytest.raises(RuntimeUnavailable, match="no plan"):
        open_session("tensorrt_rtx", without, SessionOptions())


def test_a_runtime_that_there_is_not_is_told_with_those_there_are(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=r"--runtime foo: choose from auto, tensorrt, .*, null"):
        open_session("foo", bundle, SessionOptions())


class FakeCuda:
    """As much of torch's CUDA build as a refusal looks at."""

    def __init__(self, *capability: int) -> None:
        self.cuda = self
        self._capability = capability

    def get_device_capability(self, _: int) -> tuple[int, ...]:
        return self._capability


@pytest.mark.parametrize(
    ("capability", "precision", "triton", "told"),
    [
        ((7, 5), "fp16", True, "needs SM80 or later, and the GPU is SM75; use torch_cuda"),
        ((9, 0), "fp32", True, "the bundle is FP32; use torch_cuda"),
        ((9, 0), "int8", False, r"Triton does not import .*pip install triton"),
    ],
)
def test_torch_fused_leaves_to_torch_cuda_what_it_is_not_for(
    capability: tuple[int, int],
    precision: str,
    triton: bool,
    told: str,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mura_trt.runtimes.torch._cuda_torch", lambda: FakeCuda(*capability))
    if not triton:
        monkeypatch.setitem(sys.modules, "triton", None)
    other = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, precision=precision))
    with pytest.raises(RuntimeUnavailable, match=told):
        open_session("torch_fused", other, SessionOptions())


@pytest.mark.parametrize("error", [ImportError("noexec"), OSError("no space"), ValueError("damaged")])
def test_what_triton_fails_with_is_no_error_of_ours(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")

    def failing(_: object) -> NoReturn:
        raise error

    session: Any = object.__new__(TorchFusedSession)
    session._torch, session.batch, session._shape = torch, 1, (32, 32, 1)
    monkeypatch.setattr("mura_trt.fused.fused", lambda _: failing)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    with pytest.raises(RuntimeUnavailable, match=f"Triton cannot compile for this GPU: {error}"):
        session._placed(torch.nn.Identity(), "cpu")


@no_gpu
@pytest.mark.parametrize("module", ["torch", "triton"])
def test_a_broken_library_for_gpus_does_not_matter_where_there_is_none(
    module: str, bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / f"{module}.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    code = (
        "import sys; from pathlib import Path; from mura_trt.bundle import Bundle\n"
        "from mura_trt.runtimes import SessionOptions, open_session\n"
        "bundle = Bundle.open(Path(sys.argv[1]))\n"
        "print(open_session('auto', bundle, SessionOptions())[0].name, 'torch' in sys.modules)\n"
        "try: open_session('torch', bundle, SessionOptions())\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code, bundle.folder], env={**os.environ, "PYTHONPATH": path}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0] == "onnxruntime False"
    if module == "torch":
        assert lines[1].startswith("RuntimeUnavailable torch: PyTorch does not import (libcudart.so.13")


@pytest.mark.parametrize("made", ["Runtime", "Builder"])
def test_tensorrt_that_cannot_start_cuda_is_told(made: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorrt_rtx

    def failing(*_: object) -> NoReturn:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(tensorrt_rtx, made, failing)
    if made == "Runtime":
        with pytest.raises(RuntimeUnavailable, match=r"cannot start here .*mura-trt doctor"):
            LoadedPlan(bundle, GpuKind("a card", (8, 6)))
    else:
        with pytest.raises(EnvironmentProblem, match=r"cannot start here .*mura-trt doctor"):
            build_plan("tensorrt-rtx", bundle.path("onnx"), Path(), (1, 1, 1), BuilderOptions(), None)

"""All that a GPU must show, in eight minutes: does it work, does it agree, how fast is it, and where does time go.

    python -m benchmarks.gpu_acceptance [--checkpoint FILE] [--out FOLDER] [--minutes 8] [--cpu]

It needs the installed package, a checkpoint (the demo model by default) and no network; bundles and archives it makes
itself. Every section runs in a process of its own, so that a crash or a hang costs that section alone, and what it
found is in ``FOLDER/acceptance.json`` at once. Correctness comes first; what takes long (the tests that are marked
``gpu``, INT8's calibration) comes last and is left out, and told, where the time is up. ``--cpu`` runs what needs no
GPU, with ONNX Runtime.

Rates are views/s, medians over interleaved repetitions with least and most beside them; scores are compared with the
reference before anything is timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for it may be started as a file, too

from mura_trt.bench.alone import decode_rate, in_batches, read_batches  # noqa: E402
from mura_trt.bench.machine import commit  # noqa: E402
from mura_trt.bench.sample import link_views  # noqa: E402
from mura_trt.bench.scoring import scored  # noqa: E402

BATCHES = (16, 64, 128, 256)
REPEATS = 5
VIEWS_TIMED = 1536  # in batches one behind the other, by one repetition
MEMORY_BATCHES = 200
MEMORY_SLACK = 64 << 20  # bytes that libraries may still take after their first batches
SLOWEST_TESTS = 15  # that are told with their times
TEST_PROCESSES = 6  # on one GPU: what takes long is the CPU's
TEST_SECONDS = 200  # that one test may take, with what it needs first
TEST_LINES = 60  # of what pytest says, below each of its headings
PEERS_BATCH = 256  # at which PyTorch is fastest, so that starting kernels is not what is compared
FLOOR_SIZE = 8192  # rows and columns of the matrices that the card's rate is measured with
# Of a view at 320 px in FP16: the network's arithmetic, and what must be moved, by how much is fused (see the README).
GFLOP_A_VIEW = 12.6
MB_A_VIEW = {
    "BN-ReLU apart, concatenation copied": 332,
    "concatenation elided": 224,
    "BN-ReLU in front of 1x1": 107,
    "whole layers fused": 62,
}


class Work:
    """What the sections share: files that the first ones make and the others take.

    Parameters
    ----------
    folder
        Where they are.
    checkpoint
        The model's file.
    cpu
        Whether there is to be no GPU.
    """

    def __init__(self, folder: Path, checkpoint: Path, cpu: bool) -> None:
        self.folder, self.checkpoint, self.cpu = folder, checkpoint, cpu
        self.png, self.jpeg = folder / "png", folder / "jpeg"

    def bundle(self, precision: str) -> Path:
        """The bundle of that precision, there or not."""
        return self.folder / precision

    @property
    def runtimes(self) -> list[str]:
        """Those to look at here, best first."""
        return (
            ["onnxruntime", "emulated"]
            if self.cpu
            else ["tensorrt", "tensorrt_rtx", "torch_fused", "torch_cuda", "torch"]
        )

    def sample(self, views: int) -> list[bytes]:
        """Files of the PNG archive, again and again."""
        files = [path.read_bytes() for path in sorted(self.png.rglob("*.png"))]
        return [files[at % len(files)] for at in range(views)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {
        "median": round(statistics.median(values), 2),
        "least": round(min(values), 2),
        "most": round(max(values), 2),
    }


def interleaved(takes: dict[str, Callable[[], float]], repeats: int = REPEATS, warm_up: int = 1) -> dict[str, Any]:
    """Each measurement so often in turn, behind rounds that are not counted; an error in place of one that fails."""
    found: dict[str, list[float]] = {name: [] for name in takes}
    errors: dict[str, str] = {}
    for turn in range(-warm_up, repeats):
        for name, take in takes.items():
            if name in errors:
                continue
            try:
                value = take()
            except Exception as error:  # one peer that fails must not cost the others their figures
                errors[name] = told(error)
            else:
                if turn >= 0:
                    found[name].append(value)
    return {name: errors.get(name) or spread(values) for name, values in found.items()}


def told(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:500]


# --- sections: Work in, JSON out ---


def doctor(_: Work) -> dict[str, Any]:
    """What the machine has, and what of it works."""
    command = [sys.executable, "-m", "mura_trt", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"exit_code": done.returncode, **json.loads(done.stdout)}


def archives(work: Work) -> dict[str, Any]:
    """A synthetic archive as PNG files, and again as JPEG files."""
    from PIL import Image

    from mura_trt.demo.archive import DemoPlan, write_archive

    for folder in (work.png, work.jpeg):
        shutil.rmtree(folder, ignore_errors=True)
    write_archive(work.png, DemoPlan(studies=12 if work.cpu else 48, seed=5))
    paths = sorted(work.png.rglob("*.png"))
    for path in paths:
        target = work.jpeg / path.relative_to(work.png).with_suffix(".jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.save(target, quality=92)
    return {"views": len(paths)}


def build(work: Work, precision: str) -> dict[str, Any]:
    """A bundle, with the best builder that there is."""
    recipe = ROOT / "engines" / f"densenet169-{precision}.toml"
    command = [sys.executable, "-m", "mura_trt", "build-engine", str(recipe), "--checkpoint", str(work.checkpoint)]
    command += ["-o", str(work.bundle(precision)), "--overwrite", "--no-check"]
    if precision in ("int8", "fp8"):
        command += ["--calibrate", str(work.png)]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found: dict[str, Any] = {"seconds": round(time.monotonic() - started, 1)}
    if done.returncode:
        return {**found, "error": done.stderr.strip()[-500:]}
    manifest = json.loads((work.bundle(precision) / "bundle.json").read_text())
    return {**found, "builder": manifest["builder"]}


def gpu_tests(_: Work) -> dict[str, Any]:
    """Every test that is marked ``gpu``."""
    if not (ROOT / "tests").is_dir():
        return {"left_out": "the tests are not here"}
    # By their files, for the others need packages that a GPU box may be without.
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    # What addopts ask for may not be installed here, either.
    command = [sys.executable, "-u", "-m", "pytest", "-m", "gpu", "-o", "addopts=", "-p", "no:cacheprovider"]
    # pytest-benchmark, where it is, warns of xdist, and a warning is an error here.
    command += ["-p", "no:benchmark", "-v", "-ra", "--tb=short", f"--durations={SLOWEST_TESTS}"]
    several = importlib.util.find_spec("xdist") is not None
    if several:
        # Neighbours share a model that is loaded: each process begins with a run of them, and helps out at the end.
        command += ["-n", str(TEST_PROCESSES), "--dist", "worksteal"]
    if importlib.util.find_spec("pytest_timeout") is not None:
        # By a thread, for a test that hangs in a library takes no signal; it ends the process, of which xdist has more.
        command += [f"--timeout={TEST_SECONDS}", f"--timeout-method={'thread' if several else 'signal'}"]
    lines = []
    with subprocess.Popen(
        [*command, *files], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=ROOT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)  # to the section's log, which is there whenever the time is up
            lines.append(line.rstrip())
    return {"exit_code": process.returncode, **pytest_said(lines)}


def pytest_said(lines: Iterable[str]) -> dict[str, Any]:
    """``counts`` by outcome, and the last lines below those of pytest's headings that tell of more than names."""
    below: dict[str, list[str]] = {}
    heading = ""
    for line in lines:
        if match := re.fullmatch(r"=+ (.+?) =+", line):
            heading = match[1]
        below.setdefault(heading, []).append(line)
    found: dict[str, Any] = {"counts": {}}
    for heading, told_there in below.items():
        if re.search(r" in \d+\.\d+s", heading):
            found["counts"] = {outcome: int(count) for count, outcome in re.findall(r"(\d+) ([a-z]+)", heading)}
        elif heading.startswith(("ERRORS", "FAILURES", "slowest", "short test summary")):
            found[heading] = told_there[1:][-TEST_LINES:]
    return found


def parity(work: Work, precision: str) -> dict[str, Any]:
    """Every runtime's scores of a bundle against PyTorch's in FP32 on the CPU."""
    from mura_trt.archives import list_archive
    from mura_trt.bundle import Bundle
    from mura_trt.checkpoint import load_network
    from mura_trt.parity.reference import TorchReference
    from mura_trt.parity.run import compare
    from mura_trt.sample import whole_studies

    bundle = Bundle.open(work.bundle(precision))
    listing = whole_studies(list_archive(work.png), 4 if work.cpu else 24)
    reference = TorchReference(load_network([work.checkpoint]))
    bounds = {
        name: bound
        for name, bound in bundle.manifest.bounds.items()
        if not name.startswith(("studies.", "clinical.", "half."))
    }
    found: dict[str, Any] = {}
    for runtime in work.runtimes:
        try:
            judgement, compared = compare(bundle, listing, reference, bounds, runtime)
        except Exception as error:  # each runtime's own reason is what this section is for
            found[runtime] = {"error": told(error)}
        else:
            kept = not judgement.missed
            figures = {f"{one['level']}.{one['name']}": one["value"] for one in compared["figures"]}
            found[runtime] = {"kept": kept, "views": judgement.views, "device": compared["device"], **figures}
    return found


def same_bits(work: Work) -> dict[str, Any]:
    """Whether a view gets the same bits in other company, of every runtime; and in a session opened anew."""
    from mura_trt.bundle import Bundle
    from mura_trt.runtimes import SessionOptions, open_session

    pixels = np.random.default_rng(3).integers(0, 256, (16, 320, 320, 1), np.uint8)
    found: dict[str, Any] = {}
    for runtime in work.runtimes:
        try:
            logits = []
            for _ in range(2):
                session, _ = open_session(runtime, Bundle.open(work.bundle("fp16")), SessionOptions(batch=16))
                logits.append(session.run(pixels).logit.copy())
                logits.append(session.run(pixels[::-1].copy()).logit[::-1].copy())
                logits.append(np.concatenate([session.run(pixels[at : at + 3]).logit.copy() for at in range(0, 16, 3)]))
                session.close()
            found[runtime] = {
                "in_any_company": all(np.array_equal(logits[0], one) for one in logits[1:3]),
                "in_another_session": np.array_equal(logits[0], logits[3]),
            }
        except Exception as error:  # as in parity
            found[runtime] = {"error": told(error)}
    return found


def decoding(work: Work) -> dict[str, Any]:
    """Decoding on the GPU against decoding on the CPU: levels of 255 that pixels differ by."""
    from mura_trt.decode import Decoder, GpuDecoder
    from mura_trt.runtimes.base import GpuStream, Piece
    from mura_trt.runtimes.cuda import Device

    found: dict[str, Any] = {}
    with Device() as gpu:
        stream, done = gpu.stream(), gpu.event()
        for kind, folder in (("png", work.png), ("jpeg", work.jpeg)):
            files = [path.read_bytes() for path in sorted(folder.rglob("*.*g"))[:64]]
            on_cpu = Decoder((320, 320), 4, len(files))
            on_gpu = GpuDecoder((320, 320), 4, len(files), GpuStream(0, stream.handle))
            on_cpu.submit(files)
            on_gpu.submit(files)
            expected, pixels = on_cpu.collect().pixels, on_gpu.collect().pixels
            host = gpu.pinned(expected.shape, np.uint8)
            (piece,) = pixels.pieces
            assert isinstance(piece, Piece)
            gpu.download(host, piece.address, stream)
            done.record(stream)
            done.synchronize()
            difference = np.abs(host.astype(int) - expected)
            inside = difference[:, 2:-2, 2:-2]
            found[kind] = {"files": len(files), "most_inside": int(inside.max()), "most": int(difference.max()),
                           "mean": round(float(difference.mean()), 4)}  # fmt: skip
    return found


def model_rates(work: Work) -> dict[str, Any]:
    """The model alone, its pixels on the device already, by runtime, precision and batch."""
    from mura_trt.bundle import Bundle
    from mura_trt.runtimes import SessionOptions, open_session

    sessions: dict[str, Any] = {}
    passed_over: dict[str, str] = {}
    for precision in ("fp32", "fp16", "int8"):
        if not work.bundle(precision).exists():
            continue
        bundle = Bundle.open(work.bundle(precision))
        for runtime in work.runtimes:
            variants: dict[str, SessionOptions] = {}
            # PyTorch in FP32 is the reference and no peer: one figure tells what it takes.
            for batch in (8,) if work.cpu else (64,) if runtime == "torch" else BATCHES:
                variants[f"{runtime} {precision} {batch}"] = SessionOptions(batch)
            if not work.cpu and precision == "fp16" and runtime in ("torch_fused", "torch_cuda", "tensorrt_rtx"):
                graphs = runtime == "tensorrt_rtx"
                name = f"{runtime} {precision} 64 {'with' if graphs else 'without'} CUDA graphs"
                variants[name] = SessionOptions(64, cuda_graphs=graphs)
            for name, options in variants.items():
                try:
                    sessions[name], _ = open_session(runtime, bundle, options)
                except Exception as error:  # as in parity
                    passed_over[name] = told(error)
    rates = interleaved({name: _model_rate(session, work) for name, session in sessions.items()}, 2 if work.cpu else 5)
    for session in reversed(sessions.values()):
        session.close()
    return {**rates, **passed_over}


def _model_rate(session: Any, work: Work) -> Callable[[], float]:
    """Takes a rate of a session that is kept busy."""
    from mura_trt.sweep import busy_seconds

    pixels = np.random.default_rng(1).integers(0, 256, (session.batch, 320, 320, 1), np.uint8)
    images: Any = pixels if work.cpu else _on_device(pixels)
    batches = 2 if work.cpu else max(4, VIEWS_TIMED // session.batch)

    return lambda: float(batches * session.batch / busy_seconds(session, images, batches))


def _on_device(pixels: np.ndarray[Any, Any]) -> Any:
    """Pixels in the GPU's memory, held by torch."""
    import torch

    from mura_trt.runtimes.base import DevicePixels, Piece

    tensor = torch.from_numpy(pixels).cuda()
    torch.cuda.synchronize()
    return DevicePixels([Piece(tensor.data_ptr(), len(pixels), tensor)])


def decode_rates(work: Work) -> dict[str, Any]:
    """Reading and decoding alone, of files in the page cache, on the CPU and with the GPU's help."""
    from mura_trt.cores import usable_cores
    from mura_trt.host_decode import open_decoder
    from mura_trt.runtimes.base import GpuStream
    from mura_trt.runtimes.cuda import Device

    views, threads, size = (256 if work.cpu else 4096), usable_cores(), (320, 320)
    with ExitStack() as stack:
        decoders: dict[str, tuple[Any, Callable[[], object]]] = {"cpu": (open_decoder(size, threads, 64), lambda: None)}
        if not work.cpu:
            gpu = stack.enter_context(Device())
            stream, done = gpu.stream(), gpu.event()

            def wait() -> None:
                done.record(stream)
                done.synchronize()

            decoders["gpu"] = open_decoder(size, threads, 64, GpuStream(0, stream.handle)), wait

        def rate(decoder: Any, wait: Callable[[], object], paths: list[Path]) -> Callable[[], float]:
            return lambda: decode_rate(decoder, read_batches(in_batches(paths, 64)), wait)

        takes: dict[str, Callable[[], float]] = {}
        for kind, folder in (("png", work.png), ("jpeg", work.jpeg)):
            paths = sorted(folder.rglob("*.*g"))
            many = [paths[at % len(paths)] for at in range(views)]
            takes |= {f"{device} {kind}": rate(*decoder, many) for device, decoder in decoders.items()}
        return interleaved(takes, 3)


def end_to_end(work: Work) -> dict[str, Any]:
    """From files in the page cache to CSV: ``mura-trt score`` as a user runs it, with where its main thread waited."""
    views = 100 if work.cpu else 16_000
    runtimes = ["onnxruntime", "null"] if work.cpu else ["auto", "null"]
    last: dict[str, dict[str, Any]] = {}

    def taking(name: str, archive: Path, runtime: str) -> Callable[[], float]:
        def take() -> float:
            last[name] = scored(archive, work.bundle("fp16"), "--allow-unproven", "--runtime", runtime).run
            return float(last[name]["views_per_s"])

        return take

    takes: dict[str, Callable[[], float]] = {}
    for kind, folder in (("png", work.png), ("jpeg", work.jpeg)):
        many = work.folder / f"many-{kind}"
        shutil.rmtree(many, ignore_errors=True)
        link_views(folder, many, views)
        takes |= {f"{runtime} {kind}": taking(f"{runtime} {kind}", many, runtime) for runtime in runtimes}
    # Each run warms up by itself: its rate is from the first batch on.
    rates = interleaved(takes, 1 if work.cpu else 2, warm_up=0)
    told = ("runtime", "device", "batch", "passed_over", "stage_s")
    return {
        name: {**rate, **{fact: last[name][fact] for fact in told}} if isinstance(rate, dict) else {"error": rate}
        for name, rate in rates.items()
    }


def memory(work: Work) -> dict[str, Any]:
    """Whether device memory grows over many batches: sessions and decoder as a worker has them."""
    from mura_trt.bundle import Bundle
    from mura_trt.host_decode import open_decoder
    from mura_trt.runtimes import SessionOptions, open_session
    from mura_trt.runtimes.cuda import Device

    found: dict[str, Any] = {}
    files = work.sample(64)
    files[::2] = [path.read_bytes() for path in sorted(work.jpeg.rglob("*.jpg"))[:32]]  # one way each
    with Device() as gpu:
        for runtime in ("tensorrt", "tensorrt_rtx", "torch_fused", "torch_cuda"):
            try:
                session, _ = open_session(runtime, Bundle.open(work.bundle("fp16")), SessionOptions(batch=64))
            except Exception as error:  # as in parity
                found[runtime] = {"error": told(error)}
                continue
            assert session.stream is not None
            decoder = open_decoder((320, 320), 4, 64, session.stream)
            free = []
            for _ in range(MEMORY_BATCHES):
                decoder.submit(files)
                if not session.room:
                    session.collect()
                session.submit(decoder.collect().pixels)
                free.append(gpu.free_bytes())
            session.close()
            grown = free[MEMORY_BATCHES // 4] - free[-1]
            found[runtime] = {"grew_bytes": grown, "kept": grown <= MEMORY_SLACK}
    return found


def card(_: Work) -> dict[str, Any]:
    """The card's own rates: bytes a second of a copy on the device, and FP16 multiplications of large matrices."""
    import torch

    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    left = torch.randn(FLOOR_SIZE, FLOOR_SIZE, dtype=torch.float16, device="cuda")
    right = torch.randn_like(left)

    def seconds(function: Callable[[], object]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        for _ in range(10):
            function()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e4

    rates = interleaved(
        {
            "gb_per_s": lambda: 2 * source.nbytes / seconds(lambda: target.copy_(source)) / 1e9,
            "tflop_per_s": lambda: 2 * FLOOR_SIZE**3 / seconds(lambda: left @ right) / 1e12,
        }
    )
    floors = {}
    for name, megabytes in MB_A_VIEW.items():
        moved = rates["gb_per_s"]["median"] * 1e3 / megabytes
        floors[name] = round(min(moved, rates["tflop_per_s"]["median"] * 1e3 / GFLOP_A_VIEW), 1)
    return {**rates, "floor_views_per_s": floors}


def peers(work: Work) -> dict[str, Any]:
    """The same weights in what a user would pick instead, and in ours, in turns: FP16, pixels on the device."""
    import torch

    from mura_trt.checkpoint import load_network
    from mura_trt.fused import fused

    model = load_network([work.checkpoint])
    pixels = np.random.default_rng(1).integers(0, 256, (PEERS_BATCH, 320, 320, 1), np.uint8)
    with torch.inference_mode():
        expected = model(torch.from_numpy(pixels[:4].copy()))[0]
    ours = fused(model.cuda())
    model = model.half_body().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.from_numpy(pixels).cuda()
    found: dict[str, Any] = {}
    takes: dict[str, Callable[[], float]] = {}
    for name, function in (
        ("torch eager", model),
        ("torch.compile", torch.compile(model)),
        ("torch_fused, no graph", ours),
    ):
        started = time.perf_counter()
        with torch.inference_mode():
            scores = function(images)[0][:4].float().cpu()
        found[name] = {
            "first_batch_s": round(time.perf_counter() - started, 1),
            "dp_max": float((scores - expected).abs().max()),
        }
        takes[name] = _torch_rate(function, images)
    for name, rate in interleaved(takes).items():
        found[name]["views_per_s"] = rate
    found["onnxruntime CUDA"] = _onnxruntime_cuda(work, pixels, expected.numpy())
    return found


def _torch_rate(function: Any, images: Any) -> Callable[[], float]:
    import torch

    batches = VIEWS_TIMED // len(images)

    def take() -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        with torch.inference_mode():
            for _ in range(batches):
                function(images)
        torch.cuda.synchronize()
        return float(batches * len(images) / (time.perf_counter() - started))

    return take


def _onnxruntime_cuda(work: Work, pixels: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> dict[str, Any]:
    import onnxruntime as ort

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return {"left_out": "ONNX Runtime is installed without CUDA"}
    session = ort.InferenceSession(str(work.bundle("fp16") / "model.onnx"), providers=["CUDAExecutionProvider"])
    binding = session.io_binding()
    binding.bind_ortvalue_input("image", ort.OrtValue.ortvalue_from_numpy(pixels, "cuda", 0))
    for name in ("probability", "logit", "cam"):
        binding.bind_output(name, "cuda")
    session.run_with_iobinding(binding)
    found = float(np.abs(binding.copy_outputs_to_cpu()[0][:4] - expected).max())

    def take() -> float:
        batches = VIEWS_TIMED // len(pixels)
        started = time.perf_counter()
        for _ in range(batches):
            session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return batches * len(pixels) / (time.perf_counter() - started)

    return {"dp_max": found, "views_per_s": interleaved({"rate": take})["rate"]}


def variants(work: Work) -> dict[str, Any]:
    """What the builder's options do to the plan's rate, in batches of 64."""
    from dataclasses import replace

    from mura_trt.builder_options import VARIANTS
    from mura_trt.bundle import FILES, Bundle
    from mura_trt.plan import BUILDERS, build_plan
    from mura_trt.runtimes import SessionOptions, open_session

    bundle = Bundle.open(work.bundle("fp16"))
    assert bundle.manifest.builder is not None
    builder = bundle.manifest.builder["name"]
    found: dict[str, Any] = {}
    sessions = {}
    for name, options in VARIANTS.items():
        folder = work.folder / "variants" / name
        folder.mkdir(parents=True, exist_ok=True)
        try:
            built = build_plan(builder, bundle.path("onnx"), folder / FILES["plan"], (64, 64, 64), options)
            planned = Bundle(folder, replace(bundle.manifest, builder=built), "")
            sessions[name], _ = open_session(BUILDERS[builder], planned, SessionOptions())
        except Exception as error:  # an option that this builder lacks is a finding, too
            found[name] = {"error": told(error)}
        else:
            found[name] = {"build_s": built["seconds"], "plan_bytes": built["plan_bytes"]}
    rates = interleaved({name: _model_rate(session, work) for name, session in sessions.items()})
    for name, session in reversed(sessions.items()):
        found[name]["views_per_s"] = rates[name]
        session.close()
    return found


def inspect_layers(work: Work) -> dict[str, Any]:
    """The plan's layers with their times."""
    command = [sys.executable, "-m", "mura_trt", "inspect", str(work.bundle("fp16")), "--layers", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"exit_code": done.returncode, "error": done.stderr[-500:]} if done.returncode else json.loads(done.stdout)


Section = Callable[[Work], dict[str, Any]]
# Name, what it does, its limit in seconds, and whether it needs a GPU. In order: what decides most comes first.
SECTIONS: dict[str, tuple[Section, int, bool]] = {
    "doctor": (doctor, 150, False),
    "archives": (archives, 60, False),
    "build_fp16": (lambda work: build(work, "fp16"), 120, False),
    "parity_fp16": (lambda work: parity(work, "fp16"), 180, False),
    "same_bits": (same_bits, 120, False),
    "decoding": (decoding, 60, True),
    "card": (card, 30, True),
    "model_fp16": (model_rates, 120, False),
    "decode": (decode_rates, 60, False),
    "end_to_end": (end_to_end, 180, False),
    "memory": (memory, 60, True),
    "peers": (peers, 120, True),
    "gpu_tests": (gpu_tests, 300, True),
    "build_fp32": (lambda work: build(work, "fp32"), 60, True),
    "parity_fp32": (lambda work: parity(work, "fp32"), 120, True),
    "layers": (inspect_layers, 60, True),
    "variants": (variants, 180, True),
    "build_int8": (lambda work: build(work, "int8"), 240, True),
    "parity_int8": (lambda work: parity(work, "int8"), 120, True),
    "model_all": (model_rates, 120, True),
}


def run_sections(work: Work, names: Iterable[str], seconds: float) -> dict[str, Any]:
    """Each section in a process of its own, as long as there is time; the result so far is on the disk after each."""
    until = time.monotonic() + seconds
    result: dict[str, Any] = {"command": sys.argv[1:], "limit_s": seconds, "commit": commit(), "seconds": {}}
    for name in names:
        _, limit, needs_gpu = SECTIONS[name]
        left = until - time.monotonic()
        if needs_gpu and work.cpu:
            continue
        if left < 10:
            result[name] = {"left_out": "the time was up"}
            continue
        started = time.monotonic()
        result[name] = _section(work, name, min(limit, left))
        result["seconds"][name] = round(time.monotonic() - started, 1)
        (work.folder / "acceptance.json").write_text(json.dumps(result, indent=1) + "\n")
        print(f"{name}: {result['seconds'][name]} s {_short(result[name])}", flush=True)
    return result


def _section(work: Work, name: str, limit: float) -> dict[str, Any]:
    file = work.folder / f"{name}.json"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_acceptance", "--section", name, "--out", str(work.folder)]
    command += ["--checkpoint", str(work.checkpoint), *(["--cpu"] if work.cpu else [])]
    log = work.folder / f"{name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT, start_new_session=True)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # with whatever it has started
            process.wait()
            return {"error": f"did not end within {limit:.0f} s", "log": log.read_text(errors="replace")[-4000:]}
    if code or not file.exists():
        return {"error": f"exit code {code}", "log": log.read_text(errors="replace")[-1500:]}
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def _short(found: dict[str, Any]) -> str:
    return str(found.get("error") or found.get("left_out") or "")[:160]


def table(result: dict[str, Any]) -> str:
    """What it comes to, in some thirty lines."""
    lines = [f"commit {result['commit'][:10]}"]
    for precision in ("fp32", "fp16", "int8"):
        for runtime, found in result.get(f"parity_{precision}", {}).items():
            if isinstance(found, dict) and "kept" in found:
                kept = "kept" if found["kept"] else "MISSED"
                dp = f"|dp| mean {found.get('model.dp_mean', 0):.1e}, max {found.get('model.dp_max', 0):.1e}"
                lines.append(f"parity  {runtime:14}{precision:6}{kept:8}{dp} on {found['views']} views")
            elif isinstance(found, dict):
                lines.append(f"parity  {runtime:14}{precision:6}{found.get('error', '')[:90]}")
    for section, title in (
        ("model_fp16", "model"),
        ("model_all", "model"),
        ("decode", "decode"),
        ("end_to_end", "score"),
    ):
        for name, found in result.get(section, {}).items():
            if isinstance(found, dict) and "median" in found:
                lines.append(
                    f"{title:8}{name:42}{found['median']:10.1f} views/s ({found['least']:.1f} to {found['most']:.1f})"
                )
    if counts := result.get("gpu_tests", {}).get("counts"):
        lines.append(f"tests   {', '.join(f'{count} {outcome}' for outcome, count in counts.items())}")
    floors = result.get("card", {}).get("floor_views_per_s", {})
    best = max((found["median"] for found in _rates(result, "tensorrt", "torch")), default=None)
    for name, floor in floors.items():
        share = f"; the best model reaches {100 * best / floor:.0f} % of it" if best else ""
        lines.append(f"floor   {name:42}{floor:10.1f} views/s{share}")
    lines += [f"gap     {kind}: {text}" for kind, text in gaps(result).items()]
    for name, seconds in result["seconds"].items():
        problem = _short(result[name])
        if problem:
            lines.append(f"FAILED  {name} after {seconds} s: {problem}")
    return "\n".join(lines)


def _rates(result: dict[str, Any], *runtimes: str) -> list[dict[str, float]]:
    both = {**result.get("model_fp16", {}), **result.get("model_all", {})}
    return [found for name, found in both.items() if name.startswith(runtimes) and isinstance(found, dict)]


def gaps(result: dict[str, Any]) -> dict[str, str]:
    """By kind of file: how the whole compares with the slower of decoding alone and the model alone."""
    found = {}
    for kind in ("png", "jpeg"):
        for runtime in ("auto", "onnxruntime"):
            whole = result.get("end_to_end", {}).get(f"{runtime} {kind}", {})
            if "median" not in whole:
                continue
            device = "gpu" if whole["device"] == "cuda" else "cpu"
            decode = result.get("decode", {}).get(f"{device} {kind}", {})
            rates = _rates(result, f"{whole['runtime']} fp16 {whole['batch']}")
            if "median" in decode and rates:
                model = rates[0]["median"]
                ratio = whole["median"] / min(decode["median"], model)
                found[kind] = (
                    f"{whole['median']:.0f} views/s with {whole['runtime']} is {ratio:.2f} of the slower of decoding"
                    f" ({decode['median']:.0f}) and model ({model:.0f})"
                )
    return found


def main() -> None:
    """Runs the sections, or one of them for the process that runs all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "engines" / "demo" / "model.safetensors")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "acceptance")))
    parser.add_argument("--minutes", type=float, default=8.0, help="after which nothing more is begun")
    parser.add_argument("--cpu", action="store_true", help="only what needs no GPU")
    parser.add_argument("--only", nargs="*", choices=list(SECTIONS), help="these sections, on what is there already")
    parser.add_argument("--section", choices=list(SECTIONS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    work = Work(given.out.resolve(), given.checkpoint.resolve(), given.cpu)
    if given.section:
        found = SECTIONS[given.section][0](work)
        (work.folder / f"{given.section}.json").write_text(json.dumps(found) + "\n")
        return
    result = run_sections(work, given.only or SECTIONS, given.minutes * 60)
    print(table(result))


if __name__ == "__main__":
    main()

"""How fast each part is with nothing beside it: the card, the model, and reading and decoding."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.acceptance.work import VIEWS_TIMED, Work, interleaved, told
from mura_trt.bench.alone import decode_rate, in_batches, read_batches

BATCHES = (16, 64, 128, 256)
FLOOR_SIZE = 8192  # rows and columns of the matrices that the card's rate is measured with
# Of a view at 320 px in FP16: the network's arithmetic, and what must be moved, by how much is fused (see the README).
GFLOP_A_VIEW = 12.6
MB_A_VIEW = {
    "BN-ReLU apart, concatenation copied": 332,
    "concatenation elided": 224,
    "BN-ReLU in front of 1x1": 107,
    "whole layers fused": 62,
}


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
                except Exception as error:  # its own reason is a finding
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

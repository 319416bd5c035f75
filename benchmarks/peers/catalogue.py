"""The peers: what runs each, what it needs, and what its user would try before settling on options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Choice = tuple[str, ...]


@dataclass(frozen=True)
class Bounds:
    """How far a peer's studies may be from the reference, in probability."""

    largest: float
    mean: float


# Pillow's pixels and FP32: what is left is the order of sums.
EXACT = Bounds(1e-3, 1e-4)
# Our decoder's pixels differ from Pillow's by 1 of 255 here and there, and the demo model is steep: tests/test_slow.py.
OUR_PIXELS = Bounds(0.05, 0.005)
HALF = Bounds(0.02, 0.002)


@dataclass(frozen=True)
class Peer:
    """A script with the options that it always has, and those that are tuned."""

    name: str
    told: str
    """What it is, for the table."""
    module: str
    """Below ``benchmarks.peers``."""
    base: Choice = ()
    """Options that it always has."""
    axes: tuple[tuple[Choice, ...], ...] = ()
    """Of each axis one choice is taken; the first is what the tuning starts from."""
    weights: Literal["checkpoint", "graph"] = "checkpoint"
    needs: tuple[str, ...] = ("torch", "PIL")
    """Modules that must be there."""
    requirements: str = "requirements-torch.txt"
    bounds: Bounds = EXACT
    gpu: bool = False
    slow_start: bool = False
    """It compiles for minutes; ``--quick`` leaves it out unless it is named."""


def batches(*sizes: int) -> tuple[Choice, ...]:
    """An axis."""
    return tuple(("--batch", str(size)) for size in sizes)


def loading(cores: int) -> tuple[Choice, ...]:
    """DataLoader workers, with torch's threads as they are and with as many as the workers leave cores."""
    found: list[Choice] = []
    for workers in sorted({1, min(2, cores), max(1, cores // 2), cores}):
        found.append(("--workers", str(workers)))
        if cores > 1:
            found.append(("--workers", str(workers), "--threads", str(max(1, cores - workers))))
    return *found[:1], ("--workers", "0"), *found[1:]


def ort_loading(cores: int) -> tuple[Choice, ...]:
    """Pillow ahead of ONNX Runtime, in threads or processes, with its threads as they are and with one less."""
    found: list[Choice] = []
    for kind in ("threads", "dataloader"):
        found += [("--loader", f"{kind}:{number}") for number in sorted({1, min(2, cores), cores})]
    if cores > 1:
        found.append(("--loader", "threads:1", "--threads", str(cores - 1)))
    return tuple(found)


HINTS = (("--hint", "THROUGHPUT"), ("--hint", "LATENCY"))
# Each is a minute or more of compiling, and so would be every batch size and number of threads: those stay as they are.
COMPILED = (("--channels-last", "--freezing"), ("--channels-last",), ("--freezing",))


def peers(cores: int) -> tuple[Peer, ...]:
    """All peers, for so many cores; those that need a GPU behind the others."""
    return (*_on_cpu(cores), *_our_decode(cores), *_on_gpu(cores))


def _on_cpu(cores: int) -> tuple[Peer, ...]:
    sizes = batches(8, 4, 16)
    eager = Peer("eager", "PyTorch DataLoader + Pillow, eager", "torch_loader", axes=(sizes, loading(cores)))
    last = replace(eager, name="channels_last", told=f"{eager.told}, channels last", base=("--channels-last",))
    compiled = replace(
        last,
        name="compiled",
        told="PyTorch DataLoader + Pillow, torch.compile",
        base=("--compile", "default", "--batch", "8"),
        axes=(COMPILED, tuple(choice for choice in loading(cores) if "--threads" not in choice)),
        slow_start=True,
    )
    plain = Peer(
        "ort_plain",
        "ONNX Runtime, plain Python loader",
        "ort_loader",
        axes=(sizes, (("--threads", "0"), ("--threads", str(cores)))),
        weights="graph",
        needs=("onnxruntime", "PIL"),
        requirements="requirements-onnxruntime.txt",
    )
    ahead = replace(
        plain,
        name="ort_ahead",
        told="ONNX Runtime, loader in threads or processes",
        axes=(sizes, ort_loading(cores)),
        needs=("onnxruntime", "torch", "PIL"),
    )
    openvino = Peer(
        "openvino",
        "OpenVINO + Pillow",
        "openvino_loader",
        axes=(HINTS, batches(1, 4, 8), tuple(("--loaders", str(number)) for number in sorted({0, 1, cores}))),
        weights="graph",
        needs=("openvino", "PIL"),
        requirements="requirements-openvino.txt",
    )
    one_by_one = Peer("one_by_one", "PyTorch, one image at a time, as TorchXRayVision", "one_by_one")
    return one_by_one, eager, last, compiled, plain, ahead, openvino


def _our_decode(cores: int) -> tuple[Peer, ...]:
    """A peer's model behind our decoder, which is as wide as our worker has it, or wider."""
    decoders = tuple(("--decoders", str(number)) for number in sorted({1, max(1, cores // 2), cores}))
    torch = Peer(
        "our_decode_channels_last",
        "PyTorch channels last, our decode",
        "our_decode",
        ("torch", "--channels-last"),
        (batches(8, 4, 16), decoders),
        needs=("torch", "nvidia.dali"),
        bounds=OUR_PIXELS,
    )
    compiled = replace(
        torch,
        name="our_decode_compiled",
        told="PyTorch torch.compile, our decode",
        base=("torch", "--compile", "default", "--batch", "8"),
        axes=(COMPILED, decoders),
        slow_start=True,
    )
    openvino = Peer(
        "our_decode_openvino",
        "OpenVINO, our decode",
        "our_decode",
        ("openvino",),
        (HINTS, batches(1, 4, 8), decoders),
        weights="graph",
        needs=("openvino", "nvidia.dali"),
        requirements="requirements-openvino.txt",
        bounds=OUR_PIXELS,
    )
    return torch, compiled, openvino


def _on_gpu(cores: int) -> tuple[Peer, ...]:
    """Unverified: none of these has run yet."""
    workers = tuple(("--workers", str(number)) for number in sorted({1, max(1, cores // 2), cores}))
    eager = Peer(
        "cuda_half",
        "PyTorch DataLoader + Pillow, FP16 channels last on the GPU",
        "torch_loader",
        ("--device", "cuda", "--half", "--channels-last"),
        (batches(32, 64, 128), workers),
        bounds=HALF,
        gpu=True,
    )
    compiled = replace(
        eager,
        name="cuda_compiled",
        told="the same, torch.compile max-autotune",
        base=(*eager.base, "--compile", "max-autotune"),
        slow_start=True,
    )
    onnx = Peer(
        "cuda_onnxruntime",
        "ONNX Runtime CUDA, loader in processes",
        "ort_loader",
        ("--provider", "CUDAExecutionProvider"),
        (batches(32, 64, 128), tuple(("--loader", f"dataloader:{choice[1]}") for choice in workers)),
        weights="graph",
        needs=("onnxruntime", "torch", "PIL"),
        requirements="requirements-onnxruntime-gpu.txt",
        gpu=True,
    )
    ours = replace(
        eager,
        name="our_decode_cuda_half",
        told="PyTorch FP16 channels last on the GPU, our decode",
        module="our_decode",
        base=("torch", *eager.base),
        axes=(batches(32, 64, 128), (("--decoders", str(cores)),)),
        needs=("torch", "nvidia.dali"),
        bounds=OUR_PIXELS,
    )
    return eager, compiled, onnx, ours

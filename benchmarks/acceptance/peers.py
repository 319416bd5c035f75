"""What a user would pick instead, on the same GPU with the same weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.acceptance.work import VIEWS_TIMED, Work, interleaved, told

PEERS_BATCH = 256  # at which PyTorch is fastest, so that starting kernels is not what is compared


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
    try:
        found["onnxruntime CUDA"] = _onnxruntime_cuda(work, pixels, expected.numpy())
    except Exception as error:  # whatever it raises costs the others nothing
        found["onnxruntime CUDA"] = {"error": told(error)}
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

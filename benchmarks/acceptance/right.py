"""Whether it works and agrees: the machine, scores, bits, pixels, and memory that does not grow."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np

from benchmarks.acceptance.work import Work, told

MEMORY_BATCHES = 200
MEMORY_SLACK = 64 << 20  # bytes that libraries may still take after their first batches


def doctor(_: Work) -> dict[str, Any]:
    """What the machine has, and what of it works."""
    command = [sys.executable, "-m", "mura_trt", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"exit_code": done.returncode, **json.loads(done.stdout)}


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

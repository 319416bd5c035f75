"""Which tiles the fused kernels are fastest with on this GPU, by block, and what the whole network makes of them.

    python -m benchmarks.tiles [--checkpoint FILE] [--out FILE] [--batch 256]

Each kernel is timed by itself on the shapes of one layer in the middle of each dense block, then the whole forward pass
with the usual tiles and with the fastest ones, in a CUDA graph. Times are medians of CUDA events. The section ``peers``
of ``benchmarks.gpu_acceptance`` has it beside PyTorch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mura_trt.fused import Pointwise, Tile, Tiles, fused, grow, pointwise  # noqa: E402


def tiles(*numbers: str) -> list[Tile]:
    """Tiles by their numbers, as :func:`_numbers` has them."""
    return [Tile(*map(int, one.split(","))) for one in numbers]


POINTWISE = tiles(
    "128,128,64,8,3", "128,128,64,8,4", "128,128,64,4,3", "128,128,32,4,4", "128,128,32,8,4", "64,128,64,4,3",
    "64,128,64,4,4", "64,128,32,4,4", "128,64,64,4,3", "64,64,64,4,4", "256,128,64,8,3",
)  # fmt: skip
HALVED = tiles("64,128,32,4,3", "64,128,64,4,2", "128,128,32,8,3", "128,128,32,8,2", "64,64,64,4,3")
GROW = tiles(
    "128,32,64,4,4", "128,32,64,4,3", "128,32,128,4,3", "128,32,64,8,4", "256,32,64,8,3", "256,32,64,8,4",
    "64,32,64,4,4", "64,32,128,4,3",
)  # fmt: skip
# Dense blocks of DenseNet-169 at 320 px: positions along a side, and channels of a layer in the middle.
BLOCKS = ((80, 160), (40, 320), (20, 768), (10, 1152))
TRANSITIONS = ((40, 256), (20, 512), (10, 1280))


def seconds(function: Callable[[], object], repeats: int = 5, inner: int = 8) -> float:
    """Median seconds of a call, several in a row between two events."""
    import torch

    function()
    function()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        for _ in range(inner):
            function()
        end.record()
        end.synchronize()
        times.append(float(begin.elapsed_time(end)) / 1e3 / inner)
    return statistics.median(times)


def in_graph(function: Callable[[], object]) -> Callable[[], object]:
    """The call as one CUDA graph."""
    import torch

    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            function()
    return cast("Callable[[], object]", graph.replay)


def _normal(*shape: int) -> Any:
    import torch

    return torch.randn(shape, dtype=torch.float16, device="cuda")


def _layer(rows: int, channels: int, columns: int, positions: int = 1) -> tuple[Any, Pointwise, Any]:
    """What a pointwise kernel takes, but for numbers."""
    import torch

    scale, shift, bias = (torch.randn(size, device="cuda") for size in (channels, channels, columns))
    x, weight = _normal(positions * rows, channels), _normal(channels, columns) / channels**0.5
    return x, Pointwise(scale, shift, weight, bias), _normal(rows, columns)


def by_block(batch: int) -> dict[str, Any]:
    """Microseconds a view of each kernel, by tile and block."""
    found: dict[str, Any] = {}

    def take(name: str, tile: Tile, function: Callable[[], object]) -> None:
        try:
            found.setdefault(name, {})[_numbers(tile)] = round(1e6 * seconds(in_graph(function)) / batch, 3)
        except Exception as error:  # a tile that this GPU has no room for is a finding, too
            found.setdefault(name, {})[_numbers(tile)] = f"{type(error).__name__}: {error}"[:200]

    for side, channels in BLOCKS:
        rows = batch * side * side
        x, weights, out = _layer(rows, channels, 128)
        for tile in POINTWISE:
            take(f"pointwise {side}", tile, partial(pointwise, x, weights, out, side, tile))
        second, block = _normal(9 * 128, 32), _normal(rows, 256)
        for tile in GROW:
            take(f"grow {side}", tile, partial(grow, out, second, block, side, side, tile))
    for side, channels in TRANSITIONS:
        rows = batch * side * side
        x, weights, out = _layer(rows, channels, channels // 2, 4)
        for tile in HALVED:
            take(f"halved {side}", tile, partial(pointwise, x, weights, out, side, tile, halved=True))
    return found


def _numbers(tile: Tile) -> str:
    return ",".join(map(str, astuple(tile)))


def best(found: dict[str, Any]) -> Tiles:
    """The fastest tiles of those measured."""

    def of(kernel: str, sides: Sequence[int]) -> tuple[Tile, ...]:
        chosen: list[Tile] = []
        for side in sides:
            times = {name: time for name, time in found[f"{kernel} {side}"].items() if not isinstance(time, str)}
            chosen += tiles(min(times, key=lambda name: times[name]))
        return tuple(chosen)

    blocks, transitions = [side for side, _ in BLOCKS], [side for side, _ in TRANSITIONS]
    return Tiles(of("pointwise", blocks), of("grow", blocks), of("halved", transitions))


def whole(network: Any, batches: Sequence[int], sets: dict[str, Tiles]) -> dict[str, Any]:
    """Views/s of the forward pass, and how far its probabilities are from the network's in FP32."""
    import torch

    found: dict[str, Any] = {}
    for batch in batches:
        images = torch.randint(0, 256, (batch, 320, 320, 1), dtype=torch.uint8, device="cuda")
        with torch.inference_mode():
            expected = network(images[:16])
            for name, chosen in sets.items():
                net = fused(network, chosen)
                outputs = net(images)
                differs = [float((a[:16] - b).abs().max()) for a, b in zip(outputs, expected, strict=True)]
                rate = batch / seconds(in_graph(partial(net, images)))
                found[f"fused, {name}, {batch}"] = {"views_per_s": round(rate, 1), "differs_p_logit_cam": differs}
    return found


def profile(network: Any, batch: int) -> dict[str, float]:
    """Microseconds a view of each kernel in a forward pass, by name."""
    import torch

    images = torch.randint(0, 256, (batch, 320, 320, 1), dtype=torch.uint8, device="cuda")
    net = fused(network)
    with torch.inference_mode():
        net(images)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as recorded:
            net(images)
            torch.cuda.synchronize()
    return {
        event.key: round(event.device_time_total / batch, 3)
        for event in recorded.key_averages()
        if event.device_time_total / batch > 0.01
    }


def main() -> None:
    """Measures, prints and writes."""
    import torch

    from mura_trt.checkpoint import load_network

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "engines" / "demo" / "model.safetensors")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--batch", type=int, default=256)
    given = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    network: Any = load_network([given.checkpoint]).eval().cuda()
    result: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "batch": given.batch}

    def keep() -> None:
        if given.out:
            given.out.write_text(json.dumps(result, indent=1) + "\n")

    result["profile_us_a_view"] = profile(network, given.batch)
    print(json.dumps(result["profile_us_a_view"], indent=1))
    keep()
    result["tiles_us_a_view"] = by_block(given.batch)
    for kernel, times in result["tiles_us_a_view"].items():
        fastest = sorted((time, tile) for tile, time in times.items() if not isinstance(time, str))
        print(f"{kernel:14}" + "; ".join(f"{tile} {time}" for time, tile in fastest[:4]), flush=True)
        print(f"{'':14}failed: {[f'{k}: {v}' for k, v in times.items() if isinstance(v, str)][:3]}")
    chosen = best(result["tiles_us_a_view"])
    print(chosen)
    keep()
    result["whole"] = whole(network, (64, 128, given.batch), {"as they are": Tiles(), "fastest": chosen})
    for name, figures in result["whole"].items():
        print(f"{name:32}{figures}")
    keep()


if __name__ == "__main__":
    main()

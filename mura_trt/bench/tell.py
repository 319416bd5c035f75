"""What ``bench`` found, as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from mura_trt.bench.options import NULL

WIDTH = 120


def text(found: dict[str, Any]) -> str:
    """Three tables that say what they are and are not, the sweep, and a line each on overlap, memory and limits."""
    parts = [_machine(found), _model_only(found), _decode_only(found), _end_to_end(found), _conclusions(found)]
    if "sweep" in found:
        parts.append(_sweep(found["sweep"]))
    parts.append([f"WARNING: {line}" for line in found["machine"]["warnings"]])
    return "\n\n".join("\n".join(wrapped for line in lines for wrapped in _wrapped(line)) for lines in parts if lines)


def _machine(found: dict[str, Any]) -> list[str]:
    machine, archive, engine = found["machine"], found["archive"], found["engine"]
    gpus = f"; GPU: {', '.join(machine['gpus'])}, driver {machine['driver']}" if machine["gpus"] else "; no GPU"
    clocks = machine["clock_mhz"]["end"]
    mhz = f" at {min(clocks)} to {max(clocks)} MHz" if clocks else ""
    left_out = sum(archive["left_out"].values())
    return [
        f"{machine['cpu'] or 'unknown processor'}, {machine['cores']} cores{mhz}{gpus}",
        f"mura-trt {machine['mura_trt']} {machine['commit']}, Python {machine['python']}; bundle {engine['name']}"
        f" ({engine['precision']})",
        f"{archive['sampled']} of {archive['listed']} views, {archive['mean_bytes'] / 1e3:.0f} kB each,"
        f" again and again{', unpacked' if archive['unpacked'] else ''}"
        + (f"; {left_out} cannot be scored and are left out" if left_out else ""),
        f"medians (least to most) of {found['rounds']} rounds in which everything takes its turn, in a process of its"
        " own; a ratio is one of figures of the same round",
    ]


def _model_only(found: dict[str, Any]) -> list[str]:
    rows = [("runtime", "device", "batch", "views/s", "of sgemm")]
    for runtime, one in found["model_only"].items():
        share = _spread(one["sgemm_share"], 2) if "sgemm_share" in one else "-"
        rows.append((runtime, one["device"], str(one["batch"]), _rate(one), share))
    lines = ["MODEL ONLY: a runtime on pixels in memory; nothing is read, decoded or kept", *_aligned(rows)]
    if "reference" in found:
        reference = found["reference"]
        lines.append(
            f"  sgemm: large float32 matrices, {_spread(reference['sgemm_gflop_per_s'], 0)} GFLOP/s"
            f" with {reference['threads']} threads; {reference['gflop_per_view']:.1f} GFLOP a view"
        )
    return lines


def _decode_only(found: dict[str, Any]) -> list[str]:
    one = found["decode_only"]
    rows = [("threads", "batch", "views/s"), (str(one["threads"]), str(one["batch"]), _rate(one))]
    return [
        "DECODE ONLY: reading files from the page cache and decoding them in the host's memory; no model, no screening",
        *_aligned(rows, left=0),
    ]


def _end_to_end(found: dict[str, Any]) -> list[str]:
    rows = [("runtime", "batch", "views", "views/s", "to model only", "to decode only", "command, s", "memory")]
    for runtime, one in found["end_to_end"].items():
        to = [_spread(one[name], 2) if name in one else "-" for name in ("to_model_only", "to_decode_only")]
        peak = one["peak_memory_bytes"]
        memory = "unknown" if peak is None else f"{peak / 1e9:.2f} GB"
        numbers = str(one["batch"]), str(one["views"]), _rate(one), *to, _spread(one["wall_s"], 1), memory
        rows.append((runtime, *numbers))
    stages = [
        f"  stages of {runtime}, s: " + ", ".join(f"{name} {took:.2f}" for name, took in one["stage_s"].items())
        for runtime, one in found["end_to_end"].items()
    ]
    return [
        "END TO END: mura-trt score, from files to CSV; views/s from the first batch in to the last commit",
        *_aligned(rows),
        *stages,
    ]


def _conclusions(found: dict[str, Any]) -> list[str]:
    null, decoding = found["end_to_end"][NULL], found["decode_only"]["views_per_s"]["median"]
    lines = [
        f"overlap: with a model exactly as slow as decoding, score reaches {_spread(null['to_decode_only'], 2)} of"
        " decoding alone; 1 is perfect overlap, 0.5 none"
    ]
    peaks = {name: one["peak_memory_bytes"] for name, one in found["end_to_end"].items() if one["peak_memory_bytes"]}
    if peaks:
        most = max(peaks, key=peaks.__getitem__)
        lines.append(
            f"memory: {peaks[most] / 1e9:.2f} GB at the most, with {most}: supervisor and workers together, pages that"
            " several have counted for each"
        )
    for runtime, one in found["model_only"].items():
        model = one["views_per_s"]["median"]
        where = (
            " by one process (several may share the GPU, which decodes JPEG files)" if one["device"] == "cuda" else ""
        )
        slower, times = ("the model", decoding / model) if model < decoding else (f"decoding{where}", model / decoding)
        lines.append(
            f"limit with {runtime}: {slower}, at {min(model, decoding):.1f} views/s; the other one is {times:.1f} times"
            " as fast by itself"
        )
    return lines


def _sweep(swept: dict[str, Any]) -> list[str]:
    lines = [
        f"SWEEP: settings in turns, {swept['rounds']} short rounds; not comparable with the tables to the last digit"
    ]
    for name, one in (*swept["model_only"].items(), ("decoding", swept["decode_only"])):
        best = ", ".join(f"{setting} {value}" for setting, value in one["best"].items())
        names = [setting for setting in one["tried"][0] if setting not in ("views_per_s", "problem")]
        rows = [(*names, "views/s")]
        rows += [
            (*(str(tried[setting]) for setting in names), "does not work" if "problem" in tried else _rate(tried))
            for tried in one["tried"]
        ]
        lines += [f"  {name} alone; best: {best or 'none works'}", *_aligned(rows, left=0)]
    return lines


def _wrapped(line: str) -> list[str]:
    """What is too long, below itself; columns stay as they are."""
    return [line] if len(line) <= WIDTH else textwrap.wrap(line, WIDTH, subsequent_indent="    ")


def _rate(one: dict[str, Any]) -> str:
    return _spread(one["views_per_s"], 1)


def _spread(one: dict[str, Any], digits: int) -> str:
    return f"{one['median']:,.{digits}f} ({one['min']:,.{digits}f} to {one['max']:,.{digits}f})"


def _aligned(rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of columns, of which the first ``left`` begin at the left."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(
            f"{cell:<{width}}" if at < left else f"{cell:>{width}}"
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]

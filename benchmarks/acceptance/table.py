"""What a run comes to, for a reader."""

from __future__ import annotations

from typing import Any

from benchmarks.acceptance.work import problem


def table(result: dict[str, Any]) -> str:
    """What it comes to, a line for each figure."""
    lines = [f"commit {result['commit'][:10]}"]
    for precision in ("fp32", "fp16", "int8"):
        for runtime, found in result.get(f"parity_{precision}", {}).items():
            if isinstance(found, dict) and "kept" in found:
                kept = "kept" if found["kept"] else "MISSED"
                dp = f"|dp| mean {found.get('model.dp_mean', 0):.1e}, max {found.get('model.dp_max', 0):.1e}"
                lines.append(f"parity  {runtime:14}{precision:6}{kept:8}{dp} on {found['views']} views")
            elif isinstance(found, dict):
                lines.append(f"parity  {runtime:14}{precision:6}{found.get('error', '')[:90]}")
    for name, found in result.get("peers", {}).items():
        if isinstance(found, dict) and "views_per_s" in found:
            rate = found["views_per_s"]
            lines.append(f"peer    {name:42}{rate['median']:10.1f} views/s ({rate['min']:.1f} to {rate['max']:.1f})")
    for section, title in (
        ("model_fp16", "model"),
        ("model_all", "model"),
        ("decode", "decode"),
        ("end_to_end", "score"),
    ):
        for name, found in result.get(section, {}).items():
            if isinstance(found, dict) and "median" in found:
                lines.append(
                    f"{title:8}{name:42}{found['median']:10.1f} views/s ({found['min']:.1f} to {found['max']:.1f})"
                )
    lines += stages(result.get("end_to_end", {}))
    lines += scaling(result.get("decode_scaling", {}))
    if counts := result.get("gpu_tests", {}).get("counts"):
        lines.append(f"tests   {', '.join(f'{count} {outcome}' for outcome, count in counts.items())}")
    floors = result.get("card", {}).get("floor_views_per_s", {})
    best = max((found["median"] for found in _rates(result, "tensorrt", "torch")), default=None)
    for name, floor in floors.items():
        share = f"; the best model reaches {100 * best / floor:.0f} % of it" if best else ""
        lines.append(f"floor   {name:42}{floor:10.1f} views/s{share}")
    lines += [f"gap     {kind}: {text}" for kind, text in gaps(result).items()]
    for name, seconds in result["seconds"].items():
        if why := problem(result[name]):
            lines.append(f"FAILED  {name} after {seconds} s: {why}")
    return "\n".join(lines)


def stages(found: dict[str, Any]) -> list[str]:
    """Where the time of whole runs went; or why a run has no rate."""
    lines = []
    for name, one in found.items():
        if not isinstance(one, dict):  # the section ended early
            continue
        if "error" in one:
            lines.append(f"score   {name:42}{one['error'][:90]}")
        else:
            spent = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in one["stage_s"].items())
            lines.append(f"stages  {name:42}{spent} s; all of it {one['wall_s']:.1f} s")
    return lines


def scaling(found: dict[str, Any]) -> list[str]:
    """How decoding grows with processes and with threads, and what a view costs."""
    lines = []
    for name, one in found.items():
        if name.startswith("processes"):
            cost = f"{one['cpu_us']:.0f} us of CPU a view"
        elif name.startswith("threads"):
            cost = (
                f"{one['user_us']:.0f} + {one['system_us']:.0f} us of CPU a view (user + system),"
                f" {one['cores_busy']:.1f} cores busy; {one['waits']:.2f} waits, {one['faults']:.1f} page faults a view"
            )
        else:  # what went wrong
            continue
        lines.append(f"scaling {name:42}{one['views_per_s']:10.1f} views/s; {cost}")
    return lines


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
                # By one process, or by several where that is faster.
                null = result["end_to_end"].get(f"null {kind}", {})
                decoding, model = max(decode["median"], null.get("median", 0.0)), rates[0]["median"]
                ratio = whole["median"] / min(decoding, model)
                found[kind] = (
                    f"{whole['median']:.0f} views/s with {whole['runtime']} is {ratio:.2f} of the slower of decoding"
                    f" ({decoding:.0f}) and model ({model:.0f})"
                )
    return found

"""What is in an engine bundle, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mura_trt.builder_options import DEFAULTS
from mura_trt.bundle import FILES, REQUIRED, Bundle, Manifest, file_problem, read_manifest
from mura_trt.errors import BundleError, RuntimeUnavailable
from mura_trt.graph_facts import graph_facts
from mura_trt.plan_layers import plan_layers

MEGABYTE = 1e6
OPERATORS = 8  # of the graph, by frequency


def inspected(folder: Path, layers: bool = False) -> dict[str, Any]:
    """All that can be told of a bundle, damaged or not, as JSON has it.

    Beside the manifest's own fields: ``files`` (a list; ``problem`` is None where a file is as it was built), ``graph``
    (of ``model.onnx``, or None and ``graph_problem``) and, where they are asked for, ``layers`` (or None and
    ``layers_problem``).

    Raises
    ------
    BundleError
        There is no bundle, or its manifest is not sound.
    """
    manifest, sha256 = read_manifest(folder)
    files = list(_files(folder, manifest))
    problems = {file["role"]: file["problem"] for file in files}
    found: dict[str, Any] = {**asdict(manifest), "folder": str(folder), "sha256": sha256, "files": files}
    found |= {"parity_summary": manifest.parity_summary, "graph": None, "graph_problem": problems["onnx"]}
    if problems["onnx"] is None:
        try:
            facts = graph_facts(folder / FILES["onnx"])
            found["graph"] = {**asdict(facts), "gflop_per_view": facts.gflop_per_view}
        except ImportError as error:
            found["graph_problem"] = f"onnx does not import ({error}): pip install onnx"
        except BundleError as error:
            found["graph_problem"] = str(error)
    found |= {"layers": None, "layers_problem": problems.get("plan") if layers else None}
    if layers and found["layers_problem"] is None:
        try:
            found["layers"] = [asdict(layer) for layer in plan_layers(Bundle(folder, manifest, sha256))]
        except RuntimeUnavailable as error:
            found["layers_problem"] = str(error)
    return found


def _files(folder: Path, manifest: Manifest) -> Iterator[dict[str, Any]]:
    for role, name in FILES.items():
        if role in manifest.files:
            said = manifest.files[role]
            yield {"role": role, "name": name, "bytes": said["bytes"], "problem": file_problem(folder, manifest, role)}
        elif role in REQUIRED:
            yield {"role": role, "name": name, "bytes": 0, "problem": "the manifest does not list it"}


def in_words(found: dict[str, Any]) -> str:
    """What :func:`inspected` found, in lines."""
    return "\n".join(f"{title:<12}{text}".rstrip() for title, text in _lines(found))


def _lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    contract = found["contract"]
    yield "name", f"{found['name']} ({found['folder']})"
    yield "network", f"{found['network']}{', imported from ONNX' if found['imported'] else ''}"
    yield "precision", found["precision"]
    yield (
        "input",
        f"{contract['dtype']} {contract['layout']}, {contract['height']} x {contract['width']} x"
        f" {contract['channels']}, resized: {contract['resize']}",
    )
    yield "", f"mean {_numbers(contract['mean'])}, deviation {_numbers(contract['std'])}, inside the graph"
    shape = contract["map_shape"]
    yield "output", "probability, logit, " + (f"map of {shape[0]} x {shape[1]}" if shape else "no map")
    made_of = "the ONNX file" if found["imported"] else "the checkpoints"
    yield "weights", ", ".join(digest[:12] for digest in found["checkpoints_sha256"]) + f" (SHA-256 of {made_of})"
    yield from _of_plan(found["builder"])
    if found["quantization"]:
        rounding = found["quantization"]
        kept = len(rounding["in_half_precision"])
        yield (
            "calibration",
            f"{rounding['method']} on {len(rounding['sample'])} views; {kept} of {len(rounding['ranges'])} convolutions"
            " stay in half precision",
        )
    yield "parity", found["parity_summary"]
    yield "versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    for number, file in enumerate(found["files"]):
        state = file["problem"] or "as it was built"
        yield "" if number else "files", f"{file['name']:<16} {file['bytes'] / MEGABYTE:7.1f} MB  {state}"
    yield from _of_graph(found["graph"], found["graph_problem"])
    yield from _of_layers(found["layers"], found["layers_problem"])


def _of_plan(built: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    if built is None:
        yield "plan", "none: it scores on a CPU"
        return
    least, tuned, most = built["batch"]
    yield "plan", f"{built['name']} {built['version']}, for {built['targets']}; built in {built['seconds']} s"
    yield "batch", f"{tuned} views" if least == most else f"{least} to {most} views, tuned for {tuned}"
    if "options" in built:
        default = DEFAULTS.described()
        other = [f"{name} {value}" for name, value in built["options"].items() if value != default.get(name)]
        yield "options", ", ".join(other) or "the defaults"
    if "sweep" in built:
        measured = sorted(built["sweep"].items(), key=lambda one: int(one[0]))
        rates = (f"{batch}: {'-' if rate is None else f'{rate:.0f}'}" for batch, rate in measured)
        yield "sweep", f"views/s by batch: {', '.join(rates)}"
    if "rebuild" in built:
        yield "built by", built["rebuild"]


def _of_graph(graph: dict[str, Any] | None, problem: str | None) -> Iterator[tuple[str, str]]:
    if graph is None:
        yield "graph", f"not looked at: {problem}"
        return
    shares = ", ".join(f"{share:.3g} in {precision}" for precision, share in graph["gflop"].items())
    yield "graph", f"{graph['parameters']:,} numbers; {graph['gflop_per_view']:.1f} GFLOP a view: {shares}"
    yield "", "convolutions: " + ", ".join(f"{count} in {name}" for name, count in graph["convolutions"].items())
    kinds = [f"{count} {kind}" for kind, count in graph["operators"].items()]
    rest = len(kinds) - OPERATORS
    yield "", "operators: " + ", ".join(kinds[:OPERATORS]) + (f", {rest} kinds more" if rest > 0 else "")


def _of_layers(layers: list[dict[str, Any]] | None, problem: str | None) -> Iterator[tuple[str, str]]:
    if problem:
        yield "layers", "none to show"
    if layers is None:
        return
    total = sum(layer["ms"] or 0 for layer in layers)
    yield "layers", f"{len(layers)}; {total:.3f} ms a batch, each timed by itself"
    for layer in layers:
        time = "       -" if layer["ms"] is None else f"{layer['ms']:8.3f}"
        parts = (layer["name"], layer["kind"], layer["output"], layer["kernel"])
        yield "", f"{time} ms  {' | '.join(part for part in parts if part)}"


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)

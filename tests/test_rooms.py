"""Who may import whom: the layers of the package, the libraries' rooms, and no circle; see docs/architecture.md."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent

# From the command line down to what all share. A module imports from its own room and from layers below, be it at the
# top, inside a function or for types only; never from a layer above, nor from another room of its layer. A package's
# name stands for its modules, but for those that are named themselves.
LAYERS: tuple[dict[str, str], ...] = (
    {"command line": "__main__ cli"},
    {"commands": "commands"},
    # What a command asks for; those above build on those below.
    {
        "bench": "bench",
        "build": "build",
        "challenge": "challenge submission",
        "report": "report",
    },
    {
        "score": "score",
        "parity": "parity",
        "evaluation": "evaluation",
        "training": "training",
        "inspect": "inspect_bundle",
        "doctor": "doctor",
    },
    {"demo": "demo", "offline": "offline", "sweep": "sweep"},
    # A scoring run: who supervises, what is kept, who works.
    {"run": "supervisor ledger score_options score_recipe cluster"},
    {"results": "results shards tables studies earlier heatmaps drawing overlay"},
    {"workers": "crew worker workerprocess"},
    # The stages, in the data's way from below; bundles are made of what is in "networks".
    {
        "decoding": "readahead host_decode decode pixels sample",
        "runtimes": "runtimes plan_layers",
    },
    {
        "archives": "archives",
        "networks": "networks model checkpoint export precision calibrate engine_recipe plan timing_cache graph_facts"
        " fused fused_kernels parity.bounds parity.reference parity.onnx_reference",
    },
    {"bytes of a view": "screen convert dicom gray"},
    {
        "shared": "errors contract rows progress bundle runtimes.base builder_options places cores memory cuda_devices"
        " processes files caches recipe metrics"
    },
)

# Libraries beyond Python's own, and the modules or packages that import them. All do it inside functions.
LIBRARIES = {
    "torch": "model checkpoint export calibrate fused training networks.checkpoints parity.reference runtimes.torch"
    " doctor.probes",
    "triton": "fused_kernels runtimes.torch",
    "safetensors": "checkpoint",
    "onnx": "export precision graph_facts timing_cache build networks parity.onnx_reference runtimes.onnxruntime"
    " bench.reference doctor.network",
    "onnxscript": "export",
    "google.protobuf": "graph_facts networks.reading",
    "ml_dtypes": "precision",
    "onnxruntime": "runtimes.onnxruntime networks.original bench.reference",
    "pycuda": "runtimes.cuda",
    "nvidia.dali": "decode",
    "pydicom": "dicom",
    "PIL": "convert decode dicom overlay parity.measure demo.archive report.thumbnails doctor.probes",
    "isal": "screen gray archives.zips archives.tars runtimes.null",
    "fsspec": "archives.remote",
    "pyarrow": "archives tables",
    "pandas": "tables studies heatmaps evaluation.finished report.data training.loop demo.summary doctor.probes",
    "sklearn": "evaluation.figures report.judged",
    "scipy": "evaluation.figures",
    "matplotlib": "parity.tell training",
    "ray": "cluster",
    "pip": "offline.wheels",
}
# The exceptions: imported at the top, where it is a base class, a decorator, or light and everywhere.
AT_TOP = {"torch": "model", "triton": "fused_kernels", "typer": "cli commands", "numpy": "*"}
# A module that is imported by its name, in a string, is seen by no table: runtimes, and TensorRT's two libraries.
BY_NAME = "runtimes plan doctor"
LINES = 400  # of a module


Rule = Callable[[dict[str, str]], list[str]]
"""Faults found in modules by name with their text, each a sentence that says what to do."""


class Import(NamedTuple):
    """One that was found; ``target`` is a module of the package without its name, or a library's name."""

    module: str
    line: int
    target: str
    own: bool
    """Of the package."""
    top: bool
    """It happens when the module is imported."""

    def __str__(self) -> str:
        path = f"mura_trt/{self.module.replace('.', '/')}"
        path += "/__init__.py" if (ROOT / path).is_dir() else ".py"
        return f"{path}:{self.line} imports {self.target}"


def sources() -> dict[str, str]:
    """The package's modules by name, without its own, with their text; the package itself is ``mura_trt``."""
    found = {}
    for path in sorted((ROOT / "mura_trt").rglob("*.py")):
        parts = path.relative_to(ROOT / "mura_trt").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "mura_trt"] = path.read_text()
    return found


def imports_in(modules: dict[str, str]) -> list[Import]:
    """Every import of every module."""
    return [one for module, text in modules.items() for one in _imports(module, _parsed(text), modules, True)]


def _imports(module: str, tree: ast.AST, modules: dict[str, str], top: bool) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import(names):
                wanted = [name.name for name in names]
            case ast.ImportFrom(base, names, level):
                assert not level, f"{module}:{node.lineno} imports relatively; name the module from mura_trt on"
                # `from package import module`, or what the module before `import` has.
                wanted = [full if _own(full := f"{base}.{name.name}") in modules else f"{base}" for name in names]
                wanted = [f"{base}.{name.name}" for name in names] if base == "nvidia" else wanted
            case ast.Call(ast.Attribute(attr="import_module")) | ast.Call(ast.Name(id="import_module" | "__import__")):
                wanted = ["importlib.import_module"]
            case _:
                wanted = []
        for name in dict.fromkeys(wanted):
            own = name.split(".")[0] == "mura_trt"
            if own or name.startswith("importlib.import_") or name.split(".")[0] not in sys.stdlib_module_names:
                yield Import(module, node.lineno, _own(name) if own else name, own, top)  # type: ignore[attr-defined]
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        yield from _imports(module, node, modules, top and not (lazy or types))


@cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _own(name: str) -> str:
    return name.removeprefix("mura_trt.")


def covers(names: str, module: str) -> int:
    """How many letters of a module's name are those of the best of these modules and packages; 0 where none is its."""
    return max((len(name) for name in names.split() if f"{module}.".startswith(f"{name}.")), default=0)


def room_of(module: str) -> tuple[int, str] | None:
    """Its layer's number, from the top, and its room's name."""
    rooms = [(covers(names, module), at, room) for at, layer in enumerate(LAYERS) for room, names in layer.items()]
    best, at, room = max(rooms)
    return (at, room) if best else None


def without_a_room(modules: dict[str, str]) -> list[str]:
    return [
        f"{module} is in no room: add it to one in LAYERS, the lowest that has what it imports"
        for module in modules
        if module != "mura_trt" and not room_of(module)
    ]


def against_the_layers(modules: dict[str, str]) -> list[str]:
    """What is imported from a layer above, or from the room next door."""
    faults = []
    for one in imports_in(modules):
        ours, theirs = room_of(one.module), room_of(one.target)
        if one.own and ours and theirs and ours != theirs and theirs[0] <= ours[0]:
            where = "above it" if theirs[0] < ours[0] else "beside it"
            faults.append(
                f"{one}: room {ours[1]!r} may not import from {theirs[1]!r}, which is {where} (LAYERS). Move what is"
                " needed down into a module that both may import, or have the caller hand it in"
            )
    return faults


def out_of_their_rooms(modules: dict[str, str]) -> list[str]:
    """Libraries that are imported where they are not expected, or too early."""
    faults = []
    for one in imports_in(modules):
        if one.own:
            continue
        if one.target == "importlib.import_module":
            if not covers(BY_NAME, one.module):
                faults.append(
                    f"{one}: only {BY_NAME} import by name (BY_NAME), for nothing else sees what. Write import"
                )
            continue
        library = next((name for name in {**LIBRARIES, **AT_TOP} if covers(name, one.target)), "")
        early = AT_TOP.get(library, "")
        if early == "*" or covers(early, one.module):
            continue
        rooms = LIBRARIES.get(library, early)
        if not library:
            faults.append(f"{one}: a library that has no row in LIBRARIES. Do without it, or say there who imports it")
        elif not covers(rooms, one.module):
            faults.append(f"{one}: only {rooms} import {library} (LIBRARIES). Call one of them, or move this there")
        elif one.top:
            faults.append(
                f"{one} at its top: {library} is imported inside what uses it, so that every module imports where it is"
                " missing. Move it into the function, or under TYPE_CHECKING where only types need it"
            )
    return faults


def circles(modules: dict[str, str]) -> list[str]:
    """Modules that import one another, wherever in them; to import a module is to import the packages that it is in."""
    edges: dict[str, dict[str, Import]] = {module: {} for module in modules}
    for one in imports_in(modules):
        name = one.target if one.own else ""
        while name in modules and name != one.module and not f"{one.module}.".startswith(f"{name}."):
            edges[one.module].setdefault(name, one)
            name = name.rpartition(".")[0]
    # What imports nothing, or nothing but what was taken out, is in no circle; what is left leads into one.
    left = set(modules)
    while gone := {module for module in left if not left & edges[module].keys()}:
        left -= gone
    found: dict[frozenset[str], str] = {}
    for start in sorted(left):
        way = [start]
        while (then := min(left & edges[way[-1]].keys())) not in way:
            way.append(then)
        way = [*way[way.index(then) :], then]
        found[frozenset(way)] = (
            "; ".join(str(edges[a][b]) for a, b in pairwise(way))
            + ": a circle, even if an import stands inside a function. Move what both need into a third module"
        )
    return list(found.values())


def too_long(modules: dict[str, str]) -> list[str]:
    """Modules that nobody reads at one sitting."""
    return [
        f"{module} has {lines} lines, and {LINES} are the most. Move what stands on its own into a module of its own"
        for module, text in modules.items()
        if (lines := text.count("\n")) > LINES
    ]


@pytest.mark.parametrize("rule", [without_a_room, against_the_layers, out_of_their_rooms, circles, too_long])
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    faults = rule(sources())
    assert not faults, "\n" + "\n".join(faults)


def test_tables_name_no_module_that_is_gone_and_no_library_that_nobody_imports() -> None:
    modules = sources()
    rooms = " ".join(names for layer in LAYERS for names in layer.values())
    named = f"{rooms} {' '.join(LIBRARIES.values())} {' '.join(AT_TOP.values())} {BY_NAME}".split()
    assert {name for name in named if name != "*"} <= modules.keys()
    assert len(rooms.split()) == len(set(rooms.split()))
    found = [one for one in imports_in(modules) if not one.own]
    unused = [
        f"{library} in {name}"
        for library, names in LIBRARIES.items()
        for name in names.split()
        if not any(covers(library, one.target) and covers(name, one.module) for one in found)
    ]
    assert not unused, f"take out of LIBRARIES, for nothing imports it any more: {', '.join(unused)}"


@pytest.mark.parametrize(
    ("rule", "module", "planted", "told"),
    [
        (circles, "errors", "def late() -> None:\n    import mura_trt.files", "imports files; mura_trt/files.py:"),
        (
            circles,
            "files",
            "from mura_trt.archives import disclosure",
            "imports archives.disclosure: a circle",
        ),
        (
            against_the_layers,
            "screen",
            "from mura_trt import worker",
            "'bytes of a view' may not import from 'workers'",
        ),
        (against_the_layers, "decode", "from mura_trt.runtimes import null", "which is beside it"),
        (out_of_their_rooms, "contract", "def late() -> None:\n    import torch", "imports torch: only model "),
        (out_of_their_rooms, "decode", "import nvidia.dali", "nvidia.dali at its top"),
        (out_of_their_rooms, "decode", "from nvidia import dali", "nvidia.dali at its top"),
        (out_of_their_rooms, "decode", "import cv2", "cv2: a library that has no row"),
        (out_of_their_rooms, "files", "import importlib\nimportlib.import_module('torch')", "import by name"),
        (without_a_room, "brandnew", "", "brandnew is in no room"),
        (too_long, "errors", "\n" * LINES, "and 400 are the most"),
    ],
)
def test_a_planted_fault_is_found(rule: Rule, module: str, planted: str, told: str) -> None:
    modules = sources()
    faults = rule({**modules, module: modules.get(module, "") + "\n" + planted})
    assert any(told in fault for fault in faults), faults

"""Bundles made from others, for tests that need one that is different, or broken."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import onnx

from mura_trt.bundle import FILES, Bundle, describe_file, write_manifest


def remade(bundle: Bundle, folder: Path, graph: onnx.ModelProto | None = None, **changes: Any) -> Bundle:
    """A copy with another graph in place of ``model.onnx``, or with other fields in its manifest, and sound hashes."""
    shutil.copytree(bundle.folder, folder)
    if graph is not None:
        onnx.save(graph, folder / FILES["onnx"])
    files = {role: describe_file(folder / name) for role, name in FILES.items() if (folder / name).exists()}
    write_manifest(folder, dataclasses.replace(bundle.manifest, files=files, **changes))
    return Bundle.open(folder)

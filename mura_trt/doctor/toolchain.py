"""What building PyCUDA takes: it is published as source alone."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterable
from pathlib import Path

ROOT_VARIABLES = ("CUDA_ROOT", "CUDA_HOME", "CUDA_PATH")


def missing_for_pycuda() -> list[str]:
    """What a build would fail for; empty where all of it is there."""
    roots = _cuda_roots()
    headers = [*_listed("CPATH", "CPLUS_INCLUDE_PATH"), *(root / "include" for root in roots), Path("/usr/include")]
    libraries = [
        *_listed("LIBRARY_PATH"),
        *(root / folder for root in roots for folder in ("lib64", "lib", "lib64/stubs", "lib/stubs")),
        *(Path("/usr") / folder for folder in (f"lib/{os.uname().machine}-linux-gnu", "lib64", "lib")),
    ]
    nvcc = shutil.which("nvcc") or _first("nvcc", [root / "bin" for root in roots])
    python = [Path(sysconfig.get_path("include"))]
    there = {
        "nvcc": nvcc,
        "cuda.h": _first("cuda.h", headers),
        "libcuda.so to link with (the toolkit has a stub of it in lib64/stubs)": _first("libcuda.so", libraries),
        "curand.h (or configure PyCUDA with --no-cuda-enable-curand)": _first("curand.h", headers),
        "a C++ compiler": shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++"),
        "Python.h": _first("Python.h", python),
    }
    return [name for name, found in there.items() if not found]


def _cuda_roots() -> list[Path]:
    """Where the CUDA toolkit may be: where variables say, around nvcc, and where its installer puts it."""
    roots = [Path(os.environ[name]) for name in ROOT_VARIABLES if os.environ.get(name)]
    nvcc = shutil.which("nvcc")
    if nvcc:
        roots += [Path(nvcc).parent.parent, Path(nvcc).resolve().parent.parent]
    return [*roots, Path("/usr/local/cuda")]


def _listed(*variables: str) -> list[Path]:
    return [Path(part) for name in variables for part in os.environ.get(name, "").split(os.pathsep) if part]


def _first(name: str, folders: Iterable[Path]) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).exists()), None)

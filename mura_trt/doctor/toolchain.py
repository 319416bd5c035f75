"""What building PyCUDA takes: it is published as source alone."""

from __future__ import annotations

import os
import platform
import shutil
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from mura_trt.offline.install import cuda_roots

# What a build needs -> how to get it.
HOW_TO_GET = {
    "nvcc": "nvcc is in the CUDA toolkit: install the one of the driver's version, and have its bin/ on PATH",
    "cuda.h": "cuda.h is in the CUDA toolkit's include/: name the toolkit with CUDA_ROOT",
    "libcuda.so": "libcuda.so, to link with, comes with the driver, and as a stub in the CUDA toolkit's lib64/stubs/:"
    " name its folder with LIBRARY_PATH",
    "curand.h": "curand.h is in the CUDA toolkit's include/, or build PyCUDA from its source after configure.py"
    " --no-cuda-enable-curand",
    "a C++ compiler": "install g++",
    "Python.h": "install Python's headers (python3-dev)",
}


def missing_for_pycuda() -> list[str]:
    """What a build would fail for, as keys of ``HOW_TO_GET``; empty where all of it is there."""
    roots = cuda_roots()
    headers = [*_listed("CPATH", "CPLUS_INCLUDE_PATH"), *(root / "include" for root in roots), Path("/usr/include")]
    libraries = [
        *_listed("LIBRARY_PATH"),
        *(root / folder for root in roots for folder in ("lib64", "lib", "lib64/stubs", "lib/stubs")),
        *(Path("/usr") / folder for folder in (f"lib/{platform.machine()}-linux-gnu", "lib64", "lib")),
    ]
    there = {
        "nvcc": shutil.which("nvcc") or _is_in("nvcc", [root / "bin" for root in roots]),
        "cuda.h": _is_in("cuda.h", headers),
        "libcuda.so": _is_in("libcuda.so", libraries),
        "curand.h": _is_in("curand.h", headers),
        "a C++ compiler": shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++"),
        "Python.h": _is_in("Python.h", [Path(sysconfig.get_path("include"))]),
    }
    return [name for name in HOW_TO_GET if not there[name]]


def _listed(*variables: str) -> list[Path]:
    return [Path(part) for name in variables for part in os.environ.get(name, "").split(os.pathsep) if part]


def _is_in(name: str, folders: Iterable[Path]) -> bool:
    return any((folder / name).exists() for folder in folders)

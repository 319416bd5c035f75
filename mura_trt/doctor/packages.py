"""Which libraries are installed, and which of them cannot live together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import metadata

from mura_trt.doctor.finding import PROBLEM, WORKS, Finding

# Name for people -> distributions, spelled as pip normalises them.
LIBRARIES = {
    "NumPy": r"numpy",
    "DALI": r"nvidia-dali-cuda\d+",
    "ONNX Runtime": r"onnxruntime(-.+)?",
    "onnx": r"onnx",
    "PyTorch": r"torch",
    "Triton": r"triton",
    "TensorRT": r"tensorrt(-cu\d+)?",
    "TensorRT-RTX": r"tensorrt-rtx(-cu\d+)?",
    "PyCUDA": r"pycuda",
    "ISA-L": r"isal",
    "pandas": r"pandas",
    "PyArrow": r"pyarrow",
    "Pillow": r"pillow",
    "pydicom": r"pydicom",
    "CharLS": r"pyjpegls",
    "pylibjpeg": r"pylibjpeg",
    "OpenJPEG": r"pylibjpeg-openjpeg",
    "GDCM": r"python-gdcm",
}
# Of these, one alone may be installed: all of them write into one folder.
_ALONE = {"ONNX Runtime": "onnxruntime", "DALI": "nvidia-dali-cuda130"}
LOADER = (
    "pip install tensorrt; the package is a loader, whose libraries (tensorrt-cu13-libs and -bindings) come from"
    " NVIDIA's own package index: install it where pip can reach that, or bring the wheels"
)
# What the package depends on, by pip's names, but for typer: without it no command starts.
_REQUIRED = {
    "NumPy": "numpy",
    "DALI": "nvidia-dali-cuda130",
    "ISA-L": "isal",
    "ONNX Runtime": "onnxruntime",
    "pandas": "pandas",
    "Pillow": "pillow",
    "PyArrow": "pyarrow",
}


def installed() -> dict[str, str]:
    """Every distribution on this Python's path: name, as pip normalises it, and version."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        try:
            name, version = (" ".join(distribution.metadata.get_all(key, [])) for key in ("Name", "Version"))
        except (OSError, TypeError, ValueError, LookupError):  # what is left of one that was half removed
            continue
        if name:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version or "unknown")
    return found


def of_library(library: str, distributions: Iterable[str]) -> list[str]:
    """The distributions that a library is installed from, in order of their names."""
    return sorted(name for name in distributions if re.fullmatch(LIBRARIES[library], name))


def versions(distributions: Mapping[str, str]) -> dict[str, str]:
    """Distribution -> version, of the libraries that scoring or building can use."""
    return {name: distributions[name] for library in LIBRARIES for name in of_library(library, distributions)}


def wheels_cuda(distributions: Iterable[str]) -> int | None:
    """The newest CUDA, by its major number, that an installed library of NVIDIA's is built for."""
    found = [re.search(r"-(?:cu|cuda)(1\d)\d?(?:-|$)", name) for name in distributions]
    return max((int(match[1]) for match in found if match), default=None)


def judged(distributions: Mapping[str, str]) -> Finding:
    """Whether what scoring needs is installed, once."""
    problems, mends = [], []
    for library, keep in _ALONE.items():
        several = of_library(library, distributions)
        if len(several) > 1:
            problems.append(f"{' and '.join(several)} are both installed, and overwrite one another's files")
            mends.append(f"pip uninstall -y {' '.join(several)} && pip install {keep}")
    missing = [pip for library, pip in _REQUIRED.items() if not of_library(library, distributions)]
    if missing:
        problems.append(f"not installed: {', '.join(missing)}")
        mends.append(f"pip install {' '.join(missing)}")
    if problems:
        return Finding(PROBLEM, "; ".join(problems), "; ".join(mends))
    return Finding(WORKS, "all that scoring needs is installed, and nothing twice")

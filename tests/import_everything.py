"""Imports every module of the package and runs ``--help``, in an environment that has none of the heavy libraries.

Run by ``make bare`` with an interpreter that has only typer and numpy; exits non-zero where an import needs more.
"""

import importlib
import importlib.util
import pkgutil
import subprocess
import sys

import mura_trt

HEAVY = ("torch", "tensorrt", "tensorrt_rtx", "nvidia.dali", "modelopt", "pycuda", "onnx", "onnxruntime", "pandas",
         "pyarrow", "sklearn", "PIL", "safetensors", "pydicom", "fsspec", "isal")  # fmt: skip


def installed(name: str) -> bool:
    """Whether a module could be imported, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def main() -> None:
    """Fails with a message where the environment is not bare or an import or ``--help`` fails."""
    present = [name for name in HEAVY if installed(name)]
    if present:
        sys.exit(f"this environment is not bare: it has {', '.join(present)}")
    names = sorted(
        module.name
        for module in pkgutil.walk_packages(mura_trt.__path__, "mura_trt.")
        if module.name not in ("mura_trt.__main__", "mura_trt._gray")  # the latter is a library without Python in it
    )
    for name in names:
        importlib.import_module(name)
    subprocess.run([sys.executable, "-m", "mura_trt", "--help"], check=True, stdout=subprocess.DEVNULL)
    print(f"{len(names)} modules imported, and --help run, in a bare environment")


if __name__ == "__main__":
    main()

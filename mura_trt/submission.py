"""The folder that the MURA challenge takes: a program, its engine and all of this package that it runs on."""

from __future__ import annotations

import json
import platform
import re
import shutil
from importlib import metadata
from pathlib import Path

import mura_trt
from mura_trt.bundle import MANIFEST, Bundle
from mura_trt.errors import EnvironmentProblem, UsageError
from mura_trt.files import new_folder, sha256_of, write_atomically

SOURCE = "src"
MARK = "submission.json"
_DISTRIBUTION = "mura-trt"
_CACHE = "__pycache__"  # which Python leaves when the program runs

_PROGRAM = '''"""The MURA challenge's program: ``python src/predict.py valid_image_paths.csv predictions.csv``."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # the package that lies here goes before one that is installed
os.environ["MURA_TRT_ENGINE"] = os.environ.get("MURA_TRT_ENGINE") or str(HERE / "engine")

from mura_trt.cli import app  # noqa: E402

if __name__ == "__main__":
    app(["predict", *sys.argv[1:]])
'''

_README = """# Submission to the MURA challenge

    pip install -r src/requirements.txt
    python src/predict.py valid_image_paths.csv predictions.csv

The first file has one image path a line, relative to the working directory; the second gets a line `STUDY/,0` or
`STUDY/,1` for each study. Exit code 3: some images could not be scored, and standard error says which. A study with
none that could gets 1. Not a medical device.

- `src/engine/`: {name}, {precision}, SHA-256 of its manifest {sha256}
- `src/mura_trt/`: mura-trt {version} (Apache-2.0)
- `src/requirements.txt`: what it needs, as installed where this was made, with Python {python}
- `src/submission.json`: the files' SHA-256
"""


def write_submission(folder: Path, engine: Path, overwrite: bool = False) -> Bundle:
    """Writes the folder, whole or not at all; returns the bundle in it.

    Raises
    ------
    UsageError
        ``folder`` is there already and ``overwrite`` is not set, or it holds what no submission of ours has.
    BundleError
        The engine is no sound bundle, or one without a proof, with which the program would not run.
    EnvironmentProblem
        What the program needs is not known here.
    """
    bundle = Bundle.open(engine)
    bundle.require_proof()
    if folder.resolve().is_relative_to(engine.resolve()):
        raise UsageError(f"{folder} lies in the bundle that it is to hold; choose another folder")
    _check_replaceable(folder, overwrite)
    needed = requirements()
    with new_folder(folder) as scratch:
        source = scratch / SOURCE
        (source / "engine").mkdir(parents=True)
        for name in (MANIFEST, *(file["name"] for file in bundle.manifest.files.values())):
            shutil.copyfile(bundle.folder / name, source / "engine" / name)
        Bundle.open(source / "engine")  # raises where the copy differs
        package = Path(mura_trt.__file__).parent
        shutil.copytree(package, source / package.name, ignore=shutil.ignore_patterns(_CACHE, ".*"))
        (source / "predict.py").write_text(_PROGRAM, encoding="utf-8")
        (source / "requirements.txt").write_text("".join(f"{line}\n" for line in needed), encoding="utf-8")
        readme = _README.format(
            name=bundle.manifest.name,
            precision=bundle.manifest.precision,
            sha256=bundle.sha256,
            version=mura_trt.__version__,
            python=platform.python_version(),
        )
        (scratch / "README.md").write_text(readme, encoding="utf-8")
        _write_mark(scratch)
    return Bundle.open(folder / SOURCE / "engine")


def requirements() -> list[str]:
    """What the package needs to run, each at the version that is installed: lines of a ``requirements.txt``.

    Raises
    ------
    EnvironmentProblem
        The package itself, or what it needs, is not installed.
    """
    try:
        wanted = [line for line in metadata.requires(_DISTRIBUTION) or [] if "extra ==" not in line]
        names = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in wanted]
        return [f"{name}=={metadata.version(name)}" for name in names]
    except metadata.PackageNotFoundError as error:
        raise EnvironmentProblem(
            f"{error.name} is not installed, so that its version is not known; install mura-trt with pip, which"
            " installs what it needs"
        ) from error


def _write_mark(folder: Path) -> None:
    """Names every file, so that only what was written here is ever deleted for a new one."""
    files = {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    content = json.dumps({"mura_trt": mura_trt.__version__, "files": files}, indent=2) + "\n"
    write_atomically(folder / SOURCE / MARK, content.encode())


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} exists and is no folder; choose another")
    if not any(folder.iterdir()):
        return
    try:
        files = dict(json.loads((folder / SOURCE / MARK).read_bytes())["files"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(f"{folder} exists and is no submission of mura-trt's; choose another folder") from error
    if not overwrite:
        raise UsageError(f"{folder} exists; add --overwrite to replace this submission, or choose another folder")
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        name = str(relative)
        if name == f"{SOURCE}/{MARK}" or _CACHE in relative.parts or (path.is_dir() and not path.is_symlink()):
            continue
        if path.is_symlink() or name not in files or files[name] != sha256_of(path):
            raise UsageError(
                f"{folder} holds {name}, which mura-trt did not write, or which was changed since; move it away, or"
                " choose another folder"
            )

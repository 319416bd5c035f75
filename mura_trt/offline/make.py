"""Writes a kit for a host with no internet: all packages for its Python, in volumes, with what installs them.

It needs pip and a network here. What pip is told of its indexes (its configuration, its variables) holds.
"""

from __future__ import annotations

import email
import hashlib
import json
import logging
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mura_trt.errors import EnvironmentProblem, UsageError
from mura_trt.files import sha256_of, sync_folder, write_atomically
from mura_trt.gray import BUILT
from mura_trt.offline.install import FORMAT, MANIFEST, SCRIPTS, InstallError, find_cuda, pycuda_source
from mura_trt.offline.volumes import VOLUME, write_volumes
from mura_trt.offline.wheels import file_name, normal_name, read_wheel, unmet, wheel_extras, write_stub_wheel

logger = logging.getLogger(__name__)

VOLUME_MIB = 1900  # below the 2 GiB and 4 GiB at which file systems of sticks and discs end
SUMS = "SHA256SUMS"
_STDERR = 2  # where what pip prints goes
_WORK = ".mura-trt-offline"  # in the kit's folder, until it is whole; nobody else's, for it is deleted
_OWN_FILES = ("pyproject.toml", "README.md", "LICENSE")  # what the wheel is made from, beside the package
# By extra: pure Python packages of which there is no wheel.
_SOURCE_ONLY = {"rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13"), "tensorrt": ("tensorrt", "tensorrt-cu13")}
_PYCUDA_BUILD = ("setuptools",)  # what building it takes, beside what the package needs anyway
# Where nothing else says which version: one that was tried.
_PYCUDA = "pycuda==2026.1"


@dataclass(frozen=True)
class OfflinePlan:
    """What to pack, and for which host: Linux on x86-64 with CPython.

    ``host`` names packages that the host has already, with its version where it is not that of the constraints
    (``torch==2.11.0``); nothing that they alone need is packed. ``pycuda`` is ``wheel`` (built here), ``sdist`` (built
    there) or ``none``. ``source`` is a checkout of mura-trt or its wheel, ``constraints`` a file of pip's.
    """

    folder: Path
    python: str  # such as "3.12"
    source: Path
    constraints: Path | None
    extras: tuple[str, ...] = ("build", "rtx", "dicom")
    host: tuple[str, ...] = ()
    pycuda: str = "none"
    glibc: str = "2.28"  # of the host, or older
    volume_mib: int = VOLUME_MIB

    def __post_init__(self) -> None:
        if not re.fullmatch(r"3\.\d+", self.python):
            raise UsageError(f"{self.python!r} is no Python version such as 3.12")
        if not re.fullmatch(r"2\.\d+", self.glibc):
            raise UsageError(f"{self.glibc!r} is no version of glibc such as 2.28 (`ldd --version` on the host tells)")
        if self.volume_mib < 1:
            raise UsageError("volumes are of 1 MiB at the least")
        if self.pycuda not in ("wheel", "sdist", "none"):
            raise UsageError(f"--pycuda is wheel, sdist or none, not {self.pycuda!r}")
        if "gpu" in self.extras:
            raise UsageError("the extra gpu is PyCUDA: say --pycuda wheel or --pycuda sdist in its place")


def make_kit(plan: OfflinePlan, overwrite: bool = False) -> dict[str, Any]:
    """Writes the kit into ``plan.folder``; returns its manifest.

    A run that was stopped leaves what it had downloaded, and the next one with the same plan goes on from there.

    Raises
    ------
    UsageError
        The folder holds a kit already and ``overwrite`` is not set, or the plan cannot be carried out here.
    EnvironmentProblem
        pip found no package that fits, or could not build one.
    """
    if (plan.folder / MANIFEST).exists() and not overwrite:
        raise UsageError(f"{plan.folder} holds a kit; add --overwrite to replace it, or choose another folder")
    if plan.pycuda == "wheel":
        _check_can_build_pycuda(plan)
    work = _work_folder(plan)
    wheels = work / "wheels"
    own = _own_wheel(plan.source, work)
    extras_there = wheel_extras(own)
    if wrong := sorted(set(plan.extras) - extras_there):
        raise UsageError(f"--extras {','.join(wrong)}: choose from {', '.join(sorted(extras_there - {'gpu'}))}")
    constraints = work / "constraints.txt"
    constraints.write_text(_constraints(plan), encoding="utf-8")
    host_names = [_host_pin(plan, name) for name in plan.host]
    for pin in host_names:
        write_stub_wheel(work / "stubs", *pin)
    for name in (name for extra in plan.extras for name in _SOURCE_ONLY.get(extra, ())):
        _build_wheel(name, wheels, constraints)
    extras = f"[{','.join(plan.extras)}]" if plan.extras else ""
    requirements = ["pip"]
    if plan.pycuda != "none":
        requirements += _get_pycuda(plan, wheels)
    while True:
        # By its file, so that no index can put another package in its place.
        wanted = [f"{own}{extras}", *requirements]
        _run_pip(download_command(plan, wanted, constraints, wheels, work / "stubs"), plan)
        for name, version in host_names:
            for stub in wheels.glob(f"{file_name(name)}-{version}+host-*.whl"):
                stub.unlink()
        wanted = [f"mura-trt{extras}", *requirements]
        missing, asked_of_host = unmet(wheels, wanted, plan.python, [name for name, _ in host_names])
        if not missing:
            break
        if set(missing) <= set(requirements):
            raise EnvironmentProblem(f"pip left out {', '.join(missing)}, which Python {plan.python} needs")
        requirements += missing
    manifest = {
        "format": FORMAT,
        "mura_trt": read_wheel(own)[1],
        "python": plan.python,
        "glibc": plan.glibc,
        "extras": list(plan.extras),
        "pycuda": plan.pycuda,
        "host": asked_of_host,
    }
    _write(plan, wheels, manifest)
    shutil.rmtree(work)
    return manifest


def download_command(
    plan: OfflinePlan, requirements: Iterable[str], constraints: Path, wheels: Path, stubs: Path
) -> list[str]:
    """The pip command that fills ``wheels`` with what fits the host, and with nothing that must be built."""
    newest = int(plan.glibc.partition(".")[2])
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(newest, 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
    return [
        *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check"),
        *("--only-binary=:all:", "--implementation=cp", f"--python-version={plan.python}"),
        *(f"--platform={name}" for name in platforms),
        *(f"--find-links={wheels}", f"--find-links={stubs}", f"--constraint={constraints}", f"--dest={wheels}"),
        *requirements,
    ]


def _write(plan: OfflinePlan, wheels: Path, manifest: dict[str, Any]) -> None:
    """Writes volumes and scripts, and last the manifest, to which it adds what it says of the files."""
    (plan.folder / MANIFEST).unlink(missing_ok=True)
    for old in plan.folder.glob(f"{VOLUME}[0-9]*"):
        old.unlink()
    files = sorted(wheels.iterdir())
    logger.info("writing %d packages in volumes of %d MiB", len(files), plan.volume_mib)
    manifest["files"] = [{"name": path.name, "size": path.stat().st_size, "sha256": sha256_of(path)} for path in files]
    manifest["volumes"] = write_volumes(files, plan.folder, plan.volume_mib << 20)
    for name in SCRIPTS:
        shutil.copyfile(Path(__file__).with_name(name), plan.folder / name)
    content = (json.dumps(manifest, indent=1) + "\n").encode()
    sums = {volume["name"]: volume["sha256"] for volume in manifest["volumes"]}
    sums |= {name: sha256_of(plan.folder / name) for name in SCRIPTS}
    sums[MANIFEST] = hashlib.sha256(content).hexdigest()
    (plan.folder / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()), encoding="utf-8")
    sync_folder(plan.folder)
    write_atomically(plan.folder / MANIFEST, content)


def _work_folder(plan: OfflinePlan) -> Path:
    """The folder for what is downloaded; what another plan left there is deleted."""
    request = {name: str(value) for name, value in asdict(plan).items() if name != "volume_mib"}
    request["pinned"] = _constraints(plan)
    content = json.dumps(request, indent=1).encode()
    work = plan.folder / _WORK
    mark = work / "request.json"
    if not mark.exists() or mark.read_bytes() != content:
        shutil.rmtree(work, ignore_errors=True)
    (work / "wheels").mkdir(parents=True, exist_ok=True)
    write_atomically(mark, content)
    return work


def _own_wheel(source: Path, work: Path) -> Path:
    """The wheel of mura-trt, built outside the checkout, in which a build would leave its traces."""
    out = work / "own"
    shutil.rmtree(out, ignore_errors=True)
    if source.suffix == ".whl":
        out.mkdir()
        shutil.copy(source, out)
    else:
        copy = work / "checkout"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source / "mura_trt", copy / "mura_trt", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        for name in _OWN_FILES:
            shutil.copy(source / name, copy)
        _pip_wheel([str(copy)], out, "mura-trt")
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        if f"mura_trt/{BUILT.name}" not in packed.namelist():
            logger.warning("no C compiler here: on the host DALI will decode PNG files, at half the speed or less")
    for old in (work / "wheels").glob("mura_trt-*.whl"):
        old.unlink()
    shutil.copy(wheel, work / "wheels")
    return wheel


def _constraints(plan: OfflinePlan) -> str:
    """The constraints' lines, with the host's own versions in place of those of its packages."""
    pins = {normal_name(name): version for name, version in (_host_pin(plan, name) for name in plan.host)}
    kept = [line for line in _constraint_lines(plan) if normal_name(line.partition("==")[0]) not in pins]
    return "".join(f"{line}\n" for line in (*kept, *(f"{name}=={version}+host" for name, version in pins.items())))


def _constraint_lines(plan: OfflinePlan) -> list[str]:
    if plan.constraints is None:
        return []
    lines = (line.partition("#")[0].strip() for line in plan.constraints.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def _host_pin(plan: OfflinePlan, named: str) -> tuple[str, str]:
    """Name and version of a package that the host has."""
    name, _, version = named.partition("==")
    if not version:
        pinned = dict(line.split("==", 1) for line in _constraint_lines(plan) if "==" in line)
        version = next((pin for other, pin in pinned.items() if normal_name(other) == normal_name(name)), "")
    if not re.fullmatch(r"[\w.-]+", name) or not re.fullmatch(r"\d[\w.]*", version.partition("+")[0]):
        raise UsageError(f"which version of {name} has the host? Say --without {name}==VERSION")
    return name, version.partition("+")[0]


def _get_pycuda(plan: OfflinePlan, wheels: Path) -> list[str]:
    """Brings PyCUDA as a wheel built here or as its source; returns what else that asks for."""
    pinned = [line for line in _constraint_lines(plan) if normal_name(line.partition("==")[0]) == "pycuda"]
    requirement = pinned[0] if pinned else _PYCUDA
    if plan.pycuda == "wheel" and any(wheels.glob("pycuda-*.whl")):
        return [requirement]
    if not any(wheels.glob("pycuda-*.tar.gz")):
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
        _run_pip([*command, "--no-binary=pycuda", f"--dest={wheels}", requirement], plan)
    (sdist,) = wheels.glob("pycuda-*.tar.gz")
    if plan.pycuda == "sdist":
        return [*_PYCUDA_BUILD, *_sdist_needs(sdist)]
    cuda = find_cuda()
    assert cuda is not None, "was looked at before"
    try:
        with pycuda_source(sdist, cuda) as (source, variables):
            _pip_wheel([str(source)], wheels, "PyCUDA", variables)
    except InstallError as error:
        raise EnvironmentProblem(f"{error}; --pycuda sdist leaves building it to the host") from error
    sdist.unlink()
    return [requirement]


def _check_can_build_pycuda(plan: OfflinePlan) -> None:
    here = ".".join(platform.python_version_tuple()[:2])
    if here != plan.python:
        raise UsageError(
            f"a PyCUDA wheel for Python {plan.python} is built by that Python, and this is {here}: run mura-trt in"
            f" {plan.python}, or take --pycuda sdist"
        )
    if find_cuda() is None:
        raise UsageError(
            "a PyCUDA wheel is built where a CUDA toolkit is (no GPU needed), and none with include/cuda.h was found:"
            " name it in CUDA_ROOT, or take --pycuda sdist"
        )


def _sdist_needs(sdist: Path) -> list[str]:
    """What a source package says that it needs."""
    with tarfile.open(sdist) as tar:
        member = tar.extractfile(f"{sdist.name.removesuffix('.tar.gz')}/PKG-INFO")
        assert member is not None
        return email.message_from_binary_file(member).get_all("Requires-Dist", [])


def _build_wheel(name: str, wheels: Path, constraints: Path) -> None:
    """A wheel of a package that has none, but for the one that a run before built."""
    if any(wheels.glob(f"{file_name(name)}-*.whl")):
        return
    _pip_wheel([f"--constraint={constraints}", name], wheels, name)


def _pip_wheel(arguments: list[str], out: Path, name: str, variables: dict[str, str] | None = None) -> None:
    logger.info("building a wheel of %s", name)
    command = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps", "--quiet"]
    result = subprocess.run([*command, f"--wheel-dir={out}", *arguments], env=variables, stdout=_STDERR, check=False)
    if result.returncode:
        raise EnvironmentProblem(f"no wheel of {name} could be built; what pip says stands above")


def _run_pip(command: list[str], plan: OfflinePlan) -> None:
    """Runs pip, whose progress goes to standard error."""
    logger.debug("%s", shlex.join(command))
    if subprocess.run(command, stdout=_STDERR, check=False).returncode:
        libraries = "; TensorRT's libraries lie in NVIDIA's own index, which pip must be told of"
        raise EnvironmentProblem(
            f"pip did not get the packages for Python {plan.python} and glibc {plan.glibc}; what it says stands above."
            " Run the same again to go on; where it found no version that fits, try a newer --glibc"
            + (libraries if "tensorrt" in plan.extras else "")
        )

"""Installs a kit made by ``mura-trt offline``, with no network; ``install.sh`` runs it from the kit's folder.

It runs on its own: only the standard library, and nothing of the package that it installs. All it writes is in the
environment's folder. After a break it is run again; what was unpacked by then and is whole need not be unpacked again.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MANIFEST = "offline.json"
SCRIPTS = ("install.sh", "install.py")
FORMAT = 1
CUDA_VARIABLES = ("CUDA_ROOT", "CUDA_HOME", "CUDA_PATH")  # that name a CUDA toolkit; the first wins
_PACKAGES = "offline-packages"  # in the environment: what the volumes hold
_BLOCK = 1 << 20  # bytes read at once
_VERDICTS = (0, 5)  # doctor's exit codes: all that scoring needs works, or what does not was told
_HERE = ("--no-index", "--quiet", "--disable-pip-version-check", "--no-warn-script-location")

# Runs in the new environment, where pip is: the versions of packages that the host brings, against what is asked for.
_HOST_CHECK = """
import importlib.metadata, json, sys
from pip._vendor.packaging.specifiers import SpecifierSet
for name, wanted in json.loads(sys.argv[1]).items():
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        print("missing", name, wanted or "any version", sep="\\t")
    else:
        if not SpecifierSet(wanted).contains(version, prereleases=True):
            print("other", name, wanted, version, sep="\\t")
"""


class InstallError(Exception):
    """Why the kit cannot be installed, and what to do."""


def main(arguments: list[str] | None = None) -> int:
    """The program; returns its exit code: 0, or 1 with a message on standard error."""
    parser = argparse.ArgumentParser(prog="install.sh", description="Installs mura-trt with no network.")
    parser.add_argument("environment", nargs="?", default="mura-trt-env", type=Path, help="virtual environment to make")
    parser.add_argument("--volumes", default=Path(__file__).parent, type=Path, help="folder of the volumes [this one]")
    parser.add_argument("--host-packages", action="store_true", help="let the environment see this Python's packages")
    parser.add_argument("--cuda", type=Path, help="CUDA toolkit, for building PyCUDA [found by CUDA_ROOT or nvcc]")
    parser.add_argument("--check", action="store_true", help="check the volumes, and install nothing")
    options = parser.parse_args(arguments)
    try:
        manifest = read_manifest(options.volumes)
        if options.check:
            check_volumes(options.volumes, manifest)
            _say(f"all {len(manifest['volumes'])} volumes are whole")
        else:
            install(options.volumes, manifest, options.environment.resolve(), options.host_packages, options.cuda)
    except (InstallError, OSError, tarfile.TarError) as error:
        print(f"mura-trt offline: {error}", file=sys.stderr)
        return 1
    return 0


def install(folder: Path, manifest: dict[str, Any], environment: Path, host_packages: bool, cuda: Path | None) -> None:
    """Makes ``environment`` from the volumes in ``folder`` and says what to do next.

    Raises
    ------
    InstallError
        A volume is missing or damaged, the host lacks what the kit leaves to it, or pip or a compiler failed.
    """
    packages, mark, program = environment / _PACKAGES, environment / MANIFEST, environment / "bin" / "mura-trt"
    done = mark.exists() and program.exists()  # a kit has a file of the mark's name, too
    if done and mark.read_text(encoding="utf-8") == json.dumps(manifest):
        shutil.rmtree(packages, ignore_errors=True)
        _say(f"{environment} has this kit already; delete that folder to install it anew")
        _greet(program)
        return
    if environment.exists() and not (done or packages.exists()) and any(environment.iterdir()):
        raise InstallError(f"{environment} holds something else; name a folder that is not there yet")
    unpack(folder, manifest, packages)
    # What a run that was stopped or an older kit left there would mix with this one.
    for path in environment.iterdir():
        if path != packages:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    python = make_environment(environment, host_packages or bool(manifest["host"]))
    wheels = sorted(packages.glob("*.whl"))
    (pip,) = (path for path in wheels if path.name.startswith("pip-"))
    # A wheel is a zip file that Python can run pip from: no ensurepip is needed, which some systems leave out.
    _run_pip([str(python), str(pip / "pip")], ["install", *_HERE, str(pip)])
    check_host(python, manifest["host"])
    _say(f"installing {len(wheels)} packages into {environment}")
    # The kit holds what was resolved together; a resolver here could only mistake what the host has.
    command = [str(python), "-m", "pip"]
    _run_pip(command, ["install", *_HERE, "--no-deps", *map(str, wheels)])
    for sdist in packages.glob("pycuda-*.tar.gz"):
        _install_pycuda(command, sdist, packages, cuda)
    _say(f"installed: {program}")
    _greet(program)
    mark.write_text(json.dumps(manifest), encoding="utf-8")
    shutil.rmtree(packages)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What ``offline.json`` says of the kit.

    Raises
    ------
    InstallError
        The file is missing, damaged, or of another version of this program.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InstallError(f"{path} is missing: copy the kit's files again") from None
    except ValueError as error:
        raise InstallError(f"{path} is damaged ({error}): copy it again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InstallError(f"{path} is of another version: take install.sh and install.py from the same kit")
    return manifest


def check_volumes(folder: Path, manifest: dict[str, Any]) -> None:
    """Reads every volume.

    Raises
    ------
    InstallError
        One or more are missing or damaged: all of them are named.
    """
    problems = []
    for volume in manifest["volumes"]:
        path = folder / volume["name"]
        if not path.is_file():
            problems.append(f"{path.name} is missing")
        elif path.stat().st_size != volume["size"]:
            problems.append(f"{path.name} is damaged: {path.stat().st_size} bytes in place of {volume['size']}")
        elif _sha256(path) != volume["sha256"]:
            problems.append(f"{path.name} is damaged: its SHA-256 is wrong")
    if problems:
        raise InstallError("\n  ".join([f"copy these to {folder} again, and run this again:", *problems]))


def unpack(folder: Path, manifest: dict[str, Any], packages: Path) -> None:
    """Fills ``packages`` from the volumes, where it does not hold all of it already.

    Raises
    ------
    InstallError
        A volume is missing or damaged.
    """
    if not _wrong_files(packages, manifest):
        return
    count = len(manifest["volumes"])
    _say(f"checking {count} volume{'s' if count > 1 else ''}")
    check_volumes(folder, manifest)
    shutil.rmtree(packages, ignore_errors=True)
    packages.mkdir(parents=True)
    with (
        io.BufferedReader(_Joined([folder / volume["name"] for volume in manifest["volumes"]]), _BLOCK) as joined,
        tarfile.open(fileobj=joined, mode="r|") as tar,
    ):
        expected = {file["name"] for file in manifest["files"]}
        for member in tar:
            source = tar.extractfile(member)
            if member.name not in expected or source is None:
                raise InstallError(f"the volumes hold {member.name!r}, which {MANIFEST} does not name")
            with (packages / member.name).open("wb") as target:
                shutil.copyfileobj(source, target, _BLOCK)
    wrong = _wrong_files(packages, manifest)
    if wrong:
        raise InstallError(f"not written as they should be: {', '.join(wrong)}; is the disk full or failing?")


def make_environment(environment: Path, host_packages: bool) -> Path:
    """Makes the virtual environment, or adds to the one that is there; returns its Python."""
    python = environment / "bin" / "python"
    command = [sys.executable, "-m", "venv", "--without-pip"]
    _run([*command, *(["--system-site-packages"] if host_packages else []), str(environment)], "venv")
    if host_packages and sys.prefix != sys.base_prefix:
        # A virtual environment made from another one sees the system's packages, and not the other one's.
        target = sysconfig.get_path("purelib", "venv", {"base": str(environment), "platbase": str(environment)})
        Path(target, "host.pth").write_text("".join(f"{path}\n" for path in site.getsitepackages()), encoding="utf-8")
    return python


def check_host(python: Path, wanted: dict[str, str]) -> None:
    """Looks whether the host has the packages that the kit leaves to it; says where a version is another one.

    Raises
    ------
    InstallError
        One is missing.
    """
    result = _ask([str(python), "-c", _HOST_CHECK, json.dumps(wanted)])
    if result.returncode:
        raise InstallError(f"{python} failed: {result.stderr.strip()}")
    for line in result.stdout.splitlines():
        kind, name, specifier, *version = line.split("\t")
        if kind == "missing":
            raise InstallError(
                f"this kit leaves {name} ({specifier}) to the host, and {sys.executable} has none: name the Python"
                f" that has it (PYTHON=... sh install.sh), or make a kit without `--without {name}`"
            )
        _say(f"careful: this host has {name} {version[0]}, and the kit asks for {specifier}")


def cuda_roots() -> list[Path]:
    """Where a CUDA toolkit may be: where variables say, around nvcc, and where its installer puts it."""
    roots = [Path(os.environ[name]) for name in CUDA_VARIABLES if os.environ.get(name)]
    nvcc = shutil.which("nvcc")
    if nvcc:
        roots += [Path(nvcc).parent.parent, Path(nvcc).resolve().parent.parent]
    return [*roots, Path("/usr/local/cuda")]


def find_cuda() -> Path | None:
    """The first of them that has the header ``cuda.h``."""
    return next((root for root in cuda_roots() if (root / "include" / "cuda.h").is_file()), None)


@contextlib.contextmanager
def pycuda_source(sdist: Path, cuda: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """PyCUDA's source set up for the toolkit ``cuda``, and the environment variables to build it with; both temporary.

    It needs the toolkit's headers and a C++ compiler. Of the driver it needs the name alone, so that an empty library
    of that name stands in for it. cuRAND is left out: nothing here draws random numbers, and its headers often lack.

    Raises
    ------
    InstallError
        There is no compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not (shutil.which("c++") or shutil.which("g++")):
        raise InstallError("PyCUDA needs a C and C++ compiler (gcc and g++) to be built, and there is none here")
    with tempfile.TemporaryDirectory(prefix="mura-trt-pycuda-") as scratch:
        driver = Path(scratch, "libcuda.so")
        stub = [compiler, "-shared", "-o", str(driver), "-Wl,-soname,libcuda.so.1", "-x", "c", os.devnull]
        _run(stub, "the C compiler")
        with tarfile.open(sdist) as tar:
            # Pythons before 3.11.4 have no filter; this file's hash was checked.
            tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
            tar.extractall(scratch)
        source = Path(scratch, sdist.name.removesuffix(".tar.gz"))
        settings = {"CUDA_ROOT": str(cuda), "CUDA_ENABLE_CURAND": False}  # what its configure.py would write
        (source / "siteconf.py").write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
        # Some compilers drop a library that nothing is taken from, and the empty one has nothing.
        flags = {"CXXFLAGS": f"-I{cuda}/include", "LDFLAGS": f"-L{scratch} -Wl,--no-as-needed"}
        yield source, {**_variables(), **flags}


def _install_pycuda(command: list[str], sdist: Path, packages: Path, cuda: Path | None) -> None:
    """Builds PyCUDA and installs it."""
    cuda = cuda or find_cuda()
    again = "all else is installed; then run this again"
    if cuda is None:
        raise InstallError(
            "PyCUDA cannot be built here: no CUDA toolkit with include/cuda.h was found; name it with --cuda DIR, or"
            f" make the kit with --pycuda wheel where one is, or with --pycuda none ({again})"
        )
    _say("building PyCUDA, which takes some minutes")
    try:
        with pycuda_source(sdist, cuda) as (source, variables):
            wheel = ["wheel", "--no-index", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(packages)]
            _run_pip(command, [*wheel, str(source)], variables)
    except InstallError as error:
        raise InstallError(f"PyCUDA did not build ({again}): {error}") from error
    _run_pip(command, ["install", *_HERE, "--no-deps", *map(str, packages.glob("pycuda-*.whl"))])


def _greet(program: Path) -> None:
    """Lets the program tell of this host, and says how to go on.

    Raises
    ------
    InstallError
        It does not come to a verdict; that something lacks here is one.
    """
    code = subprocess.run([str(program), "doctor"], env=_variables(), check=False).returncode
    if code not in _VERDICTS:
        raise InstallError(f"`{program} doctor` ended with exit code {code}: what it says stands above")
    _say(
        "what to do next: put an engine bundle (made by `mura-trt build-engine`) on this host, then\n"
        f"  {shlex.quote(str(program))} score ARCHIVE --engine BUNDLE -o OUT"
    )


def _wrong_files(packages: Path, manifest: dict[str, Any]) -> list[str]:
    """Names of files that are missing in ``packages`` or not what the manifest says."""

    def right(file: dict[str, Any]) -> bool:
        path = packages / file["name"]
        return path.is_file() and bool(path.stat().st_size == file["size"] and _sha256(path) == file["sha256"])

    return [file["name"] for file in manifest["files"] if not right(file)]


class _Joined(io.RawIOBase):
    """Files one after the other, as one that is read once."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = iter(paths)
        self._file: io.BufferedReader | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._file is None:
                path = next(self._paths, None)
                if path is None:
                    return 0
                self._file = path.open("rb")
            count = self._file.readinto(buffer)
            if count:
                return count
            self._file.close()
            self._file = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run_pip(command: list[str], arguments: list[str], variables: dict[str, str] | None = None) -> None:
    """Runs pip as if the user had configured nothing: an index or a constraint of theirs would have no place here."""
    kept = {name: value for name, value in (variables or _variables()).items() if not name.startswith("PIP_")}
    _run([*command, *arguments], "pip", {**kept, "PIP_CONFIG_FILE": os.devnull})


def _variables() -> dict[str, str]:
    """The variables of this process, without those that would put other packages before the environment's."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def _run(command: list[str], name: str, variables: dict[str, str] | None = None) -> None:
    result = _ask(command, variables)
    if result.returncode:
        said = "\n".join((result.stdout + result.stderr).strip().splitlines()[-15:])
        raise InstallError(f"{name} failed:\n{said}\n(command: {shlex.join(command)})")


def _ask(command: list[str], variables: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=variables or _variables(), capture_output=True, text=True, check=False)


def _say(line: str) -> None:
    print(f"mura-trt offline: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

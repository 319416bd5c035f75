"""Kits for hosts with no internet: made by a real pip from a folder of small wheels, installed by a real sh."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mura_trt.cli import app
from mura_trt.errors import EnvironmentProblem, UsageError
from mura_trt.offline.install import (
    CUDA_VARIABLES,
    InstallError,
    check_host,
    check_volumes,
    find_cuda,
    main,
    pycuda_source,
    read_manifest,
    unpack,
)
from mura_trt.offline.make import OfflinePlan, download_command, make_kit
from mura_trt.offline.volumes import write_volumes
from mura_trt.offline.wheels import unmet, write_stub_wheel

HERE = ".".join(platform.python_version_tuple()[:2])
PROGRAM = """
import sys

def app():
    if sys.argv[1] == "doctor":
        print("the doctor was here")
        sys.exit(0)
    else:
        import tiny
        print("looks at this host;", tiny.WORD)
"""


def write_wheel(folder: Path, name: str, version: str, needs: tuple[str, ...] = (), code: str = "") -> Path:
    """A pure Python wheel of one module; that of mura-trt has its program."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    path = folder / f"{module}-{version}-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nProvides-Extra: more\n"
    files = {
        f"{module}.py": code,
        f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {need}\n" for need in needs),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if name == "mura-trt":
        files[f"{info}/entry_points.txt"] = "[console_scripts]\nmura-trt = mura_trt:app\n"
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in (*files, f"{info}/RECORD"))
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as wheel:
        for file, content in files.items():
            wheel.writestr(file, content)
    return path


def write_installed(folder: Path, name: str) -> None:
    """A wheel of a pure Python package that is installed here."""
    package = distribution(name)
    with zipfile.ZipFile(folder / f"{name}-{package.version}-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        for file in package.files or []:
            if ".." not in file.parts and file.suffix != ".pyc" and Path(str(file.locate())).is_file():
                wheel.write(str(file.locate()), str(file))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place that pip gets packages from: a folder."""
    folder = tmp_path / "index"
    write_wheel(folder, "tiny", "1.0", code="WORD = 'one'")
    write_wheel(folder, "tiny", "2.0", code="WORD = 'two'")
    write_installed(folder, "pip")
    for name in [name for name in os.environ if name.startswith("PIP_") or name == "PYTHONPATH"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def plan(tmp_path: Path, index: Path) -> OfflinePlan:
    """A kit of a small package that goes by this one's name, in volumes of 1 MiB."""
    own = write_wheel(tmp_path / "own", "mura-trt", "0.1.0", ("tiny>=1",), PROGRAM)
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("# versions\ntiny==1.0\nhost-lib==3.1\n")
    return OfflinePlan(tmp_path / "kit", HERE, own, constraints, extras=(), volume_mib=1)


def names_in(plan: OfflinePlan) -> list[str]:
    return [file["name"] for file in read_manifest(plan.folder)["files"]]


def run_sh(plan: OfflinePlan, *arguments: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(plan.folder / "install.sh"), *arguments]
    return subprocess.run(
        command, env={**os.environ, "PYTHON": python}, capture_output=True, text=True, check=False, timeout=200
    )


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# --- made ---


def test_pip_is_asked_for_the_hosts_wheels_and_for_nothing_to_build() -> None:
    plan = OfflinePlan(Path("out"), "3.13", Path(), None, glibc="2.31")
    command = download_command(plan, ["mura-trt", "pip"], Path("c.txt"), Path("wheels"), Path("stubs"))
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert command[-2:] == ["mura-trt", "pip"]
    options = command[4:-2]
    assert {"--only-binary=:all:", "--implementation=cp", "--python-version=3.13", "--constraint=c.txt"} < set(options)
    assert {"--find-links=wheels", "--find-links=stubs", "--dest=wheels"} < set(options)
    platforms = [option.partition("=")[2] for option in options if option.startswith("--platform=")]
    assert platforms[0] == "manylinux_2_31_x86_64"  # the best first
    assert {"manylinux_2_17_x86_64", "manylinux_2_5_x86_64", "manylinux2014_x86_64", "linux_x86_64"} < set(platforms)
    assert len(platforms) == 27 + 4
    assert not [option for option in options if "index" in option]  # pip's own configuration says from where


def test_a_kit_has_the_constraints_versions_and_can_be_checked_by_other_tools(plan: OfflinePlan) -> None:
    manifest = make_kit(plan)
    assert names_in(plan) == ["mura_trt-0.1.0-py3-none-any.whl", f"pip-{distribution('pip').version}-py3-none-any.whl",
                              "tiny-1.0-py3-none-any.whl"]  # fmt: skip
    assert len(manifest["volumes"]) > 1
    assert sorted(path.name for path in plan.folder.iterdir()) == sorted(
        ["SHA256SUMS", "install.py", "install.sh", "offline.json", *(volume["name"] for volume in manifest["volumes"])]
    )
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=plan.folder, check=True)
    assert main(["--check", "--volumes", str(plan.folder)]) == 0


def test_a_kit_is_not_overwritten_unasked(plan: OfflinePlan) -> None:
    make_kit(plan)
    with pytest.raises(UsageError, match="--overwrite"):
        make_kit(plan)
    make_kit(replace(plan, volume_mib=100), overwrite=True)
    assert [path.name for path in plan.folder.glob("mura-trt.tar.*")] == ["mura-trt.tar.001"]


def test_the_manifest_has_the_version_of_the_wheel(plan: OfflinePlan) -> None:
    own = write_wheel(plan.source.parent, "mura-trt", "9.8.7", ("tiny",), PROGRAM)
    assert make_kit(replace(plan, source=own))["mura_trt"] == "9.8.7"


def test_what_another_python_needs_is_found_though_pip_judges_by_its_own(plan: OfflinePlan, index: Path) -> None:
    write_wheel(index, "newer", "1.0", ("deeper; python_full_version >= '3.98.3'",))
    write_wheel(index, "deeper", "1.0")
    needs = ("newer>=1; python_version >= '3.98'", "older; python_version < '3.98'", "windows; os_name == 'nt'")
    write_wheel(plan.source.parent, "mura-trt", "0.1.0", (*needs, "tiny; extra == 'more'"), PROGRAM)
    write_wheel(index, "older", "1.0")
    make_kit(replace(plan, python="3.98", extras=("more",)))
    stems = {name.partition("-")[0] for name in names_in(plan)}
    assert {"mura_trt", "newer", "deeper", "tiny"} < stems


def test_what_the_host_has_is_left_out_with_all_that_it_alone_needs(plan: OfflinePlan, index: Path) -> None:
    write_wheel(index, "host-lib", "3.1", ("heavy",))
    write_wheel(index, "heavy", "1.0")
    write_wheel(plan.source.parent, "mura-trt", "0.1.0", ("tiny", "Host.Lib>=2,<4"), PROGRAM)
    kit = make_kit(replace(plan, host=("host_lib",)))
    assert (kit["host"], kit["mura_trt"]) == ({"host-lib": "<4,>=2"}, "0.1.0")
    assert [name.partition("-")[0] for name in names_in(plan)] == ["mura_trt", "pip", "tiny"]
    other = replace(plan, folder=plan.folder.with_name("other"), host=("host-lib==4.2",))
    with pytest.raises(EnvironmentProblem, match="pip did not get"):  # the host's version does not do
        make_kit(other)
    with pytest.raises(UsageError, match="--without unheard-of==VERSION"):
        make_kit(replace(plan, folder=plan.folder.with_name("third"), host=("unheard-of",)))


def test_a_run_that_failed_goes_on_and_one_with_another_plan_begins(plan: OfflinePlan, index: Path) -> None:
    write_wheel(plan.source.parent, "mura-trt", "0.1.0", ("tiny", "late"), PROGRAM)
    with pytest.raises(EnvironmentProblem, match="go on"):
        make_kit(plan)
    kept = plan.folder / ".mura-trt-offline" / "wheels" / "tiny-1.0-py3-none-any.whl"
    shutil.copy(index / kept.name, kept)
    (index / kept.name).unlink()  # from now on only what is there already has it
    write_wheel(index, "late", "1.0")
    with pytest.raises(EnvironmentProblem):
        make_kit(replace(plan, folder=plan.folder, glibc="2.20"))
    assert not kept.exists()
    write_wheel(index, "tiny", "1.0")
    make_kit(plan)
    assert not kept.parent.parent.exists()


def test_what_lies_in_the_folder_stays(plan: OfflinePlan) -> None:
    (plan.folder / "work").mkdir(parents=True)
    (plan.folder / "work" / "thesis.txt").write_text("precious")
    make_kit(plan)
    assert (plan.folder / "work" / "thesis.txt").read_text() == "precious"


def test_an_extra_that_there_is_not_is_told(plan: OfflinePlan) -> None:
    with pytest.raises(UsageError, match="--extras mroe: choose from more"):
        make_kit(replace(plan, extras=("more", "mroe")))


def test_unmet_names_what_is_missing_and_what_is_too_old(tmp_path: Path) -> None:
    write_wheel(tmp_path, "root", "1.0", ("tiny>=2", "absent[x]>1 ; python_version > '3'"))
    write_wheel(tmp_path, "tiny", "1.0")
    assert unmet(tmp_path, ["root"], "3.12", []) == (["absent[x]>1", "tiny>=2"], {})


def test_volumes_are_of_one_size_and_the_same_again(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b", "c")]
    for file, size in zip(files, (0, 5_000, 12_345), strict=True):
        file.write_bytes(os.urandom(size))
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    volumes = write_volumes(files, tmp_path / "one", 1_000)
    files[0].touch()
    assert write_volumes(files, tmp_path / "two", 1_000) == volumes
    sizes = [(tmp_path / "one" / volume["name"]).stat().st_size for volume in volumes]
    assert set(sizes[:-1]) == {1_000}
    assert 0 < sizes[-1] <= 1_000
    whole = tmp_path / "whole.tar"
    whole.write_bytes(b"".join((tmp_path / "one" / volume["name"]).read_bytes() for volume in volumes))
    with tarfile.open(whole) as tar:
        assert {member.name: member.size for member in tar} == {"a": 0, "b": 5_000, "c": 12_345}


def test_plans_that_cannot_be_are_refused(tmp_path: Path) -> None:
    plan = OfflinePlan(tmp_path, "3.12", tmp_path, None)
    bad = ({"python": "3"}, {"glibc": "new"}, {"volume_mib": 0}, {"pycuda": "maybe"}, {"extras": ("gpu",)})
    for change in bad:
        with pytest.raises(UsageError):
            replace(plan, **change)
    with pytest.raises(UsageError, match=r"Python 3\.98"):
        make_kit(replace(plan, python="3.98", pycuda="wheel"))


def test_the_command_makes_a_kit(plan: OfflinePlan) -> None:
    arguments = ["offline", str(plan.folder), "--source", str(plan.source), "--extras", "", "--volume-mib", "1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "3 packages" in result.output
    assert "tiny-2.0-py3-none-any.whl" in names_in(plan)  # without constraints, the newest
    result = CliRunner().invoke(app, ["offline", str(plan.folder), "--source", str(plan.folder)])
    assert result.exit_code == 2
    assert "no checkout" in result.output


# --- carried ---


def test_missing_and_damaged_volumes_are_all_named(plan: OfflinePlan, capfd: pytest.CaptureFixture[str]) -> None:
    write_wheel(plan.source.parent, "mura-trt", "0.1.0", ("tiny",), f"NOISE = '{os.urandom(3 << 20).hex()}'")
    manifest = make_kit(plan)
    first, second, third, *_ = (plan.folder / volume["name"] for volume in manifest["volumes"])
    first.unlink()
    spoil(second)
    third.write_bytes(third.read_bytes()[:-1])
    with pytest.raises(InstallError) as caught:
        check_volumes(plan.folder, manifest)
    assert str(caught.value).splitlines()[1:] == [
        "  mura-trt.tar.001 is missing",
        "  mura-trt.tar.002 is damaged: its SHA-256 is wrong",
        "  mura-trt.tar.003 is damaged: 1048575 bytes in place of 1048576",
    ]
    environment = plan.folder / "env"
    capfd.readouterr()
    assert main([str(environment), "--volumes", str(plan.folder)]) == 1
    assert "mura-trt.tar.002 is damaged" in capfd.readouterr().err
    assert not environment.exists()


def test_unpacking_goes_on_and_needs_no_volume_where_all_is_there(plan: OfflinePlan, tmp_path: Path) -> None:
    manifest = make_kit(plan)
    packages = tmp_path / "packages"
    unpack(plan.folder, manifest, packages)
    for name in names_in(plan):
        assert (packages / name).stat().st_size
    half = packages / "tiny-1.0-py3-none-any.whl"
    half.write_bytes(half.read_bytes()[:10])
    unpack(plan.folder, manifest, packages)
    assert half.stat().st_size > 10
    for volume in manifest["volumes"]:
        (plan.folder / volume["name"]).unlink()
    unpack(plan.folder, manifest, packages)
    half.unlink()
    with pytest.raises(InstallError, match="missing"):
        unpack(plan.folder, manifest, packages)


def test_a_manifest_that_is_missing_or_damaged_or_newer_is_told(plan: OfflinePlan) -> None:
    manifest = make_kit(plan)
    path = plan.folder / "offline.json"
    path.write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(InstallError, match="another version"):
        read_manifest(plan.folder)
    path.write_text(json.dumps(manifest)[:-5])
    with pytest.raises(InstallError, match="damaged"):
        read_manifest(plan.folder)
    path.unlink()
    with pytest.raises(InstallError, match="missing"):
        read_manifest(plan.folder)
    result = run_sh(plan)
    assert result.returncode == 1
    assert "offline.json" in result.stderr


# --- installed ---


def test_sh_installs_it_with_no_index_and_again(plan: OfflinePlan, tmp_path: Path) -> None:
    make_kit(plan)
    environment = tmp_path / "an environment"
    result = run_sh(plan, str(environment))
    assert result.returncode == 0, result.stderr
    assert "the doctor was here" in result.stdout
    assert "what to do next" in result.stdout
    program = [str(environment / "bin" / "mura-trt"), "--help"]
    assert "one" in subprocess.run(program, capture_output=True, text=True, check=True).stdout
    assert not (environment / "offline-packages").exists()
    again = run_sh(plan, str(environment))
    assert again.returncode == 0
    assert "already" in again.stdout
    (environment / "offline.json").write_bytes(b"")  # as a power cut may leave it
    # A newer kit of the same version, into the environment that is there.
    write_wheel(plan.source.parent, "mura-trt", "0.1.0", ("tiny",), PROGRAM.replace("looks at", "sees"))
    make_kit(plan, overwrite=True)
    assert run_sh(plan, str(environment)).returncode == 0
    assert "sees this host" in subprocess.run(program, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("code", "works"), [(5, True), (1, False), pytest.param(-9, False, marks=pytest.mark.slow)])
def test_a_host_may_lack_what_scoring_needs_and_the_program_must_run(
    code: int, works: bool, plan: OfflinePlan, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ends = f"sys.exit({code})" if code >= 0 else f"import os; os.kill(os.getpid(), {-code})"
    write_wheel(plan.source.parent, "mura-trt", "0.1.0", ("tiny",), PROGRAM.replace("sys.exit(0)", ends))
    make_kit(plan)
    for _ in range(2):  # what did not run is not taken for installed
        assert main([str(tmp_path / "env"), "--volumes", str(plan.folder)]) == (0 if works else 1)
        told = capfd.readouterr()
        assert ("what to do next" in told.out) is works
        assert (f"doctor` ended with exit code {code}" in told.err) is not works
    assert (tmp_path / "env" / "offline.json").exists() is works


@pytest.mark.parametrize("variable", ["PIP_CONSTRAINT", "PIP_CONFIG_FILE", "XDG_CONFIG_HOME"])
def test_what_pip_is_told_elsewhere_has_no_place(
    variable: str, plan: OfflinePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_kit(plan)
    pins, settings = tmp_path / "pins.txt", tmp_path / "pip" / "pip.conf"
    pins.write_text("tiny==9.9\n")  # which the kit has not
    settings.parent.mkdir()
    settings.write_text(f"[global]\nconstraint = {pins}\n")
    monkeypatch.delenv("PIP_CONFIG_FILE")
    values = {"PIP_CONSTRAINT": pins, "PIP_CONFIG_FILE": settings, "XDG_CONFIG_HOME": tmp_path}
    monkeypatch.setenv(variable, str(values[variable]))
    assert main([str(tmp_path / "env"), "--volumes", str(plan.folder)]) == 0


def test_the_installer_needs_nothing_but_its_python(plan: OfflinePlan) -> None:
    make_kit(plan)
    # -I and -S: neither this folder, nor variables, nor installed packages.
    command = [sys.executable, "-I", "-S", str(plan.folder / "install.py"), "--check"]
    assert "are whole" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_what_is_not_ours_is_not_touched(plan: OfflinePlan, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_kit(plan)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "data").write_text("precious")
    assert main([str(theirs), "--volumes", str(plan.folder)]) == 1
    assert "holds something else" in capfd.readouterr().err
    assert [path.name for path in theirs.iterdir()] == ["data"]
    # Nor is a kit, be it an older one or this one itself.
    older = tmp_path / "older"
    shutil.copytree(plan.folder, older)
    for kit in (older, plan.folder):
        held = sorted(path.name for path in kit.iterdir())
        assert main([str(kit), "--volumes", str(plan.folder)]) == 1
        assert "holds something else" in capfd.readouterr().err
        assert sorted(path.name for path in kit.iterdir()) == held


def test_an_installation_that_was_stopped_begins_clean(plan: OfflinePlan, tmp_path: Path) -> None:
    manifest = make_kit(plan)
    environment = tmp_path / "env"
    unpack(plan.folder, manifest, environment / "offline-packages")
    half = environment / "lib" / f"python{HERE}" / "site-packages" / "tiny-1.0.dist-info"
    half.mkdir(parents=True)
    (half / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")  # and nothing of its module
    for volume in manifest["volumes"]:
        (plan.folder / volume["name"]).unlink()  # all is unpacked
    assert main([str(environment), "--volumes", str(plan.folder)]) == 0
    assert not (environment / "offline-packages").exists()


def test_sh_finds_the_python_or_says_which_it_wants(plan: OfflinePlan, tmp_path: Path) -> None:
    make_kit(plan)
    path = plan.folder / "offline.json"
    path.write_text(path.read_text().replace(f'"python": "{HERE}"', '"python": "3.98"'))
    result = run_sh(plan, str(tmp_path / "env"))
    assert result.returncode == 1
    assert "Python 3.98" in result.stderr
    assert not (tmp_path / "env").exists()


def test_the_hosts_packages_are_seen_and_looked_at(
    plan: OfflinePlan, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The pytest of this Python stands for what a host has: the environment of the tests is one made by venv, too."""
    version = pytest.__version__
    write_wheel(plan.source.parent, "mura-trt", "0.1.0", ("tiny", "pytest>=1"), PROGRAM)
    make_kit(replace(plan, host=(f"pytest=={version}",)))
    environment = tmp_path / "env"
    assert main([str(environment), "--volumes", str(plan.folder)]) == 0
    seen = [str(environment / "bin" / "python"), "-c", "import pytest; print(pytest.__version__)"]
    assert subprocess.run(seen, capture_output=True, text=True, check=True).stdout.strip() == version
    assert "careful" not in capfd.readouterr().out
    python = environment / "bin" / "python"
    check_host(python, {"pytest": ">=9999"})
    assert f"careful: this host has pytest {version}, and the kit asks for >=9999" in capfd.readouterr().out
    with pytest.raises(InstallError, match=r"leaves nowhere-to-be-had \(>=1\) to the host"):
        check_host(python, {"nowhere-to-be-had": ">=1"})


# --- PyCUDA ---


@pytest.fixture
def sdist(tmp_path: Path) -> Path:
    """A source package that shows what PyCUDA's would be built with."""
    source = tmp_path / "pycuda-9.9"
    source.mkdir()
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: pycuda\nVersion: 9.9\nRequires-Dist: tiny\n")
    (source / "setup.py").write_text("from setuptools import setup\nsetup(name='pycuda', version='9.9')\n")
    path = tmp_path / "pycuda-9.9.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(source, source.name)
    return path


@pytest.fixture
def cuda(tmp_path: Path) -> Path:
    folder = tmp_path / "cuda"
    (folder / "include").mkdir(parents=True)
    (folder / "include" / "cuda.h").write_text("#define HERE\n")
    return folder


def test_the_toolkit_is_found_by_variable_or_by_nvcc(
    cuda: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CUDA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name in ("CUDA_ROOT", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.setenv(name, str(cuda))
        assert find_cuda() == cuda
        monkeypatch.setenv(name, str(tmp_path))  # no header there
    nvcc = cuda / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    links = tmp_path / "links"
    links.mkdir()
    (links / "nvcc").symlink_to(nvcc)
    monkeypatch.setenv("PATH", str(links))
    assert find_cuda() == cuda


def test_pycuda_links_to_a_driver_that_is_not_here(sdist: Path, cuda: Path, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None or shutil.which("c++") is None:
        pytest.skip("no compiler here")
    with pycuda_source(sdist, cuda) as (source, variables):
        settings: dict[str, object] = {}
        exec((source / "siteconf.py").read_text(), settings)
        assert settings["CUDA_ROOT"] == str(cuda)
        assert settings["CUDA_ENABLE_CURAND"] is False
        (tmp_path / "m.c").write_text("#include <cuda.h>\n#ifdef HERE\nint m(void) { return 0; }\n#endif\n")
        library = tmp_path / "m.so"
        flags = [*variables["CXXFLAGS"].split(), *variables["LDFLAGS"].split()]
        build = [compiler, "-shared", "-fPIC", *flags, str(tmp_path / "m.c"), "-lcuda", "-o", str(library)]
        subprocess.run(build, check=True)
    assert b"libcuda.so.1\0" in library.read_bytes()
    assert not source.exists()


def test_without_a_compiler_pycuda_is_not_built(
    sdist: Path, cuda: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InstallError, match="compiler"), pycuda_source(sdist, cuda):
        pass


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler here")
def test_pycuda_is_built_by_the_host(
    plan: OfflinePlan, index: Path, sdist: Path, cuda: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copy(sdist, index)
    write_installed(index, "setuptools")
    assert plan.constraints is not None
    plan.constraints.write_text("pycuda==9.9\n")
    make_kit(replace(plan, pycuda="sdist"))
    assert sdist.name in names_in(plan)
    environment = tmp_path / "env"
    monkeypatch.setattr("mura_trt.offline.install.find_cuda", lambda: None)
    assert main([str(environment), "--volumes", str(plan.folder)]) == 1
    assert "--cuda DIR" in capfd.readouterr().err
    assert main([str(environment), "--volumes", str(plan.folder), "--cuda", str(cuda)]) == 0
    listed = subprocess.run(
        [str(environment / "bin" / "python"), "-m", "pip", "list"], capture_output=True, text=True, check=True
    )
    assert "pycuda" in listed.stdout


def test_a_stub_stands_for_a_package_of_the_host(tmp_path: Path) -> None:
    write_stub_wheel(tmp_path, "Host.Lib", "3.1")
    assert [path.name for path in tmp_path.iterdir()] == ["host_lib-3.1+host-py3-none-any.whl"]

"""What goes into the packages, and that they work where nothing else is."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mura_trt import gray
from mura_trt.bundle import Bundle

ROOT = Path(__file__).parent.parent


def built(work: Path, *kinds: str) -> Path:
    """The folder of what is built from a copy of the checkout."""
    source = work / "source"
    for name in ("mura_trt", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "cli.py"):
        shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", *kinds, "--no-isolation", "--outdir", str(work / "dist"), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    return work / "dist"


def test_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    (wheel,) = built(tmp_path, "--wheel").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    packaged = {name for name in names if ".dist-info/" not in name}
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "mura_trt").rglob("*.py")} | {"mura_trt/py.typed"}
    expected |= {f"mura_trt/report/page.{kind}" for kind in ("html", "css", "js")} | {"mura_trt/offline/install.sh"}
    expected |= {f"mura_trt/{gray.BUILT.name}"} if shutil.which("cc") else set()
    assert packaged == expected
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_is_built_installs_in_a_clean_environment_and_scores(
    archive: Path, bundle: Bundle, tmp_path: Path
) -> None:
    dist = built(tmp_path)  # the source distribution, and the wheel from that
    assert len(list(dist.iterdir())) == 2
    scored = ["score", str(archive), "--engine", str(bundle.folder), "--runtime", "onnxruntime", "-o"]
    subprocess.run([sys.executable, "-m", "mura_trt", *scored, str(tmp_path / "here")], check=True)
    for number, package in enumerate(sorted(dist.iterdir())):
        environment = tmp_path / f"environment{number}"
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        pip = [str(environment / "bin/python"), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, str(package)], check=True)
        out = tmp_path / f"out{number}"
        subprocess.run([str(environment / "bin/mura-trt"), *scored, str(out)], check=True, cwd=tmp_path)
        assert (out / "studies.csv").read_bytes() == (tmp_path / "here/studies.csv").read_bytes()
        shutil.rmtree(environment)

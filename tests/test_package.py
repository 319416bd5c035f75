"""What goes into the wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from mura_trt import gray

ROOT = Path(__file__).parent.parent


def test_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("mura_trt", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "cli.py"):
        shutil.copy(ROOT / name, source / name)
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path / "dist"),
        str(source),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    packaged = {name for name in names if ".dist-info/" not in name}
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "mura_trt").rglob("*.py")} | {"mura_trt/py.typed"}
    expected |= {f"mura_trt/report/page.{kind}" for kind in ("html", "css", "js")} | {"mura_trt/offline/install.sh"}
    expected |= {f"mura_trt/{gray.BUILT.name}"} if shutil.which("cc") else set()
    assert packaged == expected
    assert any(name.endswith("licenses/LICENSE") for name in names)

"""The commands as a user types them: what they print, where, and how they exit."""

from __future__ import annotations

import json
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path

import onnxruntime as ort
import pytest
import typer
from rich.text import Text

import mura_trt
from mura_trt.bundle import Bundle
from mura_trt.cli import app
from mura_trt.commands.shared import command_typed
from mura_trt.demo.summary import summarise
from mura_trt.errors import UsageError

ROOT = Path(__file__).parent.parent


def run(*arguments: object, program: tuple[str, ...] = ("-m", "mura_trt")) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_help_is_quick_and_names_the_commands() -> None:
    took, worked = [], []
    for _ in range(3):
        started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(time.monotonic() - started)
        worked.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.returncode == 0
    for command in ("score", "predict", "submission", "build-engine", "inspect", "export", "demo"):
        assert command in done.stdout
    # Processor time, which does not grow where other tests keep the cores busy; and no waiting to speak of.
    assert min(worked) < 0.5
    assert min(took) < 2


def test_help_shows_all_that_is_said_of_an_option() -> None:
    """Rich takes words in brackets for its own; typer is told of defaults as such."""
    for name, command in vars(typer.main.get_command(app))["commands"].items():
        for parameter in command.params:
            words = getattr(parameter, "help", None) or ""
            assert str(Text.from_markup(words)) == words, (name, parameter.name)


def test_version_and_root_script() -> None:
    assert run("--version").stdout.strip() == mura_trt.__version__
    assert run("--version", program=("cli.py",)).stdout.strip() == mura_trt.__version__


def test_no_heavy_library_is_loaded_for_help() -> None:
    code = "import sys, mura_trt.cli; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"torch", "numpy", "pandas", "pyarrow", "onnx", "onnxruntime", "nvidia.dali", "tensorrt_rtx"}


def test_score_prints_a_summary_and_json(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    common = ("score", archive, "--engine", bundle.folder, "-o", tmp_path / "out", "--runtime", "null")
    done = run(*common)
    assert done.returncode == 0, done.stderr
    assert "24 studies" in done.stdout
    assert "views/s with null" in done.stdout
    again = run(*common)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
    assert "Traceback" not in again.stderr
    resumed = run(*common, "--resume", "--json")
    assert resumed.returncode == 0
    assert json.loads(resumed.stdout)["resumed_views"] == json.loads(resumed.stdout)["listed"]
    done = run(*common, "--overwrite", "--json")
    assert json.loads(done.stdout) == json.loads((tmp_path / "out" / "run.json").read_text())
    assert "AUROC" in summarise(archive, tmp_path / "out")


def test_dry_run_tells_what_there_is_and_how_long_it_would_take(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    common = ("score", archive, "--engine", bundle.folder, "-o", tmp_path / "out", "--runtime", "null", "--dry-run")
    done = run(*common)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("24 studies, ") and ".png); other files: 4 .csv, 1 .txt" in done.stdout
    assert "views/s with null on a sample of" in done.stdout and "for all; nothing was written" in done.stdout
    assert json.loads(run(*common, "--json").stdout)["studies"] == 24
    assert not (tmp_path / "out").exists()


def test_score_exits_3_when_a_view_failed(copied: Path, bundle: Bundle, tmp_path: Path) -> None:
    next(copied.rglob("*.png")).write_bytes(b"")
    done = run("score", copied, "--engine", bundle.folder, "-o", tmp_path / "out", "--runtime", "null")
    assert done.returncode == 3
    assert "1 failed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("score", "nowhere", "--engine", "BUNDLE", "-o", "OUT"), 2, "nowhere: no such folder"),
        (("score", "ARCHIVE", "--engine", "nowhere", "-o", "OUT"), 5, "no engine bundle there"),
        (("score", "ARCHIVE", "--engine", "BUNDLE", "-o", "OUT", "--runtime", "x"), 2, "--runtime x"),
        (("score", "ARCHIVE"), 2, "Missing option"),
        (("export", "nowhere.pth", "-o", "OUT"), 2, "no such checkpoint"),
        (("build-engine", "--checkpoint", "nowhere.pth", "-o", "OUT", "--builder", "none"), 2, "no such checkpoint"),
        (("build-engine", "nowhere.toml", "--checkpoint", "c"), 2, "not a readable recipe"),
        (("build-engine", "--checkpoint", "c", "--batch", "many"), 2, "batch many: a number from 1 up"),
        (("inspect", "nowhere"), 5, "no engine bundle there"),
        (("demo", "ARCHIVE"), 2, "exist"),
        (("demo", "OUT", "--studies", "0"), 2, "studies"),
        (("demo-summary", "nowhere", "OUT"), 2, "not there"),
    ],
)
def test_wrong_use_is_one_line_and_the_right_code(
    arguments: tuple[str, ...], code: int, message: str, archive: Path, bundle: Bundle, tmp_path: Path
) -> None:
    names: dict[str, object] = {"ARCHIVE": archive, "BUNDLE": bundle.folder, "OUT": tmp_path / "out"}
    done = run(*(names.get(argument, argument) for argument in arguments))
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow  # for the exporter
def test_export_writes_a_graph_that_runs(checkpoint: Path, tmp_path: Path) -> None:
    done = run("export", checkpoint, "-o", tmp_path / "model.onnx")
    assert done.returncode == 0, done.stderr
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape[1:]) == ("image", "tensor(uint8)", [320, 320, 1])
    assert [output.name for output in session.get_outputs()] == ["probability", "logit", "cam"]


def test_summary_needs_a_finished_run(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"studies\.csv: not there"):
        summarise(archive, tmp_path)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("build-engine -o x", "mura-trt build-engine -o x --overwrite"),
        ("build-engine 'my recipe.toml' --overwrite -o x", "mura-trt build-engine 'my recipe.toml' --overwrite -o x"),
    ],
)
def test_command_line_is_told_as_it_was_typed(typed: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/mura-trt", *shlex.split(typed)])
    assert command_typed("--overwrite") == told

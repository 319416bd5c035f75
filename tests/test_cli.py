"""The commands as a user types them: what they print, where, and how they exit."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from rich.text import Text
from typer.testing import CliRunner

import mura_trt
from mura_trt.bundle import Bundle
from mura_trt.cli import app
from mura_trt.commands.shared import command_typed, errors_told
from mura_trt.demo.summary import summarise
from mura_trt.errors import UsageError

ROOT = Path(__file__).parent.parent


def run(*arguments: object, program: tuple[str, ...] = ("-m", "mura_trt")) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_help_is_quick_and_names_the_commands() -> None:
    """Beside a Python that does nothing, for machines differ."""
    took: dict[str, list[float]] = {"nothing": [], "help": []}
    worked: dict[str, list[float]] = {"nothing": [], "help": []}
    for _ in range(3):
        for what, program in (("nothing", ("-c", "pass")), ("help", ("-m", "mura_trt", "--help"))):
            started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
            done = run(program=program)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            took[what].append(time.monotonic() - started)
            worked[what].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.returncode == 0
    for command in ("score", "predict", "submission", "build-engine", "inspect", "export", "demo"):
        assert command in done.stdout
    # Processor time, which grows little where other tests keep the cores busy; and no waiting to speak of.
    assert min(worked["help"]) < 15 * min(worked["nothing"]) + 0.1
    assert min(took["help"]) < 15 * min(took["nothing"]) + 5


def test_a_full_disk_is_told_with_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, errors_told("score"):
        raise OSError(errno.ENOSPC, "No space left on device", "out")
    assert ended.value.exit_code == 5
    assert capsys.readouterr().err.endswith("'out'; make room there, or choose another place\n")


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
    assert re.search(r"24 studies, .* with null\n.*\nall +24 .*\nfracture ", summarise(archive, tmp_path / "out"))


CHATTY = ("-c", "import mura_trt.progress as p; p.LOG_SECONDS = 0; from mura_trt.cli import app; app()")


def test_a_run_goes_on_where_nobody_takes_what_it_says(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    """Its log is on a full disk, or its terminal is gone: that is no reason to lose a night's work."""
    command = [sys.executable, *CHATTY, "score", str(archive), "--engine", str(bundle.folder), "--runtime", "null"]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    full, gone = tmp_path / "full", tmp_path / "gone"
    with Path("/dev/full").open("w") as nowhere:
        done = subprocess.run(
            [*command, "-o", full], stdout=nowhere, stderr=nowhere, cwd=ROOT, env=buffered, check=False
        )
    assert done.returncode == 0
    assert json.loads((full / "run.json").read_text())["exit_code"] == 0
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*command, "-o", gone], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, env=buffered, check=False
    )
    assert done.returncode == 0
    assert b" views/s, " in done.stderr  # progress
    assert done.stderr.endswith(b"standard output takes nothing (Broken pipe); the results are written\n")
    assert (gone / "views.csv").read_bytes() == (full / "views.csv").read_bytes()
    again = subprocess.run([*command, "-o", gone], stdout=writer, stderr=writer, cwd=ROOT, env=buffered, check=False)
    assert again.returncode == 2  # that there is a run already, even where nobody hears it
    again = subprocess.run(
        [*command, "-o", gone, "--resume", "--json"], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, check=False
    )
    os.close(writer)
    assert again.returncode == 5  # what was asked for could not be given
    assert again.stderr.endswith(b"mura-trt: [Errno 32] Broken pipe\n")


def test_dry_run_tells_what_there_is_and_how_long_it_would_take(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    common = ("score", archive, "--engine", bundle.folder, "-o", tmp_path / "out", "--runtime", "null", "--dry-run")
    done = run(*common)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("24 studies, ") and ".png); other files: 4 .csv, 1 .txt" in done.stdout
    assert "views/s with null on a sample of" in done.stdout and "for all; no results were written" in done.stdout
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
        (("score", "ARCHIVE", "--engine", "BUNDLE", "-o", "OUT", "--workers-per-gpu", "2"), 2, "add --cluster"),
        (("score", "ARCHIVE"), 2, "Missing option"),
        (("export", "nowhere.pth", "-o", "OUT"), 2, "no such checkpoint"),
        (("build-engine", "--checkpoint", "nowhere.pth", "-o", "OUT", "--builder", "none"), 2, "no such checkpoint"),
        (("build-engine", "nowhere.toml", "--checkpoint", "c"), 2, "not a readable recipe"),
        (("build-engine", "--checkpoint", "c", "--batch", "many"), 2, "batch many: a number from 1 up"),
        (("inspect", "nowhere"), 5, "no engine bundle there"),
        (("score", "ARCHIVE", "--engine", "cli.py", "-o", "OUT"), 5, "--checkpoint cli.py -o FOLDER"),
        (("demo", "ARCHIVE"), 2, "exist"),
        (("demo", "OUT", "--studies", "0"), 2, "studies"),
        (("demo-summary", "nowhere", "OUT"), 2, "not there"),
        (("demo-summary", "SCORED", "SCORED"), 2, "no demo archive"),
    ],
)
def test_wrong_use_is_one_line_and_the_right_code(
    arguments: tuple[str, ...], code: int, message: str, archive: Path, bundle: Bundle, tmp_path: Path
) -> None:
    names: dict[str, object] = {
        "ARCHIVE": archive,
        "BUNDLE": bundle.folder,
        "OUT": tmp_path / "out",
        "SCORED": tmp_path,
    }
    (tmp_path / "views.csv").write_text("view,study,logit,probability,color\n")
    (tmp_path / "studies.csv").write_text("study,probability,abnormal\n")
    done = run(*(names.get(argument, argument) for argument in arguments))
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_summary_compares_scores_with_what_was_drawn(tmp_path: Path) -> None:
    """Six studies by hand, of which two are decided wrongly, and a seventh that has failed."""
    drawn = "view,study,body_part,label,kind,traits\na/2.png,a,HAND,1,fracture,\n"
    for study, about in zip("abcdefg", ["1,fracture"] * 2 + ["1,hardware"] + ["0,"] * 3 + ["1,displaced"], strict=True):
        drawn += f"{study}/1.png,{study},HAND,{about},\n"
    (tmp_path / "views.csv").write_text(drawn)
    out = tmp_path / "out"
    out.mkdir()
    scored = "study,probability,abnormal\na,0.9,1\nb,0.4,0\nc,0.8,1\nd,0.2,0\ne,0.3,0\nf,0.6,1\ng,,\n"
    (out / "studies.csv").write_text(scored)
    told = {"studies": 7, "listed": 8, "failed": 1, "views_per_s": 12.346, "runtime": "onnxruntime", "threshold": 0.5}
    (out / "run.json").write_text(json.dumps(told))
    assert CliRunner().invoke(app, ["demo-summary", str(tmp_path), str(out)]).stdout.splitlines() == [
        "Demo model on synthetic images: it says nothing about patients.",
        "7 studies, 8 views, 1 failed; 12.35 views/s with onnxruntime",
        "lesion       studies  abnormal   AUROC (95 % interval)",
        "all                6         3   0.889 (0.581 to 1.000)",
        "fracture           5         2   0.833 (0.371 to 1.000)",
        "hardware           4         1   1.000 (0.000 to 1.000)",
        "Cohen's kappa at the threshold 0.5: 0.333 (-0.421 to 1.000)",
        f"files: {out}/studies.csv  {out}/views.csv  {out}/failures.csv  {out}/run.json",
    ]


def test_closed_and_strict_streams_cost_no_run(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mura_trt", "score", str(next(archive.rglob("XR_WRIST"))), "--engine",
               str(bundle.folder), "--runtime", "null", "-o", os.fsdecode(bytes(tmp_path) + b"/R\xf6")]  # fmt: skip
    done = subprocess.run(["sh", "-c", 'exec "$@" 2>&-', "sh", *command], check=False, stdout=subprocess.PIPE)
    assert done.returncode == 0
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([*command, "--resume"], check=False, capture_output=True, env=strict)
    assert done.returncode == 0, done.stderr
    assert b"R\\udcf6" in done.stdout


def test_summary_is_of_the_archive_that_was_scored(tmp_path: Path) -> None:
    (tmp_path / "views.csv").write_text("view,study,body_part,label,kind,traits\na/2.png,a,HAND,1,fracture,\n")
    (tmp_path / "studies.csv").write_text("study,probability,abnormal\nb,0.9,1\n")
    with pytest.raises(UsageError, match="scores of no study of"):
        summarise(tmp_path, tmp_path)


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

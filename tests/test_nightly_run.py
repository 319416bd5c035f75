"""The nightly run as it is started: its measurements, small; its page; and the files that start it every night."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from benchmarks.feed import make_bundle
from benchmarks.nightly import history, parts
from benchmarks.nightly import night as night_module
from benchmarks.nightly.__main__ import main
from benchmarks.nightly.night import NightOptions, night
from benchmarks.nightly.page import page, write
from benchmarks.nightly.quick import Effort, Measured, decoding, measure
from benchmarks.nightly.reference import Turns, images, small_files
from benchmarks.nightly.series import series
from benchmarks.nightly.trial import PLANTED
from mura_trt.bundle import Bundle
from mura_trt.errors import UsageError
from tests.test_nightly import nights

ROOT = Path(__file__).parent.parent
SMALL = Effort(seconds=0, rounds=1, pipeline_views=1500, feed_views=9000, slices=2, turn=0.05, slice=0.05)
FIGURES = [f"{name} {how}" for name in ("pipeline", "feed", "decode") for how in ("wall", "cpu")]
VOID = {"meta", "br", "hr", "img", "link", "input"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for the null runtime."""
    folder = tmp_path_factory.mktemp("bundle") / "engine"
    make_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def measured(archive: Path, engine: Path) -> Measured:
    """A round of everything, as a user's machine does it."""
    return measure(archive, engine, SMALL)


@pytest.mark.parametrize("load", [images, small_files])
def test_fixed_work_is_done_on_each_core(load: Any) -> None:
    with Turns(2, load) as turns:
        turns.turn(0.02)
        pace = turns.turn(0.2)
    assert pace.cpu > 0 and 0 < pace.wall < 2.2 * pace.cpu  # two processes, of a second of CPU time a second


def test_a_load_that_dies_is_told() -> None:
    turns = Turns(1, images)
    turns._processes[0].kill()
    turns._processes[0].join()
    with pytest.raises((EOFError, BrokenPipeError)):
        turns.turn(0.1)


def test_a_quick_night_is_measured_and_added_and_learns(
    archive: Path, engine: Path, measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(night_module, "measure", lambda *_: measured)
    options = NightOptions(archive, engine, tmp_path / "nights.jsonl", quick=True)
    record = night(options)
    assert list(record["figures"]) == FIGURES
    assert all(said["state"] == "learning" and said["rounds"][0] > 0 for said in record["figures"].values())
    assert history.read(options.history) == ([record], [])
    assert record["key"]["bundle"] == Bundle.open(engine).sha256 and record["key"]["mode"] == "quick"


@pytest.mark.parametrize(("kind", "figure"), [("decode", "mura_trt.gray"), ("worker", "mura_trt.readahead")])
def test_a_slowdown_is_planted_in_the_processes_that_are_told_to(kind: str, figure: str) -> None:
    code = f"import {figure} as it; print(getattr(it, 'draw', None) or it.ReadAhead.next_batch)"
    clean = {"PYTHONPATH": str(PLANTED), "PATH": ""}
    for environment, planted in ((clean, False), ({**clean, "MURA_TRT_PLANTED": kind}, True)):
        done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, check=True)
        assert (b"slow_" in done.stdout) is planted


@pytest.mark.measures
@pytest.mark.slow
def test_a_planted_slowdown_costs_what_it_should(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = Turns(1, decoding, archive, 1)
    monkeypatch.setenv("PYTHONPATH", str(PLANTED))
    monkeypatch.setenv("MURA_TRT_PLANTED", "decode")
    slowed = Turns(1, decoding, archive, 1)
    with clean, slowed:
        ratios = sorted(clean.turn(0.1).cpu / slowed.turn(0.1).cpu for _ in range(15))
    assert 1.04 < ratios[7] < 1.16


BENCH = {
    "machine": {},
    "model_only": {
        "onnxruntime": {"batch": 8, "views_per_s": {"rounds": [9.0, 9.2]}, "sgemm_share": {"rounds": [0.8]}}
    },
    "decode_only": {"views_per_s": {"rounds": [3000.0, 3100.0]}},
    "end_to_end": {
        "onnxruntime": {
            "views_per_s": {"rounds": [8.9]},
            "to_model_only": {"rounds": [0.98, 0.97]},
            "peak_memory_bytes": 2_000_000_000,
        },
        "null": {
            "null_ms": 20,
            "views_per_s": {"rounds": [2800.0]},
            "to_decode_only": {"rounds": [0.92]},
            "peak_memory_bytes": 500_000_000,
        },
    },
    "reference": {"sgemm_gflop_per_s": {"rounds": [150.0]}},
}


def test_figures_of_bench_are_its_ratios_and_its_memory() -> None:
    figures, rates = parts.figures_of(BENCH)
    assert figures == {
        "onnxruntime model to sgemm": [0.8],
        "onnxruntime end to end to model only": [0.98, 0.97],
        "onnxruntime memory": [0.5],
        "null end to end to decode only": [0.92],
        "null memory": [2.0],
    }
    assert rates["decode only"] == [3000.0, 3100.0] and rates["onnxruntime model only"] == [9.0, 9.2]


def test_a_part_that_fails_or_hangs_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failed = parts.parity(tmp_path, tmp_path / "none", tmp_path / "none.safetensors")
    assert failed.failure and "parity: ended with exit code" in failed.failure and "no engine bundle" in failed.failure
    monkeypatch.setattr(parts, "LIMIT_SECONDS", 0.01)
    assert (parts.soak(tmp_path).failure or "").startswith("soak: did not end within")


@pytest.mark.slow
def test_a_bound_of_parity_that_is_missed_fails_the_night(
    archive: Path, bundle: Bundle, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from mura_trt.checkpoint import load_checkpoint, save_checkpoint

    network = load_checkpoint(checkpoint)
    with torch.no_grad():
        network.classifier.bias.add_(3.0)
    save_checkpoint(network, tmp_path / "other.safetensors")
    monkeypatch.setattr(parts, "PARITY_STUDIES", 2)
    found = parts.parity(archive, bundle.folder, tmp_path / "other.safetensors")
    assert found.failure and "model.dp_max is" in found.failure and "and its bound 0.03" in found.failure


def test_a_whole_night_takes_all_parts_and_fails_with_any(
    archive: Path, engine: Path, measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, rates = parts.figures_of(BENCH)
    # It is measured once for these tests, and the parts are tried on their own: this is what a night makes of them.
    monkeypatch.setattr(night_module, "measure", lambda *_: measured)
    monkeypatch.setattr(parts, "bench", lambda *_: parts.Part(None, 1.0, figures, rates, {"reference": None}))
    monkeypatch.setattr(parts, "parity", lambda *_: parts.Part(None, 1.0))
    monkeypatch.setattr(parts, "soak", lambda _: parts.Part("soak: a view was lost", 1.0))
    options = NightOptions(archive, engine, tmp_path / "nights.jsonl", checkpoint=tmp_path / "model")
    record = night(options)
    assert list(record["figures"]) == [*FIGURES, *figures]
    assert record["failures"] == ["soak: a view was lost"] and record["parts"]["parity"]["failure"] is None
    assert night_module.outcome(record)[:2] == ["ALARM: 1 of this night's findings", "soak: a view was lost"]


def test_what_cannot_be_measured_is_refused(archive: Path, engine: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="add --checkpoint, or --quick"):
        NightOptions(archive, engine, tmp_path / "nights.jsonl")
    with pytest.raises(UsageError, match="no folder with PNG files"):
        NightOptions(tmp_path / "none", engine, tmp_path / "nights.jsonl", quick=True)
    with pytest.raises(UsageError, match="is no folder; make it"):
        NightOptions(archive, engine, tmp_path / "none" / "nights.jsonl", quick=True)


def started(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.nightly", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_an_alarm_is_accepted_and_the_page_is_written(archive: Path, engine: Path, tmp_path: Path) -> None:
    path, html = tmp_path / "nights.jsonl", tmp_path / "pages" / "index.html"
    named = str(archive), "--engine", str(engine), "--history", str(path), "--quick", "--accept"
    refused = started(*named)
    assert refused.returncode == 2 and "was no alarm" in refused.stderr
    key = night_module.key_of(NightOptions(archive, engine, path, quick=True))
    history.append(path, {**shown(1)[0], "key": key, "failures": ["decode cpu: 10 % slower"]})
    done = started(*named, "--html", str(html))
    assert done.returncode == 0, done.stderr
    assert history.read(path)[0][0]["accepted"] is True
    assert "accepted: ALARM" in html.read_text() and html.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert started(*named).returncode == 2  # once is enough


class Checker(HTMLParser):
    """Elements that are closed as they were opened, and what would be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.elements: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def shown(count: int, **changes: Any) -> list[Any]:
    """Records with all that a page shows."""
    key = {"cpu": "a processor", "cores": 2, "gpu": None, "python": "3", "numpy": "2", "zlib": "1", "bundle": "b"}
    records = nights(count)
    for number, record in enumerate(records):
        record |= {"key": {**key, "mode": "quick"}, "rates": {"decode cpu": 1700.0}, "parts": {}, **changes}
        record["date"] = f"2026-10-{number + 1:02}T02:30:00Z"
    return records


def judged_and_shown(count: int) -> list[Any]:
    records = shown(count)
    for record in records[8:]:
        for said in record["figures"].values():
            said |= {"state": "steady", "nights": 8, "noise": 0.01, "bound": 0.05, "off": 0.0, "level": said["value"]}
    return records


@pytest.mark.parametrize("count", [1, 12])
def test_page_is_well_formed_and_loads_nothing(count: int) -> None:
    source = page(judged_and_shown(count))
    checker = Checker()
    checker.feed(source)
    assert checker.open == [] and checker.loads == []
    assert "script" not in checker.elements and checker.elements.count("svg") == 6
    assert (
        "prefers-color-scheme: dark" in source
        and "width=device-width" in source
        and "default-src &#x27;none&#x27;" in source
    )
    assert len(re.findall(' d="M', source)) >= 6
    assert not re.search(r' (d|c?[xy][12]?)="[^"]*(nan|inf)', source)


def test_page_shows_alarms_first_and_text_as_text() -> None:
    records = judged_and_shown(12)
    records[-1]["failures"] = ["decode cpu: 10 % slower; <script>alert(1)</script>"]
    records[-1]["commit"] = "<b>&"
    records[-1]["parts"] = {"soak": {"seconds": 3.0, "failure": "soak: <i>lost</i>", "kills": {"kills": 12}}}
    source = page(records)
    assert source.index("outcome bad") < source.index("ALARM: 1") < source.index("<main>")
    assert "&lt;script&gt;" in source and "<script" not in source and "<b>" not in source and "<i>" not in source
    assert source.count('class="alarm"') == 1


def test_series_are_shares_of_the_last_level_and_bands_are_where_nights_were_judged() -> None:
    points = series(judged_and_shown(10), "decode cpu")
    assert [point.band is None for point in points] == [True] * 8 + [False] * 2
    assert points[-1].value == pytest.approx(0) and points[-1].band == pytest.approx((-0.0488, 0.0513), abs=1e-3)


def test_picture_is_written_beside_the_page(tmp_path: Path) -> None:
    write(tmp_path / "index.html", judged_and_shown(10))
    assert (tmp_path / "index.png").stat().st_size > 10_000


def options_of(command: str) -> list[str]:
    """Options of ``python -m benchmarks.nightly`` in a shell's line."""
    words = shlex.split(command)
    at = words.index("benchmarks.nightly")
    return [word for word in words[at:] if word.startswith("--")]


def known_options() -> set[str]:
    app = typer.Typer()
    app.command()(main)
    return {option for one in typer.main.get_command(app).params for option in one.opts}


def workflow() -> Mapping[Any, Any]:
    found: Mapping[Any, Any] = yaml.safe_load((ROOT / "docs/nightly/github-workflow.yml").read_text())
    return found


def test_workflow_is_one_that_github_takes_and_its_commands_are_there() -> None:
    found = workflow()
    job = found["jobs"]["nightly"]
    assert "vars.NIGHTLY_RUNNER" in job["runs-on"] and found[True]["schedule"]  # YAML 1.1 reads "on" as a truth value
    commands = [step["run"] for step in job["steps"] if "run" in step]
    (ours,) = [command for command in commands if "benchmarks.nightly" in command]
    assert set(options_of(ours.partition("|")[0])) <= known_options()
    assert {"--quick", "--accept"} <= set(re.findall(r"--\w+", json.dumps(job["steps"])))
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)
    (made,) = [command for command in commands if "make " in command]
    targets = made.partition("make ")[2].split()
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE) for target in targets)
    for needed in (step["with"]["key"] for step in job["steps"] if "cache@" in step.get("uses", "")):
        assert all((ROOT / name).is_file() for name in re.findall(r"'([^']+)'", needed))


def test_systemd_units_and_cron_line_start_what_is_there() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string((ROOT / "docs/nightly/mura-trt-nightly.service").read_text().replace("\\\n", ""))
    assert set(options_of(unit["Service"]["ExecStart"])) <= known_options()
    timer = configparser.ConfigParser(interpolation=None)
    timer.read(ROOT / "docs/nightly/mura-trt-nightly.timer")
    assert timer["Timer"]["Persistent"] == "true"
    (cron,) = re.findall(r"^ +30 2 \* \* \* (.*)$", (ROOT / "docs/nightly.md").read_text(), re.MULTILINE)
    assert set(options_of(cron)) <= known_options()

"""What the documents say to type is there, and so is what they point to."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from benchmarks.claims import CLAIMS
from mura_trt.cli import app

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for name in ("docs", "benchmarks", "engines") for page in (ROOT / name).rglob("*.md"))]
)
COMMANDS: dict[str, Any] = vars(typer.main.get_command(app))["commands"]

# Pages whose commands test_typed types, in their order: a page's later lines need what the earlier ones left.
TYPED = ["README.md", "docs/evaluation.md", "docs/training.md", "docs/gpu.md"]
# What another test runs, or CI, is named with the file that does; what nothing here can run, with what it needs, which
# then stands beside the command.
ELSEWHERE = {
    r"^make (demo|test|test-slow)\b": ".ci/run",
    r"^pip install ": "Makefile",
    r"--devices all": "GPU",
    r"--cluster auto": "tests/cluster/test_ray.py",
    r"^mura-trt offline ": "tests/test_offline.py",
    r"^(PYTHON=\S+ )?sh install.sh ": "tests/test_offline.py",
    r"^/opt/mura-trt/bin/mura-trt score ": "tests/test_offline.py",
    r"^mura-trt .*(resnet18|archive/valid/XR_WRIST)": "tests/networks/test_resnet.py",
    r"^mura-trt (evaluate|report) out$": "tests/networks/test_resnet.py",
    r"^mura-trt .*--precision int8": "tests/test_slow_precision.py",
    r"^mura-trt parity engines/mine-int8": "tests/test_slow_precision.py",
    r"^mura-trt bench ": "tests/bench/test_bench.py",
    r"^python -m benchmarks\.nightly\b": "tests/test_nightly_run.py",
    r"^python -m benchmarks\.scale": "tests/test_scale.py",
    r"^python -m benchmarks\.claims": "tests/test_claims.py",
    r"^python -m benchmarks\.faults": "tests/test_faults.py",
    r"^python -m benchmarks\.demo_model": "tests/test_slow.py",
    r"^python -m benchmarks\.peers": "tests/test_peers.py",
}


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, heading = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in headings}
            assert heading in slugs, target


def commands_in(text: str) -> Iterator[list[str]]:
    """The arguments of each ``mura-trt`` command in blocks of code, in scripts, and within sentences."""
    joined = text.replace("\\\n", " ")
    blocks = re.findall(r"^(?: {4,}|\S*/|RAY\S* \S*/)?(?:\S*/)?mura-trt (.*)$", joined, re.MULTILINE)
    for line in [*blocks, *re.findall(r"`mura-trt ([^`]*)`", joined)]:
        yield shlex.split(line.partition(" && ")[0], comments=True)


def blocks_of(page: Path) -> list[str]:
    """The commands in a page's blocks of code, each on one line."""
    joined = re.sub(r"\\\n *", " ", page.read_text())
    named = r"^    ((?:\S+=\S+ )?(?:\S*/)?(?:mura-trt|python|make|pip|sh) .*)$"
    return re.findall(named, joined, re.MULTILINE)


def said(line: str) -> str:
    """A command without what is said about it."""
    return shlex.join(shlex.split(line, comments=True))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_is_run_by_a_test_or_says_what_it_needs(page: Path) -> None:
    typed = {said(line) for typing in TYPED for line in blocks_of(ROOT / typing) if line.startswith("mura-trt ")}
    for line in blocks_of(page):
        ways = [way for what, way in ELSEWHERE.items() if re.search(what, line)]
        assert ways or said(line) in typed, f"nothing runs: {line}"
        for way in ways:
            assert (ROOT / way).exists() or way in line.partition("#")[2], line


def check(arguments: list[str]) -> None:
    """Parses as the command line does, but for whether files are there."""
    name, *rest = arguments
    assert name in COMMANDS, f"no command {name}"
    known = {option for parameter in COMMANDS[name].params for option in (*parameter.opts, *parameter.secondary_opts)}
    options = [argument.partition("=")[0] for argument in rest if re.match(r"-{1,2}[a-z]", argument)]
    assert set(options) <= known | {"--help"}, (name, options)


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "docs").rglob("*.sbatch"))], ids=named)
def test_commands_have_the_options_that_are_typed(page: Path) -> None:
    for arguments in commands_in(page.read_text()):
        if re.fullmatch(r"[a-z-]+", arguments[0]):  # not COMMAND
            check(arguments)


def test_what_was_measured_can_be_measured_again() -> None:
    """Each row of the page names a claim, or a command."""
    page = (ROOT / "docs" / "measured.md").read_text()
    asked, *_ = page.partition("## As a newcomer")
    ways = [row.rstrip(" |").rpartition("| ")[2] for row in asked.splitlines() if row.startswith("| ")]
    assert len(ways) > 40
    for way in ways:
        names = re.findall(r"[a-z0-9-]+", way.partition(",")[0] if "with" in way else way)
        assert "`" in way or way in ("by", "---") or set(names) <= set(CLAIMS), way
    assert set(CLAIMS) <= {name for way in ways for name in re.findall(r"[a-z0-9-]+", way)} | {"scale"}


def test_there_are_commands_and_links_to_look_at() -> None:
    assert sum(len(blocks_of(page)) for page in PAGES) > 60
    assert sum(len(list(commands_in(page.read_text()))) for page in PAGES) > 60
    assert any("--history" in line and "--html" in line for line in blocks_of(ROOT / "docs/nightly.md"))  # on two lines


def test_commands_that_do_not_exist_would_be_found() -> None:
    found = list(
        commands_in("    mura-trt score a --engine b -o c   # d\ntext mura-trt is\n    x/bin/mura-trt no such\n")
    )
    assert len(found) == 2 and found[0] == ["score", "a", "--engine", "b", "-o", "c"]
    check(found[0])
    with pytest.raises(AssertionError, match="no command"):
        check(["scores", "a"])
    with pytest.raises(AssertionError, match="engines"):
        check(["score", "a", "--engines", "b"])


@pytest.mark.parametrize("file", sorted((ROOT / "docs").rglob("*.y*ml")), ids=named)
def test_files_of_settings_are_whole(file: Path) -> None:
    assert isinstance(yaml.safe_load(file.read_text()), dict)

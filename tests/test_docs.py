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

from mura_trt.cli import app

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for name in ("docs", "benchmarks", "engines") for page in (ROOT / name).rglob("*.md"))]
)
COMMANDS: dict[str, Any] = vars(typer.main.get_command(app))["commands"]


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

"""Commands in the documentation: every one of them is taken by the program, as it is printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from mura_trt.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_COMMAND = re.compile(r"^ {4}(?:\S*/)?mura-trt (.*)$|`mura-trt ([^`]*)`", re.MULTILINE)


def commands_of(page: Path) -> list[list[str]]:
    """What stands behind ``mura-trt``, in lines of their own and within sentences; without comments."""
    text = page.read_text().replace("\\\n", " ")
    typed = [(own or within).partition(" && ")[0] for own, within in _COMMAND.findall(text)]
    return [shlex.split(one, comments=True) for one in typed if not one.startswith("COMMAND")]


def problem(arguments: list[str]) -> str | None:
    """Why the program would not take a command; files need not be there, and values need not be right."""
    cli = get_command(app)
    assert isinstance(cli, typer.core.TyperGroup)
    context = typer.Context(cli, info_name="mura-trt")
    command = cli.get_command(context, arguments[0])
    if command is None:
        return f"no command {arguments[0]}"
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = [argument.partition("=")[0] for argument in arguments[1:] if re.match(r"-(-|[a-z]$)", argument)]
    unknown = [option for option in given if option not in options | {"--help"}]
    return f"{arguments[0]} has no {', '.join(unknown)}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_exists(page: Path) -> None:
    commands = [arguments for arguments in commands_of(page) if arguments and not arguments[0].startswith("-")]
    wrong = {shlex.join(arguments): found for arguments in commands if (found := problem(arguments))}
    assert not wrong


def test_a_wrong_command_would_be_noticed() -> None:
    assert problem(["scor", "archive"]) == "no command scor"
    assert problem(["score", "archive", "--heatmap", "all", "-o", "out"]) == "score has no --heatmap"
    assert problem(["build-engine", "--no-check", "-o", "x"]) is None
    assert len(commands_of(ROOT / "docs" / "networks.md")) > 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)[^)]*\)", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]

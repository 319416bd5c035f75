"""Options that several commands have, and the end of one that fails."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mura_trt.errors import EXIT_ENVIRONMENT, MuraTrtError

Checkpoints = Annotated[
    list[Path],
    typer.Option(
        "--checkpoint",
        help="PyTorch (.pth, .pt) or safetensors file of a DenseNet-169 or 121, one output; several make an ensemble.",
    ),
]
Checkpoint = Annotated[Path, typer.Argument(help="PyTorch (.pth, .pt) or safetensors file of a DenseNet-169 or 121.")]
StudyDepth = Annotated[
    int | None, typer.Option(help="A study is the first so many parts of a view's path [its folder].")
]
Root = Annotated[Path | None, typer.Option(help="For a list: the folder its relative paths start from.")]
SaltFile = Annotated[
    Path | None, typer.Option(help="Keys the hashes; made where it is not [~/.config/mura-trt/uid-salt].")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run left there.")]


@contextmanager
def errors_told() -> Iterator[None]:
    """Ends the program with one line and the error's exit code, where the error is one of ours."""
    try:
        yield
    except MuraTrtError as error:
        print(f"mura-trt: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error
    except ImportError as error:
        print(
            f"mura-trt: {error}; install the extra `build`; `train` for training, `evaluate` for evaluation",
            file=sys.stderr,
        )
        raise typer.Exit(EXIT_ENVIRONMENT) from error
    except OSError as error:  # a full disk, a folder that vanished; the error names the file
        print(f"mura-trt: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_ENVIRONMENT) from error


def archive_named(named: str) -> Path | str:
    """What was typed as a path, or, where it is a URL, as it is."""
    return named if "://" in named else Path(named)


def command_typed(*more: str) -> str:
    """The command line that this process was started with, and flags that it lacks."""
    typed = sys.argv[1:]
    return shlex.join(["mura-trt", *typed, *(flag for flag in more if flag not in typed)])

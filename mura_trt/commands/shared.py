"""Options that several commands have, and the end of one that fails."""

from __future__ import annotations

import errno
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
Archive = Annotated[str, typer.Argument(help="Folder, zip, tar or list of X-rays, or the URL of one.")]
Engine = Annotated[Path, typer.Option(help="Engine bundle: the folder that build-engine or import-onnx made.")]
Bundle = Annotated[Path, typer.Argument(help="Engine bundle: the folder that build-engine or import-onnx made.")]
Runtime = Annotated[
    str,
    typer.Option(
        help="auto, tensorrt, tensorrt_rtx, torch_fused, torch_cuda, onnxruntime; torch (FP32); emulated (the plan's"
        " graph on a CPU); or null (no model: checksums in place of scores, for measuring)."
    ),
]
Batch = Annotated[int | None, typer.Option(help="Views in a batch.", show_default="what suits the runtime")]
StudyDepth = Annotated[
    int | None, typer.Option(help="The first N parts of a view's path name its study.", show_default="its folder")
]
Root = Annotated[
    Path | None,
    typer.Option(
        help="Of a list: the folder that its relative paths start from.",
        show_default="the list's folder, its parent or the working directory",
    ),
]
SaltFile = Annotated[
    Path | None,
    typer.Option(
        help="File with the secret key of the hashes that stand for DICOM paths and UIDs; made where there is none.",
        show_default="~/.config/mura-trt/uid-salt",
    ),
]
AllowUnproven = Annotated[
    bool, typer.Option("--allow-unproven", help="Take a bundle that missed a bound of its parity check, or had none.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run left there.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def errors_told(command: str) -> Iterator[None]:
    """Ends a command with one line and the error's exit code, where the error is one of ours."""
    try:
        yield
    except MuraTrtError as error:
        print(f"mura-trt: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error
    except ImportError as error:
        extra = {"train": "train", "evaluate": "evaluate", "report": "evaluate"}.get(command, "build")
        print(f"mura-trt: {error}: pip install 'mura-trt[{extra}]'", file=sys.stderr)
        raise typer.Exit(EXIT_ENVIRONMENT) from error
    except OSError as error:  # a full disk, a folder that vanished; the error names the file
        way = "; make room there, or choose another place" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        print(f"mura-trt: {error}{way}", file=sys.stderr)
        raise typer.Exit(EXIT_ENVIRONMENT) from error


def archive_named(named: str) -> Path | str:
    """What was typed as a path, or, where it is a URL, as it is."""
    return named if "://" in named else Path(named)


def command_typed(*more: str) -> str:
    """The command line that this process was started with, and flags that it lacks."""
    typed = sys.argv[1:]
    return shlex.join(["mura-trt", *typed, *(flag for flag in more if flag not in typed)])

"""What this machine is, and whether scoring works on it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from mura_trt.commands.shared import Json
from mura_trt.commands.streams import answer


def doctor(
    engine: Annotated[
        Path | None, typer.Option(help="Engine bundle to try, in place of a tiny one that is made for it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tells what this machine has and whether it works: one image through each library, and how to mend the rest.

    Exit code 5: scoring cannot work here.
    """
    from mura_trt.doctor.run import examine
    from mura_trt.doctor.tell import table
    from mura_trt.progress import Reporter

    with Reporter(sys.stderr) as reporter:
        found = examine(engine, lambda name: reporter.show(f"trying {name}"))
    answer(json.dumps(found, indent=2) if as_json else table(found))
    raise typer.Exit(found["exit_code"])

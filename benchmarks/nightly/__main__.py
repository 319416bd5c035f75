"""The nightly run: whether the code is as fast as it was, as exact, and as hard to kill. Exit code 1: it is not.

    python -m benchmarks.nightly ARCHIVE --engine BUNDLE --history FILE.jsonl --checkpoint CKPT [--html FILE]
    python -m benchmarks.nightly ARCHIVE --engine BUNDLE --history FILE.jsonl --quick [--html FILE]
    python -m benchmarks.nightly ARCHIVE --engine BUNDLE --history FILE.jsonl [--quick] --accept

A whole night takes up to ten minutes on two cores, ``--quick`` (speed alone) 90 seconds. docs/nightly.md says what an
alarm means, and how to run this every night.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.nightly import history
from benchmarks.nightly.night import NightOptions, key_of, night, outcome
from mura_trt.errors import MuraTrtError, UsageError

ALARM = 1  # exit code


def main(
    archive: Annotated[Path, typer.Argument(help="Folder of X-rays, as made by mura-trt demo.")],
    engine: Annotated[Path, typer.Option(help="Engine bundle: the same one every night.")],
    history_file: Annotated[Path, typer.Option("--history", help="File of the nights before; this one is added.")],
    quick: Annotated[bool, typer.Option("--quick", help="Speed alone, in 90 seconds.")] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="What the bundle was built from, for parity.")] = None,
    html: Annotated[Path | None, typer.Option(help="Page to write; its picture lies beside it, as .png.")] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Measure nothing: what the last night found is right, and the new level.")
    ] = False,
) -> None:
    """Measures a night, compares it with those before, and adds it to the history."""
    try:
        options = NightOptions(archive, engine, history_file, quick or accept, checkpoint)
        if accept:
            record = _accept(options, "quick" if quick else "full")
            print(f"accepted: the night of {record['date']}")
        else:
            record = night(options, lambda line: print(line, file=sys.stderr))
            print("\n".join(outcome(record)))
        if html:
            from benchmarks.nightly.page import write

            write(html, history.alike(history.read(history_file)[0], record["key"]))
    except MuraTrtError as error:
        print(f"nightly: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error
    raise typer.Exit(ALARM if record["failures"] and not accept else 0)


def _accept(options: NightOptions, mode: str) -> dict[str, Any]:
    """Notes that the last of the nights like this one is right."""
    before = history.alike(history.read(options.history)[0], {**key_of(options), "mode": mode})
    if not before or not before[-1]["failures"] or before[-1].get("accepted"):
        raise UsageError(f"{options.history}: the last {mode} night of this machine, bundle and archive was no alarm")
    history.accept(options.history, before[-1])
    return before[-1]


if __name__ == "__main__":
    typer.run(main)

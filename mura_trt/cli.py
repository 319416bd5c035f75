"""The command line. Every module that is slow to load is imported inside its command."""

from __future__ import annotations

import io
import logging
import signal
import sys
from typing import Annotated

import typer

import mura_trt
from mura_trt.commands import building, challenge, engines, judging, machine, measuring, offline, scoring, training
from mura_trt.commands.shared import errors_told
from mura_trt.commands.streams import steadfast_stderr

app = typer.Typer(
    name="mura-trt",
    help="Scores archives of bone X-rays: the probability that each study is abnormal. Not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(mura_trt.__version__)
        raise typer.Exit


@app.callback()
def main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what the libraries say, too.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of every command."""
    sys.stderr = steadfast_stderr()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # paths are any bytes, and what is done is to be told
    logging.basicConfig(
        stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING
    )
    logging.getLogger("mura_trt").setLevel(logging.DEBUG if verbose else logging.INFO)
    # A job that is told to stop ends as one that is interrupted does: with its worker, and with the signal's exit code.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


for command, name in (
    (engines.export, "export"),
    (building.build_engine, "build-engine"),
    (building.import_onnx, "import-onnx"),
    (engines.inspect, "inspect"),
    (engines.parity, "parity"),
    (scoring.score, "score"),
    (scoring.heatmap, "heatmap"),
    (judging.evaluate, "evaluate"),
    (judging.report, "report"),
    (challenge.predict, "predict"),
    (challenge.submission, "submission"),
    (machine.doctor, "doctor"),
    (measuring.bench, "bench"),
    (training.demo, "demo"),
    (training.train, "train"),
    (offline.offline, "offline"),
    (training.demo_summary, "demo-summary"),
):
    app.command(name)(errors_told(name)(command))

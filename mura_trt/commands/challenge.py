"""The MURA challenge: its predictions, and the folder to hand in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mura_trt.commands.shared import AllowUnproven, Batch, Engine, Overwrite, Runtime
from mura_trt.commands.streams import say
from mura_trt.errors import EXIT_FAILURES, EXIT_OK, UsageError


def predict(
    paths: Annotated[Path, typer.Argument(help="List of images, one path a line, from the working directory.")],
    out: Annotated[Path, typer.Argument(help="File for the predictions; one that is there is replaced.")],
    engine: Annotated[
        Path | None,
        typer.Option(envvar="MURA_TRT_ENGINE", help="Engine bundle: the folder that build-engine or import-onnx made."),
    ] = None,
    runtime: Runtime = "auto",
    threshold: Annotated[float, typer.Option(help="Abnormal is a mean strictly above this.")] = 0.5,
    batch: Batch = None,
    allow_unproven: AllowUnproven = False,
) -> None:
    """Predicts studies as the MURA challenge asks: STUDY/,0 or STUDY/,1 a line, without a header.

    Exit code 3: some views could not be scored, standard error says which; a study with none that could gets 1.
    """
    from mura_trt.challenge import PredictOptions
    from mura_trt.challenge import predict as run_predict
    from mura_trt.progress import Reporter

    if engine is None:
        raise UsageError("no engine bundle: name one with --engine, or in the variable MURA_TRT_ENGINE")
    options = PredictOptions(paths, out, engine, runtime, threshold, batch, allow_unproven)
    with Reporter(sys.stderr) as reporter:
        predictions = run_predict(options, reporter.update)
    incomplete = [prediction for prediction in predictions if prediction.failures]
    for prediction in incomplete:
        print(f"mura-trt: {prediction.told}", file=sys.stderr)
    abnormal = sum(prediction.abnormal for prediction in predictions)
    say(f"{len(predictions)} studies, {abnormal} of them abnormal; predictions in {out}")
    raise typer.Exit(EXIT_FAILURES if incomplete else EXIT_OK)


def submission(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make.")],
    engine: Engine,
    overwrite: Overwrite = False,
) -> None:
    """Writes the folder that the MURA challenge takes: src/predict.py, with its bundle and this package."""
    from mura_trt.submission import write_submission

    bundle = write_submission(folder, engine, overwrite)
    say(
        f"{folder}: bundle {bundle.manifest.name}; there, with the images below it:"
        " python src/predict.py valid_image_paths.csv predictions.csv"
    )

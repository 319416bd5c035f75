"""Scores against labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mura_trt.commands.shared import errors_told


def evaluate(
    predictions: Annotated[
        Path, typer.Argument(help="Output folder of score, its table of studies, or lines of STUDY/,0|1.")
    ],
    labels: Annotated[
        Path | None,
        typer.Option(help="Lines of STUDY/,0|1 or of three readers' decisions [what the studies' names say]."),
    ] = None,
    readers: Annotated[
        Path | None, typer.Option(help="Decisions of readers to compare with: lines of STUDY/,0|1,...")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Abnormal is a probability strictly above this [as it was decided].")
    ] = None,
    choose_threshold: Annotated[
        str | None, typer.Option(help="Choose it on these studies: youden, sensitivity=0.95 or specificity=0.95.")
    ] = None,
    threshold_file: Annotated[Path | None, typer.Option(help="Where to keep it, for score --threshold FILE.")] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave out studies that are on one side only or have no score.")
    ] = False,
    resamples: Annotated[int, typer.Option(help="Of the bootstrap over patients.")] = 2000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not tables.")] = False,
) -> None:
    """Judges scores by a gold standard: kappa, AUROC and more, with 95 % intervals, overall and by body part."""
    with errors_told():
        from mura_trt.evaluation.run import EvaluateOptions
        from mura_trt.evaluation.run import evaluate as run_evaluation
        from mura_trt.evaluation.tell import table

        options = EvaluateOptions(
            predictions, labels, readers, threshold, choose_threshold, threshold_file, partial, resamples
        )
        found = run_evaluation(options)
        print(json.dumps(found, indent=2) if as_json else table(found))

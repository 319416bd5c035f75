"""Scores against labels, and a page that shows both."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from mura_trt.commands.shared import Json, SaltFile
from mura_trt.commands.streams import answer, say

Labels = Annotated[
    Path | None,
    typer.Option(
        help="Lines of STUDY/,0|1, or of three readers' decisions, of which the majority counts.",
        show_default="what the studies' names say",
    ),
]
Readers = Annotated[Path | None, typer.Option(help="Decisions of readers to compare with: lines of STUDY/,0|1,...")]
Partial = Annotated[
    bool, typer.Option("--partial", help="Leave out studies that lack a prediction, a label or a score.")
]
logger = logging.getLogger(__name__)


def evaluate(
    predictions: Annotated[
        Path, typer.Argument(help="Output folder of score, its table of studies, or lines of STUDY/,0|1.")
    ],
    labels: Labels = None,
    readers: Readers = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Abnormal is a probability strictly above this.", show_default="as score decided"),
    ] = None,
    choose_threshold: Annotated[
        str | None,
        typer.Option(help="Choose the threshold on these studies: youden, sensitivity=0.95 or specificity=0.95."),
    ] = None,
    threshold_file: Annotated[
        Path | None, typer.Option(help="File for the chosen threshold, which score --threshold FILE takes.")
    ] = None,
    partial: Partial = False,
    resamples: Annotated[int, typer.Option(help="How many resamples of patients the bootstrap draws.")] = 2000,
    uid_salt_file: SaltFile = None,
    as_json: Json = False,
) -> None:
    """Judges scores by a gold standard: kappa, AUROC and more, with 95 % intervals, overall and by body part."""
    from mura_trt.evaluation.run import EvaluateOptions
    from mura_trt.evaluation.run import evaluate as run_evaluation
    from mura_trt.evaluation.tell import table
    from mura_trt.progress import Reporter

    options = EvaluateOptions(
        predictions, labels, readers, threshold, choose_threshold, threshold_file, partial, resamples, uid_salt_file
    )
    with Reporter(sys.stderr) as reporter:
        found = run_evaluation(options, reporter.show)
    answer(json.dumps(found, indent=2) if as_json else table(found))


def report(
    out: Annotated[Path, typer.Argument(help="Output folder of score.")],
    labels: Labels = None,
    readers: Readers = None,
    partial: Partial = False,
    page: Annotated[
        Path | None, typer.Option("--out", help="File to write.", show_default="report.html in OUT")
    ] = None,
    studies: Annotated[
        int, typer.Option(help="How many studies in the worklist, the highest probabilities first.")
    ] = 20_000,
    thumbnails: Annotated[
        int, typer.Option(help="Of how many studies there are pictures, the highest probabilities first.")
    ] = 2000,
    uid_salt_file: SaltFile = None,
) -> None:
    """Writes one HTML file for people: the worklist with pictures, and how the scores do where labels are known."""
    from mura_trt.progress import Reporter
    from mura_trt.report.run import ReportOptions
    from mura_trt.report.run import report as run_report

    options = ReportOptions(out, labels, readers, partial, page, studies, thumbnails, uid_salt_file)
    with Reporter(sys.stderr) as reporter:
        found = run_report(options, reporter.show)
    for note in found["notes"]:
        logger.warning("%s", note)
    of_heatmaps = f" ({found['overlays']:,} of them heatmaps)" if found["overlays"] else ""
    say(
        f"{found['page']}: {found['bytes'] / 1e6:.1f} MB; {found['studies']:,} studies,"
        f" {found['pictures']:,} pictures{of_heatmaps}; {'with' if found['evaluated'] else 'without'} evaluation"
    )

"""Scores against labels, and a page that shows both."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from mura_trt.commands.shared import errors_told

RunsSalt = Annotated[
    Path | None, typer.Option(help="What the run hashed DICOM names with [~/.config/mura-trt/uid-salt].")
]
logger = logging.getLogger(__name__)


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
    uid_salt_file: RunsSalt = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not tables.")] = False,
) -> None:
    """Judges scores by a gold standard: kappa, AUROC and more, with 95 % intervals, overall and by body part."""
    with errors_told():
        from mura_trt.evaluation.run import EvaluateOptions
        from mura_trt.evaluation.run import evaluate as run_evaluation
        from mura_trt.evaluation.tell import table
        from mura_trt.progress import Reporter

        options = EvaluateOptions(
            predictions, labels, readers, threshold, choose_threshold, threshold_file, partial, resamples, uid_salt_file
        )
        with Reporter(sys.stderr) as reporter:
            found = run_evaluation(options, reporter.show)
        print(json.dumps(found, indent=2) if as_json else table(found))


def report(
    out: Annotated[Path, typer.Argument(help="Output folder of score.")],
    labels: Annotated[
        Path | None,
        typer.Option(help="Lines of STUDY/,0|1 or of three readers' decisions [what the studies' names say]."),
    ] = None,
    readers: Annotated[
        Path | None, typer.Option(help="Decisions of readers to compare with: lines of STUDY/,0|1,...")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Evaluate without studies that are on one side only or have no score.")
    ] = False,
    page: Annotated[Path | None, typer.Option("--out", help="File to write [report.html in OUT].")] = None,
    studies: Annotated[
        int, typer.Option(help="So many studies in the worklist, the highest probabilities first.")
    ] = 20_000,
    thumbnails: Annotated[
        int, typer.Option(help="Pictures of the views of so many studies, the highest probabilities first.")
    ] = 2000,
    uid_salt_file: RunsSalt = None,
) -> None:
    """Writes one HTML file for people: the worklist with pictures, and how the scores do where labels are known."""
    with errors_told():
        from mura_trt.progress import Reporter
        from mura_trt.report.run import ReportOptions
        from mura_trt.report.run import report as run_report

        options = ReportOptions(out, labels, readers, partial, page, studies, thumbnails, uid_salt_file)
        with Reporter(sys.stderr) as reporter:
            found = run_report(options, reporter.show)
        for note in found["notes"]:
            logger.warning("%s", note)
        of_heatmaps = f" ({found['overlays']:,} of them heatmaps)" if found["overlays"] else ""
        print(
            f"{found['page']}: {found['bytes'] / 1e6:.1f} MB; {found['studies']:,} studies,"
            f" {found['pictures']:,} pictures{of_heatmaps}; {'with' if found['evaluated'] else 'without'} evaluation"
        )

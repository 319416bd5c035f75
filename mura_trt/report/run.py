"""``mura-trt report``: reads a finished run, judges it where labels are known, and writes the page."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mura_trt.errors import EnvironmentProblem, UsageError
from mura_trt.evaluation.finished import own_files
from mura_trt.evaluation.run import EvaluateOptions
from mura_trt.files import check_target, write_atomically
from mura_trt.report.data import read_run
from mura_trt.report.judged import Judged, judged
from mura_trt.report.page import page
from mura_trt.report.thumbnails import Pictures, chosen_views, pictures
from mura_trt.report.worklist import worklist

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"
PAGE_SUFFIXES = (".html", ".htm")
SHOWN_STUDIES = 20_000
THUMBNAIL_STUDIES = 2000


@dataclass(frozen=True)
class ReportOptions:
    """What to write; the fields are the options of ``mura-trt report``."""

    out: Path
    """Output folder of ``score``."""
    labels: Path | None = None
    """``STUDY/,0|1``; None takes the labels in the studies' names, where all have one."""
    readers: Path | None = None
    partial: bool = False
    """Evaluate without studies that are on one side only, or have no score."""
    page: Path | None = None
    """The file; None takes ``report.html`` in the output folder."""
    studies: int = SHOWN_STUDIES
    """So many, those with the highest probabilities, are in the worklist; figures are of all."""
    thumbnails: int = THUMBNAIL_STUDIES
    """Of so many studies, those with the highest probabilities, the page has pictures."""
    uid_salt_file: Path | None = None
    """Where the archive holds DICOM files: what their hashes were keyed with; labels may then be by UID."""
    resamples: int = 2000
    """Of the bootstrap over patients."""

    def __post_init__(self) -> None:
        if self.thumbnails < 0:
            raise UsageError(f"--thumbnails {self.thumbnails}: a number of studies; 0 for none")
        if self.studies < 1:
            raise UsageError(f"--studies {self.studies}: give 1 or more")
        if self.page is not None and self.page.suffix.lower() not in PAGE_SUFFIXES:
            raise UsageError(f"{self.page}: a page is a .html file")


def report(options: ReportOptions, progress: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Writes the page, whole or not at all.

    Returns
    -------
    dict
        ``page`` (its path), ``bytes``, ``studies``, ``pictures``, ``overlays`` (how many of them), ``evaluated``
        (whether labels were known) and ``notes``.

    Raises
    ------
    UsageError
        No finished run there, labels that were named cannot be used, or the page would replace what is read.
    EnvironmentProblem
        The page cannot be written.
    """
    path = options.page or options.out / REPORT_FILE
    given = [named for named in (options.labels, options.readers, options.uid_salt_file) if named]
    if options.out.is_dir():  # else there is no run
        check_target(path, [*own_files(options.out), *given], "the page")
    run = read_run(options.out)
    logger.info("%d studies; their figures, and %d resamples for intervals", len(run.studies), options.resamples)
    judging = EvaluateOptions(
        options.out,
        options.labels,
        options.readers,
        partial=options.partial,
        resamples=options.resamples,
        uid_salt_file=options.uid_salt_file,
    )
    found = judged(judging, progress)
    shown = min(options.studies, len(run.studies))
    pictured = min(options.thumbnails, shown)
    drawn = Pictures()
    if wanted := chosen_views(run, pictured):
        drawn = pictures(run, wanted, options.uid_salt_file, progress)
    remarks = list(drawn.notes)
    if shown < len(run.studies):
        remarks.append(
            f"The first {shown:,} of {len(run.studies):,} studies; the rest is in the run's table of studies, and"
            " --studies shows more. All else on this page is of all studies."
        )
    if pictured < shown and drawn.jpegs:
        remarks.append(f"Pictures are of the first {pictured:,} studies; --thumbnails gives more.")
    beside = path.resolve().parent == options.out.resolve()
    listed = worklist(run, shown, found.truth if isinstance(found, Judged) else {}, drawn, beside)
    data = page(run, found, listed, remarks)
    try:
        write_atomically(path, data)
    except OSError as error:
        raise EnvironmentProblem(
            f"{path}: cannot be written ({error.strerror or error}); name another file with --out"
        ) from error
    return {
        "page": str(path),
        "bytes": len(data),
        "studies": len(run.studies),
        "pictures": len(drawn.jpegs),
        "overlays": len(drawn.overlays),
        "evaluated": isinstance(found, Judged),
        "notes": remarks + ([found] if isinstance(found, str) else []),
    }

"""``mura-trt report``: reads a finished run, judges it where labels are known, and writes the page."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mura_trt.errors import EnvironmentProblem, UsageError
from mura_trt.files import write_atomically
from mura_trt.report.data import read_run
from mura_trt.report.judged import Judged, judged
from mura_trt.report.page import page
from mura_trt.report.thumbnails import Pictures, chosen_views, pictures
from mura_trt.report.worklist import worklist

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"
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
    thumbnails: int = THUMBNAIL_STUDIES
    """Of so many studies, those with the highest probabilities, the page has pictures."""
    uid_salt_file: Path | None = None
    """Where the archive holds DICOM files: what their hashes were keyed with."""
    resamples: int = 2000
    """Of the bootstrap over patients."""

    def __post_init__(self) -> None:
        if self.thumbnails < 0:
            raise UsageError(f"--thumbnails {self.thumbnails}: a number of studies; 0 for none")


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
        No finished run there, or labels that were named cannot be used.
    EnvironmentProblem
        The page cannot be written.
    """
    run = read_run(options.out)
    logger.info("%d studies; their figures, and %d resamples for intervals", len(run.studies), options.resamples)
    found = judged(options.out, options.labels, options.readers, options.partial, options.resamples)
    drawn = Pictures()
    if wanted := chosen_views(run, options.thumbnails):
        drawn = pictures(run, wanted, options.uid_salt_file, progress)
    left = len(run.studies) - options.thumbnails
    remarks = list(drawn.notes)
    if left > 0 and drawn.jpegs:
        remarks.append(f"Pictures are of the first {options.thumbnails:,} studies; --thumbnails gives more.")
    path = options.page or options.out / REPORT_FILE
    beside = path.resolve().parent == options.out.resolve()
    listed = worklist(run, found.truth if isinstance(found, Judged) else {}, drawn, beside)
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

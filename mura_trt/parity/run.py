"""A bundle against what it was built from, over an archive: ``mura-trt parity``, and the short check of a build."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mura_trt.archives import NamedArchive, list_archive
from mura_trt.archives.listing import Listing
from mura_trt.bundle import Bundle
from mura_trt.errors import UsageError
from mura_trt.files import write_atomically
from mura_trt.networks.reference import reference_of
from mura_trt.parity.bounds import Bounds, with_changes
from mura_trt.parity.judge import Judgement, judge
from mura_trt.parity.measure import measure
from mura_trt.parity.reference import Reference
from mura_trt.parity.tell import as_json, picture
from mura_trt.runtimes import OWN_RUNTIMES, SessionOptions, open_session
from mura_trt.sample import whole_studies

SYNTHETIC_STUDIES, SYNTHETIC_SEED = 48, 11
HALF_VIEWS = 4
RANGE_VIEWS = 64  # on fewer, large values may not have come up

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ParityOptions:
    """What to compare."""

    bundle: Path
    archive: NamedArchive
    checkpoints: Sequence[Path]
    """What the bundle was built from, which the reference is: checkpoints, or the ONNX file."""
    runtime: str = "auto"
    """One of ``RUNTIMES``; ``auto`` takes the first of ``OWN_RUNTIMES`` that works."""
    studies: int | None = None
    """How many, evenly spaced; None takes all."""
    changes: dict[str, float] = field(default_factory=dict)
    """Bounds other than the bundle's."""
    batch: int | None = None
    out: Path | None = None
    """Folder for JSON and picture; None writes none."""

    def __post_init__(self) -> None:
        for name in ("studies", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} {value}: give 1 or more")


def parity(options: ParityOptions, report: Callable[[str], None] = lambda _: None) -> tuple[Judgement, dict[str, Any]]:
    """Judges a bundle by what it was built from.

    Returns
    -------
    The judgement, and the same as JSON has it, with what was compared.

    Raises
    ------
    UsageError, BundleError, EnvironmentProblem
        What was named cannot be used, or no runtime works here.
    """
    if options.out is not None:
        try:
            options.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out {options.out}: {error.strerror}; name a folder for parity.json") from error
    bundle = Bundle.open(options.bundle)
    bounds = with_changes(bundle.manifest.bounds, options.changes)
    listing = options.archive.listing()
    if options.studies is not None:
        listing = whole_studies(listing, options.studies)
    reference, hashes = reference_of(bundle.manifest, options.checkpoints, "half.largest" in bounds)
    if hashes != bundle.manifest.checkpoints_sha256:
        logger.warning("the bundle was built from other files than these; the comparison is with these")
    judgement, found = compare(bundle, listing, reference, bounds, options.runtime, options.batch, HALF_VIEWS, report)
    found = {"bundle": str(options.bundle), "archive": str(options.archive.place), **found}
    if options.out is not None:
        write_atomically(options.out / "parity.json", (json.dumps(found, indent=2) + "\n").encode())
        try:
            title = f"{bundle.manifest.name}, {found['runtime']}"
            picture(judgement, options.out / "parity.png", title, bundle.manifest.reference)
        except ImportError as error:
            logger.warning("no picture: %s; pip install matplotlib", error)
    return judgement, found


def compare(
    bundle: Bundle,
    listing: Listing,
    reference: Reference,
    bounds: Bounds,
    runtime: str = "auto",
    batch: int | None = None,
    half_views: int = 0,
    report: Callable[[str], None] = lambda _: None,
) -> tuple[Judgement, dict[str, Any]]:
    """A runtime's scores of a listing's views against the reference's; raises UsageError where no view has pixels."""
    session, passed_over = open_session(runtime, bundle, SessionOptions(batch), OWN_RUNTIMES)
    for line in passed_over:
        logger.info("passed over %s", line)
    try:
        in_half = half_views if "half.dp_max" in bounds else 0
        measured = measure(listing, bundle.contract, session, reference, in_half, report)
    finally:
        session.close()
    judgement = judge(measured, listing, bounds)
    if "half.largest" in bounds and judgement.views < RANGE_VIEWS:
        logger.warning(
            "the range of half precision was looked at on %d views only; take %d or more", judgement.views, RANGE_VIEWS
        )
    return judgement, {
        "name": bundle.manifest.name,
        "precision": bundle.manifest.precision,
        "runtime": session.name,
        "device": session.device,
        "reference": bundle.manifest.reference,
        **as_json(judgement),
    }


def synthetic(folder: Path) -> Listing:
    """A small synthetic archive, for whoever names none."""
    from mura_trt.demo.archive import DemoPlan, write_archive

    write_archive(folder, DemoPlan(SYNTHETIC_STUDIES, SYNTHETIC_SEED))
    return list_archive(folder)

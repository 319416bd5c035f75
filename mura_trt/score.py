"""A scoring run: lists an archive, has its views scored and committed, and ends with the tables."""

from __future__ import annotations

import contextlib
import itertools
import logging
import platform
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import mura_trt
from mura_trt import worker
from mura_trt.archives import list_archive
from mura_trt.archives.dicoms import HeaderIndex
from mura_trt.archives.disclosure import Disclosure, default_salt_file
from mura_trt.archives.folder import UNREAD_SUFFIXES
from mura_trt.archives.listing import Listing, suffix_of
from mura_trt.bundle import Bundle
from mura_trt.cores import processor_name
from mura_trt.crew import Crew
from mura_trt.cuda_devices import gpu_kind
from mura_trt.errors import EXIT_FAILURES, EXIT_OK, UsageError
from mura_trt.heatmaps import Choice
from mura_trt.ledger import Ledger, Rows
from mura_trt.places import AUTO, Place, places_of
from mura_trt.recipe import RECIPE, check_recipe, note_recipe
from mura_trt.results import HEADERS_FILE, MAP_SIZE, UPDATING, WORKER_LOG, Existing, Outcome, OutputFolder
from mura_trt.runtimes import RUNTIMES
from mura_trt.studies import DEFAULT_THRESHOLD
from mura_trt.supervisor import Progress, Supervisor
from mura_trt.tables import FORMATS
from mura_trt.workerprocess import WorkerProcess

logger = logging.getLogger(__name__)

SHARD_VIEWS = {"cpu": 256, "cuda": 2048}
# What is kept with a worker: three shards (one coming back, one at work, one to go on with), or enough that full
# batches are there to read, to decode and to score; and where several share the last of a run, no fewer than two.
SHARDS_AHEAD, BATCHES_AHEAD, LEAST_BATCHES = 3, 8, 2
# Of a run's recipe, what it has chosen itself or was told.
CHOSEN = ("runtime", "device", "batch", "shard_views")
# Of a recipe, what a run that updates another may have of its own.
FREE_IN_UPDATES = ("listing", "batch", "shard_views")
# A dry run scores so many views, and so many times more until that takes long enough to tell the speed.
SAMPLE_VIEWS, SAMPLE_GROWTH, ENOUGH_SECONDS = 64, 16, 4.0
DICOM_LIBRARIES = ("pydicom", "python-gdcm", "pyjpegls", "pylibjpeg-openjpeg")
LIBRARIES = ("nvidia-dali-cuda130", "onnxruntime", "torch", "tensorrt", "tensorrt_rtx", "pycuda", "numpy", "pandas")


@dataclass(frozen=True)
class ScoreOptions:
    """What to score and how; the fields are the options of ``mura-trt score``."""

    archive: Path | str
    """A string is a URL."""
    engine: Path
    out: Path
    runtime: str = "auto"
    devices: str = AUTO
    """Where workers work, one each: ``auto``, ``all`` GPUs, GPUs by number (``0,2``), or ``cpu`` once for each."""
    batch: int | None = None
    """Views in a batch; None takes what suits the runtime."""
    shard_views: int | None = None
    """Views in a shard, the unit of commit and retry; None takes 256 on a CPU and 2,048 on a GPU."""
    threshold: float = DEFAULT_THRESHOLD
    """A study is abnormal when its mean probability is strictly above."""
    threshold_of: str | None = None
    """SHA-256 of the bundle that the threshold was chosen for; None where nobody says."""
    study_depth: int | None = None
    """A study is the first so many parts of a view's path; None takes the folder the view lies in."""
    root: Path | None = None
    """For a list: where its relative paths start."""
    table_format: str = "csv"
    """``csv`` or ``parquet``."""
    overwrite: bool = False
    resume: bool = False
    """Go on with the run in ``out``, where there is one."""
    retry_failed: bool = False
    """Likewise, and try the views again that have failed."""
    keep_paths: bool = False
    """Where the archive holds DICOM files: tables carry paths as they are, and not as hashes."""
    keep_uids: bool = False
    """Likewise of StudyInstanceUIDs."""
    uid_salt_file: Path | None = None
    """What hashes are keyed with; None takes the user's own. Made where it is not there."""
    update: bool = False
    """Take over from the run in ``out``, where there is one, what it has scored and has not changed since."""
    null_ms: float = 0.0
    """The ``null`` runtime's time for a batch, in milliseconds."""
    heatmaps: str | None = None
    """Of which studies class activation maps are drawn: ``abnormal``, ``all`` or ``top:N``; None draws none."""
    allow_unproven: bool = False
    """Take a bundle, too, that missed a bound when it was compared with PyTorch, or was never compared."""
    passing: bool = False
    """``out`` goes when the run ends, so that nobody is told of going on with it."""

    def __post_init__(self) -> None:
        if self.runtime not in ("auto", *RUNTIMES):
            raise UsageError(f"--runtime {self.runtime}: choose from auto, {', '.join(RUNTIMES)}")
        places_of(self.devices)  # raises
        if self.table_format not in FORMATS:
            raise UsageError(f"--format {self.table_format}: choose from {', '.join(FORMATS)}")
        for name in ("batch", "shard_views"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} {value}: give 1 or more")
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"--threshold {self.threshold}: a probability, 0 to 1")
        if sum((self.overwrite, self.resume or self.retry_failed, self.update)) > 1:
            raise UsageError("--overwrite, --update and --resume or --retry-failed: choose one")
        if self.heatmaps is not None:
            Choice.parsed(self.heatmaps)  # raises
        if self.null_ms and self.runtime != "null":
            raise UsageError("--null-ms needs --runtime null")
        if self.disclosure.salt_file.resolve().is_relative_to(self.out.resolve()):
            raise UsageError(
                f"--uid-salt-file {self.disclosure.salt_file}: not inside the output folder, which may be passed on"
            )

    @property
    def disclosure(self) -> Disclosure:
        """How DICOM files' paths and UIDs are shown."""
        return Disclosure(self.uid_salt_file or default_salt_file(), self.keep_paths, self.keep_uids)

    @property
    def places(self) -> list[Place]:
        """Of ``devices``."""
        return places_of(self.devices)

    @property
    def existing(self) -> Existing:
        """What becomes of results that are there already."""
        if self.resume or self.retry_failed:
            return Existing.RESUME
        if self.update:
            return Existing.UPDATE
        return Existing.REPLACE if self.overwrite else Existing.REFUSE


def score(options: ScoreOptions, report: Callable[[Progress], None] = lambda _: None) -> dict[str, Any]:
    """Scores an archive; returns what ``run.json`` says.

    Parameters
    ----------
    options
        What to score and how.
    report
        Told of every commit, and about once a second.

    Raises
    ------
    UsageError
        The archive, the options or the output folder cannot be used.
    BundleError, EnvironmentProblem
        The engine cannot be used, or the worker cannot work.
    """
    started = time.monotonic()
    # The folder is opened later; whose ever its headers are, they are known by hashes of what they are of.
    goes_on = options.existing in (Existing.RESUME, Existing.UPDATE)
    index = HeaderIndex.read(options.out / HEADERS_FILE) if goes_on else HeaderIndex()
    bundle, listing = _opened(options, index)
    return _score(options, bundle, listing, index, started, report)


def dry_run(options: ScoreOptions) -> dict[str, Any]:
    """What ``score`` would do, and how long that would take: scores a sample, evenly spaced, into a temporary folder.

    Parameters
    ----------
    options
        As for ``score``; nothing is written to ``out``.

    Returns
    -------
    dict
        ``listed`` views, ``studies``, ``formats`` (views by suffix), ``ignored_files``, ``unlisted`` parts of the
        archive; of the sample ``sampled`` views, ``sample_failed``, ``runtime``, ``views_per_s``; and ``predicted_s``,
        seconds from the first batch in to the last commit, or None where no worker lived through the sample.

    Raises
    ------
    UsageError, BundleError, EnvironmentProblem
        As ``score``.
    """
    index = HeaderIndex()
    bundle, listing = _opened(options, index)
    count, seconds = 0, 0.0
    while count < len(listing) and seconds < ENOUGH_SECONDS:  # a fast device is asked again for more
        count = min(max(SAMPLE_VIEWS, SAMPLE_GROWTH * count), len(listing))
        with tempfile.TemporaryDirectory() as folder:
            sample = replace(
                options,
                out=Path(folder) / "out",
                resume=False,
                retry_failed=False,
                overwrite=False,
                update=False,
                heatmaps=None,
                passing=True,
            )
            run = _score(sample, bundle, listing.sample(count), index, time.monotonic(), lambda _: None)
        seconds = count / run["views_per_s"] if run["views_per_s"] else ENOUGH_SECONDS
    suffixes = Counter(listing.told_suffix(suffix_of(key)) for key in listing.keys(0, len(listing)))
    return {
        "listed": len(listing),
        "studies": len(listing.studies),
        "formats": dict(suffixes.most_common()),
        "ignored_files": listing.told_ignored(),
        "unlisted": len(listing.unreadable),
        "sampled": count,
        "sample_failed": run["failed"],
        "runtime": run["runtime"],
        "views_per_s": run["views_per_s"],
        "predicted_s": round(len(listing) / run["views_per_s"], 1) if run["views_per_s"] else None,
    }


def _opened(options: ScoreOptions, index: HeaderIndex) -> tuple[Bundle, Listing]:
    bundle = Bundle.open(options.engine)
    if not options.allow_unproven:
        bundle.require_proof()
    if options.threshold_of not in (None, bundle.sha256):
        logger.warning("the threshold %g was chosen for another bundle than %s", options.threshold, options.engine)
    listing = list_archive(
        options.archive,
        study_depth=options.study_depth,
        root=options.root,
        disclosure=options.disclosure,
        index=index,
    )
    for name, reason in listing.unreadable:
        logger.warning("%s could not be listed to its end: %s", listing.part_name(name), reason)
    unread = [f"{count} {suffix}" for suffix, count in sorted(listing.ignored.items()) if suffix in UNREAD_SUFFIXES]
    if unread:
        logger.warning("files of formats that are not read yet, and are not scored: %s", ", ".join(unread))
    logger.info("%d views in %d studies", len(listing), len(listing.studies))
    return bundle, listing


def _score(
    options: ScoreOptions,
    bundle: Bundle,
    listing: Listing,
    index: HeaderIndex,
    started: float,
    report: Callable[[Progress], None],
) -> dict[str, Any]:
    archive = options.archive
    if isinstance(archive, Path) and archive.parent.resolve() == options.out.resolve() and archive.is_file():
        raise UsageError(f"{options.archive} lies in the output folder, whose files a run replaces; choose another")
    out = OutputFolder(options.out, options.existing)
    try:
        listed = time.monotonic()
        recipe = out.recipe
        if recipe:
            _check(options, recipe, bundle, listing)
            options = replace(options, heatmaps=options.heatmaps or recipe.get("heatmaps"))
        out.write_headers(index)
        config = worker.WorkerConfig(
            bundle,
            listing.source,
            recipe.get("runtime", options.runtime),
            options.batch or recipe.get("batch"),
            options.null_ms,
            options.out / WORKER_LOG,
            _map_size(options, bundle),
        )
        progress = Progress(len(listing), len(listing.studies))
        places = options.places
        with Crew(WorkerProcess, config, places, recipe.get("device")) as crew:
            passed_over: list[str] = []
            if options.update or not recipe:
                ready = crew.start()
                passed_over = ready.passed_over
                if recipe:
                    out.begin_update()
                recipe = _recipe(options, bundle, listing, ready)
                out.write_hashes(listing)
                note_recipe(options.out, recipe)
            ahead = max(SHARDS_AHEAD * recipe["shard_views"], BATCHES_AHEAD * recipe["batch"])
            kept = _kept(out, recipe, options.retry_failed, progress)
            least = LEAST_BATCHES * recipe["batch"]
            ledger = Ledger(len(listing), recipe["shard_views"], ahead, kept, len(places), least)
            supervisor = Supervisor(listing, out, crew, ledger, progress, report)
            supervisor.run()
            workers = _workers(crew, supervisor)
        scored = time.monotonic()
        outcome = out.outcome(len(listing))
        studies = out.write_tables(listing, outcome, options.threshold, options.table_format)
        vanished = out.write_vanished(listing)
        ended = time.monotonic()
        failed = len(outcome.failures)
        run = {
            "command": shlex.join(sys.argv),
            "versions": {
                "python": platform.python_version(),
                "mura_trt": mura_trt.__version__,
                **_versions(LIBRARIES),
            },
            "archive": str(options.archive),
            "bundle": {
                "name": bundle.manifest.name,
                "precision": bundle.manifest.precision,
                "sha256": bundle.sha256,
                "parity": bundle.manifest.parity_summary,
            },
            **{name: recipe[name] for name in CHOSEN},
            "passed_over": passed_over,
            "threshold": options.threshold,
            "listed": len(listing),
            "scored": outcome.scored,
            "failed": failed,
            "studies": studies,
            "unlisted": len(listing.unreadable),
            "ignored_files": listing.told_ignored(),
            "duplicate_entries": listing.duplicates,
            "resumed_views": progress.before,
            "vanished_views": vanished,
            "heatmaps": None,
            "devices": options.devices,
            "workers": workers,
            "workers_lost": sum(found["lost"] for found in workers),
            "views_per_s": round(progress.fresh / supervisor.seconds, 4) if progress.fresh else 0.0,
            "wall_s": round(ended - started, 2),
            "stage_s": {
                "list": round(listed - started, 2),
                "score": round(scored - listed, 2),
                "tables": round(ended - scored, 2),
                **_worker_seconds(supervisor),
            },
            "out": str(options.out),
            "exit_code": EXIT_FAILURES if failed or listing.unreadable else EXIT_OK,
        }
        out.write_run(run)
        if options.heatmaps:  # what goes wrong from here on costs no score
            run["heatmaps"] = _draw(options, listing, outcome, out)
            drawn = time.monotonic()
            run["wall_s"] = round(drawn - started, 2)
            run["stage_s"] = {**run["stage_s"], "heatmaps": round(drawn - ended, 2)}
            out.write_run(run)
        return run
    except (KeyboardInterrupt, SystemExit):
        if not options.passing:
            way = "--update" if options.update else "--resume"
            logger.warning("stopped; what is committed stays in %s, and %s goes on with it", options.out, way)
        raise
    finally:
        out.close()


def _workers(crew: Crew, supervisor: Supervisor) -> list[dict[str, Any]]:
    """What each worker was and did."""
    found = []
    for number, record in enumerate(supervisor.records):
        place, ready = crew.place(number), crew.ready(number)
        ran: dict[str, Any] = {"runtime": None, "device": None, "device_name": None}  # nothing, where all was done
        if ready:
            kind = gpu_kind(place.gpu or 0) if ready.device == "cuda" else None
            name = kind.name if kind else processor_name()
            ran = {"runtime": ready.runtime, "device": ready.device, "device_name": name}
        found.append(
            {
                "place": str(place),
                **ran,
                "views": record.views,
                "lost": record.losses,
                "given_up": record.gone,
                "stage_s": {name: round(seconds, 2) for name, seconds in record.stage_seconds.items()},
            }
        )
    return found


def _worker_seconds(supervisor: Supervisor) -> dict[str, float]:
    """By stage, of all workers together."""
    total: dict[str, float] = {}
    for record in supervisor.records:
        for stage, seconds in record.stage_seconds.items():
            total[f"worker_{stage}"] = total.get(f"worker_{stage}", 0.0) + seconds
    return {stage: round(seconds, 2) for stage, seconds in total.items()}


def _draw(options: ScoreOptions, listing: Listing, outcome: Outcome, out: OutputFolder) -> int:
    """Draws the heatmaps that were chosen; how many."""
    assert options.heatmaps is not None
    views = Choice.parsed(options.heatmaps).views(listing, outcome.probability, options.threshold)
    logger.info("drawing %d heatmaps", len(views))
    return out.write_heatmaps(listing, views, options.table_format)


def _map_size(options: ScoreOptions, bundle: Bundle) -> int:
    return bundle.contract.map_size if options.heatmaps else 0


def _check(options: ScoreOptions, recipe: dict[str, Any], bundle: Bundle, listing: Listing) -> None:
    """Raises UsageError where the run that is there cannot be gone on with, or updated."""
    if not recipe.keys() >= set(CHOSEN):
        raise UsageError(f"{options.out}: its {RECIPE} is not a scoring run's; choose another folder")
    if options.heatmaps and not recipe.get(MAP_SIZE):
        raise UsageError(
            f"{options.out}: its run kept no class activation maps for --heatmaps; --overwrite begins anew"
        )
    asked = _asked(options, bundle, listing, recipe["runtime"])
    if options.update:
        free = set(FREE_IN_UPDATES)
        if recipe.get("uids") is None or asked["uids"] is None:  # then no view is known again by the other's hashes
            free |= {"uids", "keep_paths", *DICOM_LIBRARIES}
        asked = {name: value for name, value in asked.items() if name not in free}
    elif recipe["listing"] == UPDATING:
        raise UsageError(f"{options.out}: an update was stopped before it began; run it again: --update")
    check_recipe(options.out, asked)


def _decided(bundle: Bundle, listing: Listing, runtime: str) -> dict[str, Any]:
    """What decides the rows, whatever the user says."""
    return {
        "bundle": bundle.sha256,
        "archive": listing.source.root,
        "listing": listing.fingerprint(),
        "uids": listing.disclosure.tag if listing.disclosure else None,
        "keep_paths": listing.disclosure.keep_paths if listing.disclosure else None,
        "mura_trt": mura_trt.__version__,
        **_versions(
            (
                "nvidia-dali-cuda130",
                "onnxruntime" if runtime == "emulated" else runtime,
                *(DICOM_LIBRARIES if listing.disclosure else ()),
            )
        ),
    }


def _recipe(options: ScoreOptions, bundle: Bundle, listing: Listing, ready: worker.Ready) -> dict[str, Any]:
    """What a run that begins has in its folder."""
    return {
        **_decided(bundle, listing, ready.runtime),
        "runtime": ready.runtime,
        "device": ready.device,
        "batch": ready.batch,
        "shard_views": options.shard_views or SHARD_VIEWS[ready.device],
        MAP_SIZE: _map_size(options, bundle),
        "heatmaps": options.heatmaps,
    }


def _asked(options: ScoreOptions, bundle: Bundle, listing: Listing, runtime: str) -> dict[str, Any]:
    """Of a run's recipe, what holds now: where the user leaves an option out, the run's own goes on."""
    chosen = {
        "runtime": None if options.runtime == "auto" else options.runtime,
        "device": options.places[0].device,
        "batch": options.batch,
        "shard_views": options.shard_views,
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    return {**_decided(bundle, listing, runtime), **given}


def _kept(out: OutputFolder, recipe: dict[str, Any], retry_failed: bool, progress: Progress) -> Iterator[Rows]:
    """What earlier runs have committed and is not to be done again; counts it as progress."""
    shard_views = recipe["shard_views"]
    for rows in itertools.chain(out.take_up(), out.earlier_rows(shard_views, recipe.get(MAP_SIZE, 0))):
        for part in rows.scored_runs() if retry_failed else [rows]:
            progress.before += part.stop - part.start
            if part.is_shard(shard_views, progress.views):  # else it is counted with the rest of its shard
                progress.scored += len(part.views)
                progress.failed += len(part.failures)
            yield part


def _versions(libraries: Iterable[str]) -> dict[str, str]:
    """Of those that are installed."""
    versions = {}
    for name in libraries:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions

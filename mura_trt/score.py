"""A scoring run: lists an archive, has its views scored and committed, and ends with the tables."""

from __future__ import annotations

import itertools
import logging
import platform
import shlex
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mura_trt
from mura_trt import worker
from mura_trt.archives import list_archive
from mura_trt.archives.awaited import AwaitedSource
from mura_trt.archives.dicoms import HeaderIndex
from mura_trt.archives.folder import UNREAD_SUFFIXES
from mura_trt.archives.keys import suffix_of
from mura_trt.archives.listing import Listing
from mura_trt.bundle import Bundle
from mura_trt.contract import InputContract
from mura_trt.crew import Crew, Hire
from mura_trt.cuda_devices import cuda_device_count
from mura_trt.errors import EXIT_FAILURES, EXIT_OK, UsageError
from mura_trt.heatmaps import Choice, heatmap_tables
from mura_trt.ledger import Ledger
from mura_trt.places import AUTO, VIEWS_A_WORKER, AnyPlace, places_of
from mura_trt.progress import Progress
from mura_trt.recipe import note_recipe
from mura_trt.results import HEADERS_FILE, MAP_SIZE, WORKER_LOG, Existing, Outcome, OutputFolder
from mura_trt.rows import Rows
from mura_trt.score_options import ON_CPU, ScoreOptions
from mura_trt.score_recipe import CHOSEN, LIBRARIES, begun, check, continued, installed_versions, map_size
from mura_trt.supervisor import Supervisor
from mura_trt.workerprocess import WorkerProcess

logger = logging.getLogger(__name__)

# What is kept with a worker: three shards (one coming back, one at work, one to go on with), or enough that full
# batches are there to read, to decode and to score; and where several share the last of a run, no fewer than two.
SHARDS_AHEAD, BATCHES_AHEAD, LEAST_BATCHES = 3, 8, 2
MURAS_LARGEST_STUDY = 13  # views
# A dry run scores so many views, and so many times more until that takes long enough to tell the speed.
SAMPLE_VIEWS, SAMPLE_GROWTH, ENOUGH_SECONDS = 64, 16, 4.0


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
    return score_listing(options, bundle, listing, index, started, report)


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
            run = score_listing(sample, bundle, listing.sample(count), index, time.monotonic(), lambda _: None)
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
    if options.heatmaps:
        bundle.require_map()
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
    unread = [f"{count} {suffix}" for suffix, count in sorted(listing.ignored.items()) if suffix in UNREAD_SUFFIXES]
    if unread:
        logger.warning("files of formats that are not read yet, and are not scored: %s", ", ".join(unread))
    logger.info("%d views in %d studies", len(listing), len(listing.studies))
    by_folder = options.study_depth is None and not listing.studies_named and listing.disclosure is None
    if len(listing) > MURAS_LARGEST_STUDY and len(listing.studies) == 1 and by_folder:
        logger.warning("all views are one study, as they lie in one folder; with --study-depth 1 each may be its own")
    return bundle, listing


def score_listing(
    options: ScoreOptions,
    bundle: Bundle,
    listing: Listing,
    index: HeaderIndex,
    started: float,
    report: Callable[[Progress], None],
) -> dict[str, Any]:
    """Scores an archive that was listed; ``started`` is when that began, in seconds of the monotonic clock."""
    archive, folder = options.archive, options.out.resolve()
    if isinstance(archive, Path) and archive.parent.resolve() == folder and archive.is_file():
        raise UsageError(f"{archive} lies in the output folder, whose files a run replaces; choose another")
    if options.heatmaps and isinstance(archive, Path) and archive.is_dir() and folder.is_relative_to(archive.resolve()):
        raise UsageError(f"{options.out} lies in the archive, where heatmaps would count as views; choose another one")
    out = OutputFolder(options.out, options.existing)
    try:
        listed = time.monotonic()
        recipe = out.recipe
        if recipe:
            check(options, recipe, bundle, listing)
            options = continued(options, recipe)
        out.write_headers(index)
        config = worker.WorkerConfig(
            bundle,
            AwaitedSource.of(listing.source),
            options.runtime,
            options.batch,
            options.null_ms,
            options.out / WORKER_LOG,
            map_size(options, bundle),
        )
        progress = Progress(len(listing), len(listing.studies))
        mixed = options.allow_mixed
        device = None if mixed else recipe.get("device")
        with (
            workplace(options, listing, config.runtime, recipe.get("device")) as (hire, places),
            Crew(hire, config, places, device, mixed) as crew,
        ):
            passed_over: list[str] = []
            if options.update or not recipe:
                ready = crew.start()
                passed_over = ready.passed_over
                if passed_over and ready.device == "cpu" and options.devices == AUTO and cuda_device_count():
                    logger.warning("scoring on the CPU: no runtime works on the GPU here: %s", "; ".join(passed_over))
                if recipe:
                    out.begin_update(listing)
                recipe = begun(options, bundle, listing, ready)
                out.write_hashes(listing)
                note_recipe(options.out, recipe)
            ahead = max(SHARDS_AHEAD * recipe["shard_views"], BATCHES_AHEAD * recipe["batch"])
            kept = _kept(out, recipe, options.retry_failed, progress)
            least = LEAST_BATCHES * recipe["batch"]
            ledger = Ledger(len(listing), recipe["shard_views"], ahead, kept, len(places), least)
            supervisor = Supervisor(listing, out, crew, ledger, progress, report)
            cpu_began = time.process_time()
            supervisor.run()
            supervisor_cpu = time.process_time() - cpu_began
            workers = _workers(crew, supervisor)
        scored = time.monotonic()
        outcome = out.outcome(len(listing), mixed)
        studies = out.write_tables(listing, outcome, options.threshold, options.table_format)
        vanished = out.write_vanished(listing)
        ended = time.monotonic()
        failed = len(outcome.failures)
        run = {
            "command": shlex.join(sys.argv),
            "versions": {
                "python": platform.python_version(),
                "mura_trt": mura_trt.__version__,
                **installed_versions(LIBRARIES),
            },
            "archive": str(options.archive),
            "bundle": {
                "name": bundle.manifest.name,
                "precision": bundle.manifest.precision,
                "sha256": bundle.sha256,
                "reference": bundle.manifest.reference,
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
            "cluster": options.cluster,
            "workers": workers,
            "workers_lost": sum(found["lost"] for found in workers),
            "views_per_s": round(progress.fresh / supervisor.seconds, 4) if progress.fresh else 0.0,
            "wall_s": round(ended - started, 2),
            "stage_s": {
                "list": round(listed - started, 2),
                "score": round(scored - listed, 2),
                "tables": round(ended - scored, 2),
                "supervisor_cpu": round(supervisor_cpu, 3),
                **_worker_seconds(supervisor),
            },
            "out": str(options.out),
            "exit_code": EXIT_FAILURES if failed or listing.unreadable else EXIT_OK,
        }
        out.write_run(run)
        if options.heatmaps:  # what goes wrong from here on costs no score
            run["heatmaps"] = _draw(options, listing, outcome, out, bundle.contract)
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
            ran = {"runtime": ready.runtime, "device": ready.device, "device_name": ready.device_name}
            if ready.node:
                ran |= {"node": ready.node, "actor": ready.actor}
        found.append(
            {
                "place": str(place),
                **ran,
                "views": record.views,
                "lost": record.losses,
                "given_up": record.gone,
                "stage_s": {name: round(seconds, 3) for name, seconds in record.stage_seconds.items()},
            }
        )
    return found


def _worker_seconds(supervisor: Supervisor) -> dict[str, float]:
    """By stage, of all workers together."""
    total: defaultdict[str, float] = defaultdict(float)
    for record in supervisor.records:
        for stage, seconds in record.stage_seconds.items():
            total[f"worker_{stage}"] += seconds
    return {stage: round(seconds, 3) for stage, seconds in total.items()}


@contextmanager
def workplace(
    options: ScoreOptions, listing: Listing, runtime: str, device: str | None
) -> Iterator[tuple[Hire, Sequence[AnyPlace]]]:
    """What starts workers, and where they are to work: on this machine, or on a cluster's for so long.

    ``runtime`` and ``device`` are those of the run that is gone on with, where there is one.
    """
    if options.cluster is None:
        sharing = options.runtime not in ON_CPU and not listing.source.in_order
        here = places_of(options.devices, len(listing) // VIEWS_A_WORKER if sharing else 1)
        if len(here) > 1:
            logger.info("%d workers", len(here))
        yield WorkerProcess, here
        return
    from mura_trt.cluster.join import joined

    with joined(options, listing, runtime, device) as (hire, places):
        yield hire, places


def _draw(options: ScoreOptions, listing: Listing, outcome: Outcome, out: OutputFolder, contract: InputContract) -> int:
    """Draws the heatmaps that were chosen; how many."""
    assert options.heatmaps is not None
    views = Choice.parsed(options.heatmaps).views(listing, outcome.probability, options.threshold)
    logger.info("drawing %d heatmaps", len(views))
    log = options.out / WORKER_LOG
    return out.write_heatmaps(
        heatmap_tables(listing, views, out.committed(), options.out, log, contract), options.table_format
    )


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

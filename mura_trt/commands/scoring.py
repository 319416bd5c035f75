"""Scoring archives."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mura_trt.commands.shared import (
    AllowUnproven,
    Archive,
    Batch,
    Engine,
    Json,
    Overwrite,
    Root,
    Runtime,
    SaltFile,
    StudyDepth,
    archive_named,
)
from mura_trt.commands.streams import answer, say


def score(
    archive: Archive,
    engine: Engine,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    runtime: Runtime = "auto",
    devices: Annotated[
        str,
        typer.Option(help="auto (the first GPU, or the CPU); all GPUs; or a worker each: 0,1 (GPUs by number) or cpu."),
    ] = "auto",
    cluster: Annotated[
        str | None, typer.Option(help="Workers in a Ray cluster: auto, ray://HOST:PORT or local; see docs/cluster.md.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="How many workers in the cluster.", show_default="one a GPU; without GPUs, one a node"),
    ] = None,
    workers_per_gpu: Annotated[int, typer.Option(help="How many workers in the cluster share each GPU.")] = 1,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="In the cluster, workers with and without a GPU at once.")
    ] = False,
    threshold: Annotated[
        str, typer.Option(help="Abnormal is a mean strictly above this; or a file that evaluate has written.")
    ] = "0.5",
    study_depth: StudyDepth = None,
    root: Root = None,
    batch: Batch = None,
    shard_views: Annotated[
        int | None,
        typer.Option(
            help="Views in a shard, the unit of commit and of --resume.", show_default="256 on a CPU, 2048 on a GPU"
        ),
    ] = None,
    table_format: Annotated[str, typer.Option("--format", help="csv or parquet.")] = "csv",
    keep_paths: Annotated[
        bool, typer.Option("--keep-paths", help="Of DICOM files: tables name paths, not their hashes.")
    ] = False,
    keep_uids: Annotated[
        bool, typer.Option("--keep-uids", help="Of DICOM files: tables name UIDs, not their hashes.")
    ] = False,
    uid_salt_file: SaltFile = None,
    null_ms: Annotated[float, typer.Option(help="How long the null runtime takes for a batch, ms.")] = 0.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out; begin where there is none.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="As --resume, and try again the views that failed.")
    ] = False,
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            help="Score what is new, changed or failed since the run in --out; begin where there is none.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    heatmaps: Annotated[
        str | None, typer.Option(help="Draw class activation maps of studies: abnormal, all or top:N.")
    ] = None,
    allow_unproven: AllowUnproven = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Write no results: tell what is in the archive, and by a sample how long it would take."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Scores every study of an archive. Exit code 0: all views scored; 3: some failed, see failures.csv."""
    from mura_trt.evaluation.threshold import read_threshold
    from mura_trt.progress import Reporter
    from mura_trt.score import dry_run as run_dry
    from mura_trt.score import score as run_score
    from mura_trt.score_options import ScoreOptions

    above, threshold_of = read_threshold(threshold)
    options = ScoreOptions(
        archive=archive_named(archive),
        engine=engine,
        out=out,
        runtime=runtime,
        devices=devices,
        cluster=cluster,
        workers=workers,
        workers_per_gpu=workers_per_gpu,
        allow_mixed=allow_mixed,
        batch=batch,
        shard_views=shard_views,
        threshold=above,
        threshold_of=threshold_of,
        study_depth=study_depth,
        root=root,
        table_format=table_format,
        keep_paths=keep_paths,
        keep_uids=keep_uids,
        uid_salt_file=uid_salt_file,
        overwrite=overwrite,
        resume=resume,
        retry_failed=retry_failed,
        update=update,
        null_ms=null_ms,
        heatmaps=heatmaps,
        allow_unproven=allow_unproven,
    )
    if dry_run:
        found = run_dry(options)
        answer(json.dumps(found, indent=2) if as_json else _forecast(found))
        raise typer.Exit
    with Reporter(sys.stderr) as reporter:
        run = run_score(options, reporter.update)
    if as_json:
        answer(json.dumps(run, indent=2))
    else:
        say(_summary(run, table_format))
    raise typer.Exit(run["exit_code"])


def _forecast(found: dict[str, Any]) -> str:
    from mura_trt.progress import clock

    formats = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in found["formats"].items())
    others = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in found["ignored_files"].items())
    predicted = "no telling" if found["predicted_s"] is None else clock(found["predicted_s"])
    return (
        f"{found['studies']} studies, {found['listed']} views ({formats}); other files: {others or 'none'}\n"
        f"{found['views_per_s']:.2f} views/s with {found['runtime']} on a sample of {found['sampled']} views, of which"
        f" {found['sample_failed']} failed: {predicted} for all; no results were written"
    )


def _summary(run: dict[str, Any], table_format: str) -> str:
    from mura_trt.report.sections import parity

    failed = f", {run['failed']} failed (see {run['out']}/failures.{table_format})" if run["failed"] else ""
    return (
        f"{run['studies']} studies, {run['listed']} views: {run['scored']} scored{failed}\n"
        f"{run['views_per_s']:.2f} views/s with {run['runtime']}, {run['wall_s']} s in all;"
        f" bundle {run['bundle']['name']}; results in {run['out']}\n{parity(run)}"
    )


def heatmap(
    image: Annotated[Path, typer.Argument(help="A PNG, JPEG or DICOM file.")],
    engine: Engine,
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture to write, .jpg or .png.")] = Path("heatmap.png"),
    runtime: Runtime = "auto",
    allow_unproven: AllowUnproven = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the map, too, as JSON.")] = False,
) -> None:
    """Scores one image and draws its class activation map over it."""
    from mura_trt.heatmaps import heatmap_of_image

    found = heatmap_of_image(image, engine, out, runtime, allow_unproven)
    answer(json.dumps(found) if as_json else f"probability {found['probability']:.4f}; {found['file']}")

"""Scoring archives."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mura_trt.commands.shared import Overwrite, Root, SaltFile, StudyDepth, archive_named, errors_told


def score(
    archive: Annotated[str, typer.Argument(help="Folder, zip, tar or list of X-rays, or the URL of one.")],
    engine: Annotated[Path, typer.Option(help="Engine bundle, made by build-engine.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    runtime: Annotated[
        str,
        typer.Option(
            help="auto, tensorrt, tensorrt_rtx, torch_fused, torch_cuda, onnxruntime, emulated, torch or null."
        ),
    ] = "auto",
    devices: Annotated[
        str, typer.Option(help="auto, all GPUs, GPUs by number as 0,1, or cpu, once for each worker.")
    ] = "auto",
    cluster: Annotated[
        str | None, typer.Option(help="Workers in a Ray cluster: auto, ray://HOST:PORT or local; see docs/cluster.md.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Of the cluster [one for each GPU, or for each node where there is none].")
    ] = None,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="In the cluster, workers with and without a GPU at once.")
    ] = False,
    threshold: Annotated[
        str, typer.Option(help="Abnormal is a mean strictly above this; or a file that evaluate has written.")
    ] = "0.5",
    study_depth: StudyDepth = None,
    root: Root = None,
    batch: Annotated[int | None, typer.Option(help="Views in a batch [what suits the runtime].")] = None,
    shard_views: Annotated[int | None, typer.Option(help="Views in a commit [256 on a CPU, 2048 on a GPU].")] = None,
    table_format: Annotated[str, typer.Option("--format", help="csv or parquet.")] = "csv",
    keep_paths: Annotated[
        bool, typer.Option("--keep-paths", help="Of DICOM files: paths in tables, not hashes.")
    ] = False,
    keep_uids: Annotated[bool, typer.Option("--keep-uids", help="Likewise UIDs.")] = False,
    uid_salt_file: SaltFile = None,
    null_ms: Annotated[float, typer.Option(help="Milliseconds a batch takes the null runtime.")] = 0.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out; else begin.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="As --resume, and try the views again that have failed.")
    ] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Score what is new, changed or failed since the run in --out; else begin.")
    ] = False,
    overwrite: Overwrite = False,
    heatmaps: Annotated[
        str | None, typer.Option(help="Draw class activation maps of studies: abnormal, all or top:N.")
    ] = None,
    allow_unproven: Annotated[
        bool,
        typer.Option("--allow-unproven", help="Score with a bundle that missed a bound, or was not compared."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what there is, and by a sample how long it would take.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run's summary as JSON.")] = False,
) -> None:
    """Scores every study of an archive. Exit code 0: all views scored; 3: some failed, see failures.csv."""
    with errors_told():
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
            print(json.dumps(found, indent=2) if as_json else _forecast(found))
            raise typer.Exit
        with Reporter(sys.stderr) as reporter:
            run = run_score(options, reporter.update)
    print(json.dumps(run, indent=2) if as_json else _summary(run))
    raise typer.Exit(run["exit_code"])


def _forecast(found: dict[str, Any]) -> str:
    from mura_trt.progress import clock

    formats = ", ".join(f"{count} {suffix}" for suffix, count in found["formats"].items())
    others = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in found["ignored_files"].items())
    predicted = "no telling" if found["predicted_s"] is None else clock(found["predicted_s"])
    return (
        f"{found['studies']} studies, {found['listed']} views ({formats}); other files: {others or 'none'}\n"
        f"{found['views_per_s']:.2f} views/s with {found['runtime']} on a sample of {found['sampled']} views, of which"
        f" {found['sample_failed']} failed: {predicted} for all; nothing was written"
    )


def _summary(run: dict[str, Any]) -> str:
    failed = f", {run['failed']} failed (see {run['out']}/failures)" if run["failed"] else ""
    from mura_trt.runtimes import OWN_RUNTIMES

    bundle = run["bundle"]
    return (
        f"{run['studies']} studies, {run['listed']} views: {run['scored']} scored{failed}\n"
        f"{run['views_per_s']:.2f} views/s with {run['runtime']}, {run['wall_s']} s in all;"
        f" engine {bundle['name']}; results in {run['out']}\n"
        f"{'its plan' if run['runtime'] in OWN_RUNTIMES else 'its plan, not used here,'} ({bundle['precision']})"
        f" against {bundle['reference']} in FP32: {bundle['parity']}"
    )


def heatmap(
    image: Annotated[Path, typer.Argument(help="A PNG, JPEG or DICOM file.")],
    engine: Annotated[Path, typer.Option(help="Engine bundle, made by build-engine.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture to write, .jpg or .png.")] = Path("heatmap.png"),
    runtime: Annotated[str, typer.Option(help="As for score.")] = "auto",
    allow_unproven: Annotated[bool, typer.Option("--allow-unproven", help="As for score.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the map, too, as JSON.")] = False,
) -> None:
    """Scores one image and draws what speaks for abnormal over it."""
    with errors_told():
        from mura_trt.heatmaps import heatmap_of_image

        found = heatmap_of_image(image, engine, out, runtime, allow_unproven)
    print(json.dumps(found) if as_json else f"probability {found['probability']:.4f}; {found['file']}")

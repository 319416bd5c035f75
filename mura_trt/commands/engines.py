"""Graphs and engine bundles: what is in them, and whether they agree with what they were built from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from mura_trt.commands.shared import (
    Archive,
    Batch,
    Bundle,
    Checkpoint,
    Json,
    Root,
    Runtime,
    SaltFile,
    StudyDepth,
    archive_named,
)
from mura_trt.commands.streams import answer, say
from mura_trt.errors import EXIT_DISAGREES, EXIT_ENVIRONMENT, EXIT_OK, UsageError


def export(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option("--out", "-o", help="ONNX file to write.")],
    precision: Annotated[str, typer.Option(help="fp32 or fp16; INT8 and FP8 need build-engine.")] = "fp32",
) -> None:
    """Exports a checkpoint to ONNX: raw gray pixels in; probability, logit and activation map out."""
    from mura_trt.checkpoint import load_checkpoint
    from mura_trt.export import write_graph
    from mura_trt.files import check_target

    if precision not in ("fp32", "fp16"):
        raise UsageError(f"--precision {precision}: fp32 or fp16; INT8 and FP8 need build-engine")
    check_target(out, [checkpoint], "the graph")
    write_graph(load_checkpoint(checkpoint), out, half=precision == "fp16")
    say(str(out))


def inspect(
    bundle: Bundle,
    layers: Annotated[bool, typer.Option("--layers", help="The plan's layers and their times, on a GPU.")] = False,
    as_json: Json = False,
) -> None:
    """Shows what is in a bundle: how it was built and checked, its files, its graph, and on a GPU its plan.

    Exit code 5: a file is not as it was built, or the layers were asked for and cannot be had.
    """
    from mura_trt.inspect_bundle import in_words, inspected

    found = inspected(bundle, layers)
    answer(json.dumps(found, indent=2) if as_json else in_words(found))
    problems = [file["problem"] for file in found["files"] if file["problem"]]
    if found["layers_problem"]:
        problems.append(f"no layers to show: {found['layers_problem']}")
    for problem in problems:
        print(f"mura-trt: {bundle}: {problem}", file=sys.stderr)
    raise typer.Exit(EXIT_ENVIRONMENT if problems else EXIT_OK)


def parity(
    bundle: Bundle,
    archive: Archive,
    checkpoint: Annotated[
        list[Path],
        typer.Option("--checkpoint", help="What it was built from: checkpoints, or the ONNX file of import-onnx."),
    ],
    runtime: Runtime = "auto",
    studies: Annotated[int | None, typer.Option(help="How many studies, evenly spaced.", show_default="all")] = None,
    bound: Annotated[list[str] | None, typer.Option(help="Another bound, such as model.dp_max=0.01.")] = None,
    batch: Batch = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for parity.json and parity.png.")] = None,
    study_depth: StudyDepth = None,
    root: Root = None,
    uid_salt_file: SaltFile = None,
    as_json: Json = False,
) -> None:
    """Compares a bundle's scores with what it was built from, in FP32 on the CPU. Exit code 4: a bound is missed."""
    from mura_trt.archives import NamedArchive
    from mura_trt.parity.bounds import parsed
    from mura_trt.parity.run import ParityOptions
    from mura_trt.parity.run import parity as run_parity
    from mura_trt.parity.tell import table
    from mura_trt.progress import Reporter

    options = ParityOptions(
        bundle=bundle,
        archive=NamedArchive(archive_named(archive), study_depth, root, uid_salt_file),
        checkpoints=checkpoint,
        runtime=runtime,
        studies=studies,
        changes=parsed(bound or ()),
        batch=batch,
        out=out,
    )
    with Reporter(sys.stderr) as reporter:
        judgement, found = run_parity(options, reporter.show)
    head = (
        f"{found['name']} ({found['precision']}) with {found['runtime']} on {found['device']}: {found['views']} views"
    )
    answer(json.dumps(found, indent=2) if as_json else f"{head}\n{table(judgement)}")
    raise typer.Exit(EXIT_DISAGREES if judgement.missed else EXIT_OK)

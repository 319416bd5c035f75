"""From networks to engine bundles, and whether these agree with what they were built from."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mura_trt.commands.shared import (
    Checkpoint,
    Checkpoints,
    Overwrite,
    Root,
    SaltFile,
    StudyDepth,
    archive_named,
    command_typed,
    errors_told,
)
from mura_trt.errors import EXIT_DISAGREES, EXIT_ENVIRONMENT, EXIT_OK, UsageError

if TYPE_CHECKING:
    from mura_trt.archives import NamedArchive
    from mura_trt.engine_recipe import Recipe
    from mura_trt.networks.origin import Origin

RecipeFile = Annotated[Path | None, typer.Argument(help="Recipe file, as in engines/*.toml.")]
Precision = Annotated[str | None, typer.Option(help="fp32, fp16, int8 or fp8; without it, the recipe's.")]
Builder = Annotated[str | None, typer.Option(help="auto, tensorrt, tensorrt-rtx or none.")]
Batch = Annotated[
    str | None, typer.Option(help="Views in every batch, or auto: what is measured to be best on this GPU.")
]
TimingCache = Annotated[Path | None, typer.Option(help="Folder of TensorRT's timing caches [beside the bundle].")]


def export(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option("--out", "-o", help="ONNX file to write.")],
    precision: Annotated[str, typer.Option(help="fp32 or fp16; INT8 and FP8 need build-engine.")] = "fp32",
) -> None:
    """Exports a checkpoint to ONNX: raw gray pixels in; probability, logit and activation map out."""
    with errors_told():
        import onnx

        from mura_trt.checkpoint import load_checkpoint
        from mura_trt.export import exported
        from mura_trt.precision import lower

        if precision not in ("fp32", "fp16"):
            raise UsageError(f"--precision {precision}: fp32 or fp16; INT8 and FP8 need build-engine")
        graph = exported(load_checkpoint(checkpoint))
        onnx.save(graph if precision == "fp32" else lower(graph), out)
        print(out)


def build_engine(
    checkpoint: Checkpoints,
    recipe: RecipeFile = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The bundle's folder.")] = None,
    precision: Precision = None,
    builder: Builder = None,
    batch: Batch = None,
    timing_cache: TimingCache = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            help="Archive whose views INT8 and FP8 are calibrated on, and any bundle is checked on; it names them."
        ),
    ] = None,
    calibration_method: Annotated[str | None, typer.Option(help="percentile or max.")] = None,
    calibration_views: Annotated[int | None, typer.Option(help="How many views to calibrate on [64].")] = None,
    study_depth: StudyDepth = None,
    root: Root = None,
    uid_salt_file: SaltFile = None,
    check: Annotated[bool, typer.Option(help="Compare the bundle with PyTorch, on 64 views.")] = True,
    overwrite: Overwrite = False,
) -> None:
    """Builds an engine bundle: ONNX graphs, TensorRT plan, and a manifest with the hash of each.

    Exit code 4: it was built, and misses a bound.
    """
    with errors_told():
        from mura_trt.archives import NamedArchive
        from mura_trt.networks.checkpoints import Checkpoints

        chosen = _recipe(
            recipe,
            precision,
            builder=builder,
            batch=batch,
            calibration_method=calibration_method,
            calibration_views=calibration_views,
        )
        origin = Checkpoints(checkpoint)
        named = recipe.stem if recipe and not precision else chosen.name or f"{origin.network}-{chosen.precision}"
        archive = NamedArchive(archive_named(calibrate), study_depth, root, uid_salt_file) if calibrate else None
        kept = _build(origin, chosen, out or Path("engines") / named, archive, check, overwrite, timing_cache)
    raise typer.Exit(EXIT_OK if kept else EXIT_DISAGREES)


def import_onnx(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A network that scores pictures.")],
    engine: Annotated[Path, typer.Option("--engine", "--out", "-o", help="The bundle's folder.")],
    recipe: RecipeFile = None,
    mean: Annotated[
        str | None,
        typer.Option(help="Subtracted from a 0..1 pixel: one number, or one a channel, as 0.485,0.456,0.406."),
    ] = None,
    std: Annotated[str | None, typer.Option(help="What that is divided by, likewise, as 0.229,0.224,0.225.")] = None,
    pixels: Annotated[
        str,
        typer.Option(help="What white is to the network before that: 0..1, or 0..255 to multiply the result by 255."),
    ] = "0..1",
    size: Annotated[str | None, typer.Option(help="Height x width of the picture, as 224x224 [the graph's].")] = None,
    layout: Annotated[str | None, typer.Option(help="NCHW or NHWC [what the graph's input shape says].")] = None,
    output: Annotated[str | None, typer.Option(help="Name of the output with the scores [the only one].")] = None,
    scores: Annotated[
        str | None, typer.Option(help="What they are: logit, probability or classes [what the graph ends in].")
    ] = None,
    abnormal: Annotated[
        int | None, typer.Option(help="Of several numbers, which is the abnormal class's, from 0.")
    ] = None,
    precision: Precision = None,
    builder: Builder = None,
    batch: Batch = None,
    timing_cache: TimingCache = None,
    calibrate: Annotated[
        str | None, typer.Option(help="Archive on whose views the bundle is checked; it names them [synthetic ones].")
    ] = None,
    study_depth: StudyDepth = None,
    root: Root = None,
    uid_salt_file: SaltFile = None,
    check: Annotated[bool, typer.Option(help="Compare the bundle with the ONNX file, on 64 views.")] = True,
    overwrite: Overwrite = False,
) -> None:
    """Builds an engine bundle of another network, from the ONNX file that it was exported to.

    Exit code 4: it was built, and misses a bound.
    """
    with errors_told():
        from mura_trt.archives import NamedArchive
        from mura_trt.networks.imported import Imported
        from mura_trt.networks.told import Told, parsed_numbers, parsed_size

        told = Told(
            model=model,
            mean=parsed_numbers("mean", mean),
            std=parsed_numbers("std", std),
            pixels=pixels,
            size=parsed_size(size),
            layout=layout,
            output=output,
            scores=scores,
            abnormal=abnormal,
        )
        chosen = _recipe(recipe, precision, builder=builder, batch=batch)
        archive = NamedArchive(archive_named(calibrate), study_depth, root, uid_salt_file) if calibrate else None
        kept = _build(Imported(told), chosen, engine, archive, check, overwrite, timing_cache)
    raise typer.Exit(EXIT_OK if kept else EXIT_DISAGREES)


def _recipe(path: Path | None, precision: str | None, batch: str | None, **given: str | int | None) -> Recipe:
    """A recipe file's, or the default, with what is given beside it."""
    from mura_trt.engine_recipe import Recipe

    chosen = Recipe.read(path) if path else Recipe()
    if precision and precision != chosen.precision:
        chosen = chosen.in_precision(precision)
    fields: dict[str, Any] = {"batch": int(batch) if batch and batch.isdecimal() else batch, **given}
    return replace(chosen, **{name: value for name, value in fields.items() if value is not None})


def _build(
    origin: Origin,
    recipe: Recipe,
    folder: Path,
    archive: NamedArchive | None,
    check: bool,
    overwrite: bool,
    timing_cache: Path | None,
) -> bool:
    """Builds a bundle as it was typed; whether it kept its bounds, or nobody looked."""
    from mura_trt.build import build_bundle
    from mura_trt.progress import Reporter

    with Reporter(sys.stderr) as reporter:
        bundle = build_bundle(
            origin,
            recipe,
            folder,
            archive=archive,
            check=check,
            overwrite=overwrite,
            timings=timing_cache,
            command=command_typed("--overwrite"),
            report=reporter.show,
        )
    print(bundle.folder)
    proof = bundle.manifest.parity
    return proof is None or proof["kept"]


def inspect(
    bundle: Annotated[Path, typer.Argument(help="Engine bundle, made by build-engine.")],
    layers: Annotated[bool, typer.Option("--layers", help="The plan's layers and their times, on a GPU.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Shows what is in a bundle: how it was built and checked, its files, its graph, and on a GPU its plan.

    Exit code 5: a file is not as it was built, or the layers were asked for and cannot be had.
    """
    with errors_told():
        from mura_trt.inspect_bundle import in_words, inspected

        found = inspected(bundle, layers)
    print(json.dumps(found, indent=2) if as_json else in_words(found))
    problems = [file["problem"] for file in found["files"] if file["problem"]]
    if found["layers_problem"]:
        problems.append(f"no layers to show: {found['layers_problem']}")
    for problem in problems:
        print(f"mura-trt: {bundle}: {problem}", file=sys.stderr)
    raise typer.Exit(EXIT_ENVIRONMENT if problems else EXIT_OK)


def parity(
    bundle: Annotated[Path, typer.Argument(help="Engine bundle, made by build-engine.")],
    archive: Annotated[str, typer.Argument(help="Folder, zip, tar or list of X-rays, or the URL of one.")],
    checkpoint: Annotated[
        list[Path],
        typer.Option("--checkpoint", help="What it was built from: checkpoints, or the ONNX file of import-onnx."),
    ],
    runtime: Annotated[
        str,
        typer.Option(help="auto, tensorrt, tensorrt_rtx, emulated (the plan's graph on a CPU), onnxruntime or torch."),
    ] = "auto",
    studies: Annotated[int | None, typer.Option(help="How many studies, evenly spaced [all].")] = None,
    bound: Annotated[list[str] | None, typer.Option(help="Another bound, such as model.dp_max=0.01.")] = None,
    batch: Annotated[int | None, typer.Option(help="Views in a batch [what suits the runtime].")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for parity.json and parity.png.")] = None,
    study_depth: StudyDepth = None,
    root: Root = None,
    uid_salt_file: SaltFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Compares a bundle's scores with what it was built from, in FP32 on the CPU. Exit code 4: a bound is missed."""
    with errors_told():
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
    print(json.dumps(found, indent=2) if as_json else f"{head}\n{table(judgement)}")
    raise typer.Exit(EXIT_DISAGREES if judgement.missed else EXIT_OK)

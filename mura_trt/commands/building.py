"""From networks to engine bundles."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mura_trt.commands.shared import (
    Checkpoints,
    Overwrite,
    Root,
    SaltFile,
    StudyDepth,
    archive_named,
    command_typed,
)
from mura_trt.commands.streams import say
from mura_trt.errors import EXIT_DISAGREES, EXIT_OK

if TYPE_CHECKING:
    from mura_trt.archives import NamedArchive
    from mura_trt.engine_recipe import Recipe
    from mura_trt.networks.origin import Origin

RecipeFile = Annotated[Path | None, typer.Argument(help="Build recipe, as in engines/*.toml.")]
Precision = Annotated[str | None, typer.Option(help="fp32, fp16, int8 or fp8.", show_default="the recipe's, or fp16")]
Builder = Annotated[
    str | None, typer.Option(help="auto, tensorrt, tensorrt-rtx or none.", show_default="the recipe's, or auto")
]
Batch = Annotated[
    str | None, typer.Option(help="Views in every batch, or auto: what is measured to be best on this GPU.")
]
TimingCache = Annotated[
    Path | None, typer.Option(help="Folder of TensorRT's timing caches.", show_default="beside the bundle")
]


def build_engine(
    checkpoint: Checkpoints,
    recipe: RecipeFile = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The bundle's folder.", show_default="engines/, and a name")
    ] = None,
    precision: Precision = None,
    builder: Builder = None,
    batch: Batch = None,
    timing_cache: TimingCache = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            help="Archive whose views INT8 and FP8 are calibrated on, and any bundle is checked on; the bundle records"
            " which.",
            show_default="none; the check takes synthetic ones",
        ),
    ] = None,
    calibration_method: Annotated[
        str | None, typer.Option(help="percentile or max.", show_default="the recipe's, or percentile")
    ] = None,
    calibration_views: Annotated[
        int | None, typer.Option(help="How many views to calibrate on.", show_default="the recipe's, or 64")
    ] = None,
    study_depth: StudyDepth = None,
    root: Root = None,
    uid_salt_file: SaltFile = None,
    check: Annotated[bool, typer.Option(help="Compare the bundle with PyTorch, on 64 views.")] = True,
    overwrite: Overwrite = False,
) -> None:
    """Builds an engine bundle: ONNX graphs, TensorRT plan, and a manifest with the hash of each.

    Exit code 4: it was built, and misses a bound.
    """
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
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A network that scores images.")],
    engine: Annotated[Path, typer.Option("--engine", "--out", "-o", help="The bundle's folder.")],
    recipe: RecipeFile = None,
    mean: Annotated[
        str | None,
        typer.Option(help="Subtracted from a pixel of 0..1: one number, or one a channel, as 0.485,0.456,0.406."),
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="What the difference is divided by, likewise, as 0.229,0.224,0.225.")
    ] = None,
    pixels: Annotated[
        str,
        typer.Option(help="Scale of the network's input: 0..1 is (pixel - mean) / std; 0..255 is 255 times that."),
    ] = "0..1",
    size: Annotated[
        str | None, typer.Option(help="Height x width of the image, as 224x224.", show_default="the graph's")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="NCHW or NHWC.", show_default="what the graph's input shape says")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Name of the output with the scores.", show_default="the only one")
    ] = None,
    scores: Annotated[
        str | None,
        typer.Option(help="What the scores are: logit, probability or classes.", show_default="what the graph ends in"),
    ] = None,
    abnormal: Annotated[int | None, typer.Option(help="Of classes: the number of the abnormal one, from 0.")] = None,
    precision: Precision = None,
    builder: Builder = None,
    batch: Batch = None,
    timing_cache: TimingCache = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            help="Archive on whose views the bundle is checked; the bundle records which.",
            show_default="synthetic views",
        ),
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
    say(str(bundle.folder))
    proof = bundle.manifest.parity
    return proof is None or proof["kept"]

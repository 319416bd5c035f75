"""A network to an engine bundle: two ONNX graphs, the TensorRT plan where a builder is installed, and the proof."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import mura_trt
from mura_trt.archives import NamedArchive
from mura_trt.archives.listing import Listing
from mura_trt.bundle import FILES, Bundle, Manifest, describe_file, new_bundle, write_manifest
from mura_trt.calibrate import Calibration
from mura_trt.contract import NARROW, InputContract
from mura_trt.cuda_devices import cuda_device_count, gpu_kind
from mura_trt.engine_recipe import Recipe
from mura_trt.errors import EnvironmentProblem, UsageError
from mura_trt.networks.origin import Calibrator, Origin
from mura_trt.parity.run import synthetic
from mura_trt.pixels import decoded_listing
from mura_trt.plan import build_plan, find_builder, unsupported
from mura_trt.sample import spread_views
from mura_trt.sweep import sweep

logger = logging.getLogger(__name__)


def build_bundle(
    origin: Origin,
    recipe: Recipe,
    out: Path,
    *,
    archive: NamedArchive | None = None,
    check: bool = True,
    overwrite: bool = False,
    timings: Path | None = None,
    command: str | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Builds a bundle whole or not at all, and opens it as ``score`` will.

    Parameters
    ----------
    origin
        The network.
    recipe
        What to build.
    out
        The bundle's folder.
    archive
        Views to calibrate on, which INT8 and FP8 need, and others to check on; without it, synthetic ones are drawn to
        check on.
    check
        Compare the bundle with its reference, and keep in it what was found.
    overwrite
        Replace a bundle that is there.
    timings
        Folder of TensorRT's timing caches; without it, one beside ``out``.
    command
        What builds the bundle again: told where the plan does not suit a GPU or library, or a file is damaged.
    report
        Takes a line on how far it has come.

    Raises
    ------
    UsageError
        The network's files, the archive or the output folder cannot be used, or not in that precision.
    EnvironmentProblem
        A library is missing, the builder that was asked for failed, or the batch is to be measured without a GPU that
        runs its plans.
    """
    import onnx

    calibrator = origin.calibrator(recipe) if recipe.precision in NARROW else None
    if calibrator and archive is None:
        raise UsageError(
            f"--precision {recipe.precision} is calibrated on views: name an archive of some with --calibrate"
        )
    builder = find_builder(recipe.builder)
    if recipe.profile is None and (builder is None or cuda_device_count() == 0):
        raise EnvironmentProblem(
            "--batch auto measures plans on a GPU, and there is none here, or no builder; give a number: --batch 64"
        )
    gpu = gpu_kind()
    if builder and gpu and (refused := unsupported(builder, gpu)):
        if recipe.profile is None:
            raise EnvironmentProblem(
                f"--batch auto measures plans on the GPU, and {refused}; give a number: --batch 64"
            )
        logger.warning(
            "%s: the plan is for other machines; for this one build with --builder tensorrt (pip install tensorrt), or"
            " score with another runtime, as --runtime auto does",
            refused,
        )
    if timings is not None and builder != "tensorrt":
        logger.warning("%s has no timing cache, and nothing is kept in %s", builder or "no builder", timings)
    timings = timings or out.resolve().with_name(f"{out.resolve().name}.timing-cache")
    with new_bundle(out, overwrite) as folder, tempfile.TemporaryDirectory() as scratch:
        network = origin.network
        views = _views(archive, recipe, Path(scratch) / "archive", check)
        started = time.monotonic()
        logger.info("exporting %s", FILES["fp32_onnx"])
        graph = origin.graph()
        export_seconds = time.monotonic() - started
        onnx.save(graph, folder / FILES["fp32_onnx"])
        quantization, described = None, None
        if recipe.precision == "fp32":
            shutil.copyfile(folder / FILES["fp32_onnx"], folder / FILES["onnx"])
        else:
            if calibrator:
                assert views.to_calibrate is not None
                seen, pixels = _decoded(views.to_calibrate, origin.contract)
                found = _calibrated(calibrator, pixels, recipe, report)
                quantization, described = found.quantization, _described(found, seen, recipe)
            onnx.save(origin.lowered(graph, quantization), folder / FILES["onnx"])
        manifest = Manifest(
            name=recipe.name or f"{network}-{recipe.precision}",
            precision=recipe.precision,
            contract=origin.contract,
            checkpoints_sha256=origin.sha256,
            builder=None,
            versions={"mura_trt": mura_trt.__version__, **origin.versions},
            quantization=described,
            bounds=recipe.bounds,
            parity=None,
            export_seconds=round(export_seconds, 1),
            files={},
            network=network,
            imported=origin.imported,
        )
        if builder is None:
            logger.warning("no TensorRT builder: the bundle has no plan and scores on a CPU; pip install tensorrt-rtx")
        else:
            logger.info("building %s with %s", FILES["plan"], builder)
            built = _planned(builder, recipe, Bundle(folder, manifest, ""), Path(scratch), timings)
            if command:
                built["rebuild"] = command
            manifest = replace(manifest, builder=built)
        files = {role: describe_file(folder / name) for role, name in FILES.items() if (folder / name).exists()}
        manifest = replace(manifest, files=files)
        write_manifest(folder, manifest)
        if check:
            assert views.to_check is not None
            proof = _checked(Bundle.open(folder), origin, views.to_check, recipe, report)
            proof = {"archive": "synthetic" if archive is None else str(archive.place), **proof}
            write_manifest(folder, replace(manifest, parity=proof))
    return Bundle.open(out)


def _planned(builder: str, recipe: Recipe, bundle: Bundle, scratch: Path, timings: Path) -> dict[str, Any]:
    """Builds the plan of a bundle that has its graphs; returns the manifest's ``builder`` entry."""

    def build(batch: tuple[int, int, int], path: Path) -> dict[str, Any]:
        return build_plan(builder, bundle.path("onnx"), path, batch, recipe.builder_options, timings)

    if recipe.profile is not None:
        return build(recipe.profile, bundle.path("plan"))
    swept = sweep(lambda views, path: build((views, views, views), path), bundle.manifest, scratch)
    shutil.copyfile(swept.plan, bundle.path("plan"))
    return swept.built


class _Views(NamedTuple):
    to_calibrate: Listing | None
    to_check: Listing | None


def _views(archive: NamedArchive | None, recipe: Recipe, scratch: Path, check: bool) -> _Views:
    """Which views to calibrate and to check on; no view is for both, where there are enough."""
    if archive is None:
        if not check:
            return _Views(None, None)
        listing = synthetic(scratch)
        return _Views(None, listing.take(np.sort(spread_views(listing, recipe.check_views))))
    listing = archive.listing()
    wanted = recipe.calibration_views if recipe.precision in NARROW else 0
    drawn = spread_views(listing, wanted + recipe.check_views)
    return _Views(listing.take(np.sort(drawn[:wanted])), listing.take(np.sort(drawn[-recipe.check_views :])))


def _decoded(views: Listing, contract: InputContract) -> tuple[Listing, NDArray[np.uint8]]:
    """Of the views those that have pixels, and these, uint8 (n, H, W, 1)."""
    rows, pixels, failed = [], [np.empty((0, *contract.size, 1), np.uint8)], []
    for part in decoded_listing(views, contract.size):
        rows += part.views
        pixels.append(part.pixels.copy())
        failed += part.failures
    if failed:
        logger.warning("%d of %d views to calibrate on have no pixels: %s", len(failed), len(views), failed[0].message)
    return views.take(np.array(rows, np.int64)), np.concatenate(pixels)


def _calibrated(
    calibrator: Calibrator, pixels: NDArray[np.uint8], recipe: Recipe, report: Callable[[str], None]
) -> Calibration:
    found = calibrator(pixels, report)
    kept = found.quantization.kept
    if found.predicted > recipe.error_budget:
        logger.warning(
            "the error budget of %.1e is missed with as many layers in half precision as may be", recipe.error_budget
        )
    logger.info(
        "%d of %d convolutions in %s, %d in half precision; |dp| of about %.1e (root mean square) expected",
        len(found.errors) - len(kept), len(found.errors), recipe.precision, len(kept), found.predicted,
    )  # fmt: skip
    return found


def _described(found: Calibration, views: Listing, recipe: Recipe) -> dict[str, Any]:
    """What the manifest tells of a calibration."""
    sample = views.view_names(views.keys(0, len(views)))
    return {
        "format": recipe.precision,
        "method": recipe.calibration_method,
        "sample": sample,
        "sample_sha256": hashlib.sha256("\n".join(sample).encode()).hexdigest(),
        "error_budget": recipe.error_budget,
        "expected_rms_dp": found.predicted,
        "in_half_precision": {name: found.errors[name] for name in found.quantization.kept},
        "ranges": dict(found.quantization.ranges),
    }


def _checked(
    bundle: Bundle, origin: Origin, views: Listing, recipe: Recipe, report: Callable[[str], None]
) -> dict[str, Any]:
    """What the manifest tells of the comparison with its reference."""
    from mura_trt.parity.run import compare
    from mura_trt.parity.tell import table

    # A few dozen views say nothing of clinical figures, and little of how many decisions turn.
    bounds = {name: bound for name, bound in recipe.bounds.items() if not name.startswith(("studies.", "clinical."))}
    reference = origin.reference(ranges="half.largest" in bounds)
    judgement, found = compare(bundle, views, reference, bounds, report=report)
    if judgement.missed:
        logger.warning("the bundle misses its bounds, and is scored with --allow-unproven only:\n%s", table(judgement))
    return found

"""What decides a scoring run's rows: noted when it begins, and the same when it is gone on with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import replace
from importlib import metadata
from typing import Any

import mura_trt
from mura_trt import gray, worker
from mura_trt.archives.listing import Listing
from mura_trt.bundle import Bundle
from mura_trt.errors import UsageError
from mura_trt.recipe import RECIPE, check_recipe
from mura_trt.results import MAP_SIZE, UPDATING
from mura_trt.runtimes import MIXED
from mura_trt.score_options import ScoreOptions

SHARD_VIEWS = {"cpu": 256, "cuda": 2048, MIXED: 256}
# Of a run's recipe, what it has chosen itself or was told.
CHOSEN = ("runtime", "device", "batch", "shard_views")
# Of a recipe, what a run that updates another may have of its own.
FREE_IN_UPDATES = ("listing", "batch", "shard_views")
DECODERS = ("nvidia-dali-cuda130", "isal")
ENGINES = ("onnxruntime", "torch", "triton", "tensorrt", "tensorrt_rtx")
LIBRARIES = (*DECODERS, *ENGINES, "pycuda", "numpy", "pandas")  # that figures and runs are told with
# Of runtimes that are not called as their one library is.
LIBRARIES_OF = {
    MIXED: ENGINES,
    "emulated": ("onnxruntime",),
    "torch_cuda": ("torch",),
    "torch_fused": ("torch", "triton"),  # another Triton may compile sums of another order
}
DICOM_LIBRARIES = ("pydicom", "python-gdcm", "pyjpegls", "pylibjpeg-openjpeg")


def map_size(options: ScoreOptions, bundle: Bundle) -> int:
    """Values of a class activation map that a run keeps of each view."""
    return bundle.contract.map_size if options.heatmaps else 0


def check(options: ScoreOptions, recipe: dict[str, Any], bundle: Bundle, listing: Listing) -> None:
    """Raises UsageError where the run that is there cannot be gone on with, or updated."""
    if not recipe.keys() >= set(CHOSEN):
        raise UsageError(f"{options.out}: its {RECIPE} is not a scoring run's; choose another folder")
    if recipe["runtime"] == MIXED and not options.allow_mixed:
        raise UsageError(f"{options.out}: its run mixes runtimes; go on with --cluster and --allow-mixed")
    if options.heatmaps and not recipe.get(MAP_SIZE):
        raise UsageError(
            f"{options.out}: its run kept no class activation maps for --heatmaps; --overwrite begins anew"
        )
    asked = _asked(options, bundle, listing, recipe["runtime"])
    free: set[str] = set()
    if recipe.get("uids") is None or asked["uids"] is None:  # then no view is known again by the other's hashes
        free |= {"uids", "keep_paths", *DICOM_LIBRARIES}
    if options.update:
        free |= set(FREE_IN_UPDATES)
    elif recipe["listing"] == UPDATING:
        raise UsageError(f"{options.out}: an update was stopped before it began; run it again: --update")
    asked = {name: value for name, value in asked.items() if name not in free}
    if asked.get("uids", recipe.get("uids")) != recipe.get("uids"):  # then views have other names, too
        asked.pop("listing", None)
    check_recipe(options.out, asked)


def continued(options: ScoreOptions, recipe: dict[str, Any]) -> ScoreOptions:
    """Options of a run that goes on: those that it began with, where the user says nothing else."""
    options = replace(options, heatmaps=options.heatmaps or recipe.get("heatmaps"))
    if options.allow_mixed:
        return options
    return replace(options, runtime=recipe["runtime"], batch=options.batch or recipe["batch"])


def _decided(bundle: Bundle, listing: Listing, runtime: str) -> dict[str, Any]:
    """What decides the rows, whatever the user says."""
    return {
        "bundle": bundle.sha256,
        "archive": listing.source.root,
        "listing": listing.fingerprint(),
        "uids": listing.disclosure.tag if listing.disclosure else None,
        "keep_paths": listing.disclosure.keep_paths if listing.disclosure else None,
        "mura_trt": mura_trt.__version__,
        "own_decoder": gray.available(),
        **installed_versions(
            (
                *DECODERS,
                *LIBRARIES_OF.get(runtime, (runtime,)),
                *(DICOM_LIBRARIES if listing.disclosure else ()),
            )
        ),
    }


def begun(options: ScoreOptions, bundle: Bundle, listing: Listing, ready: worker.Ready) -> dict[str, Any]:
    """What a run that begins has in its folder."""
    return {
        **_decided(bundle, listing, ready.runtime),
        "runtime": ready.runtime,
        "device": ready.device,
        "batch": ready.batch,
        "shard_views": options.shard_views or SHARD_VIEWS[ready.device],
        MAP_SIZE: map_size(options, bundle),
        "heatmaps": options.heatmaps,
    }


def _asked(options: ScoreOptions, bundle: Bundle, listing: Listing, runtime: str) -> dict[str, Any]:
    """Of a run's recipe, what holds now: where the user leaves an option out, the run's own goes on."""
    chosen = {
        "runtime": None if options.runtime == "auto" else options.runtime,
        "device": options.device,
        "batch": options.batch,
        "shard_views": options.shard_views,
    }
    if options.allow_mixed:
        chosen |= {"runtime": MIXED, "device": MIXED}
    given = {name: value for name, value in chosen.items() if value is not None}
    return {**_decided(bundle, listing, runtime), **given}


def installed_versions(libraries: Iterable[str]) -> dict[str, str]:
    """Distribution -> version, of those that are installed."""
    versions = {}
    for name in libraries:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions

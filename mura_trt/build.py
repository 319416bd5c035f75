"""A checkpoint to an engine bundle: two ONNX graphs, and the TensorRT plan where a builder is installed."""

from __future__ import annotations

import functools
import importlib
import logging
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mura_trt
from mura_trt.bundle import FILES, Bundle, Manifest, describe_file, new_bundle, write_manifest
from mura_trt.contract import PRECISIONS, InputContract
from mura_trt.cuda_devices import cuda_device_count
from mura_trt.errors import EnvironmentProblem, UsageError
from mura_trt.files import sha256_of

# Builder as the user names it -> Python module.
BUILDERS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
# What a plan runs on. TensorRT-RTX's is its documented default; whether "and later" takes in SM90 is not said there.
TARGETS = {"tensorrt": "this machine's GPU", "tensorrt-rtx": "SM80, SM86, SM89, SM120 and later"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """What to build; the fields are the keys of a recipe file under ``engines/``."""

    name: str = "densenet169"
    precision: str = "fp16"
    """``fp32`` or ``fp16``."""
    batch: tuple[int, int, int] = (1, 64, 256)
    """Views in a batch: least, the number the plan is tuned for, and most."""
    builder: str = "auto"
    """``auto``, ``tensorrt`` (needs a GPU), ``tensorrt-rtx`` or ``none``."""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(f"precision {self.precision!r}: choose from {', '.join(PRECISIONS)}")
        if self.builder not in ("auto", "none", *BUILDERS):
            raise UsageError(f"builder {self.builder!r}: choose from auto, none, {', '.join(BUILDERS)}")
        if len(self.batch) != 3 or not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2]:
            raise UsageError(f"batch {self.batch}: three numbers, 1 <= least <= tuned for <= most")

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """A recipe file.

        Raises
        ------
        UsageError
            No such file, not TOML, or a key or value that means nothing here.
        """
        try:
            content: dict[str, Any] = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{path}: not a readable recipe: {error}") from error
        unknown = set(content) - set(cls.__dataclass_fields__)
        if unknown:
            known = ", ".join(cls.__dataclass_fields__)
            raise UsageError(f"{path}: unknown key {', '.join(sorted(unknown))}; a recipe has {known}")
        if isinstance(content.get("batch"), list):
            content["batch"] = tuple(content["batch"])
        content.setdefault("name", path.stem)
        try:
            return cls(**content)
        except (UsageError, TypeError) as error:
            raise UsageError(f"{path}: {error}") from error


def build_bundle(checkpoint: Path, recipe: Recipe, out: Path, *, overwrite: bool = False) -> Bundle:
    """Builds a bundle whole or not at all, and opens it as ``score`` will.

    Parameters
    ----------
    checkpoint
        Any file that :func:`mura_trt.checkpoint.load_checkpoint` takes.
    recipe
        What to build.
    out
        The bundle's folder.
    overwrite
        Replace a bundle that is there.

    Raises
    ------
    UsageError
        The checkpoint or the output folder cannot be used.
    EnvironmentProblem
        A library is missing, or the builder that was asked for failed.
    """
    import onnx
    import torch

    from mura_trt.checkpoint import load_checkpoint
    from mura_trt.export import export_onnx

    builder = find_builder(recipe.builder)
    with new_bundle(out, overwrite) as folder:
        model = load_checkpoint(checkpoint)
        started = time.monotonic()
        for role, precision in (("fp32_onnx", "fp32"), ("onnx", recipe.precision)):
            logger.info("exporting %s (%s)", FILES[role], precision)
            if role == "onnx" and precision == "fp32":
                (folder / FILES[role]).hardlink_to(folder / FILES["fp32_onnx"])
            else:
                export_onnx(model, folder / FILES[role], precision)
        export_seconds = time.monotonic() - started
        described = None
        if builder is None:
            logger.warning("no TensorRT builder: the bundle has no plan and scores on a CPU; pip install tensorrt-rtx")
        else:
            logger.info("building %s with %s", FILES["plan"], builder)
            described = build_plan(builder, folder / FILES["onnx"], folder / FILES["plan"], recipe.batch)
        write_manifest(
            folder,
            Manifest(
                name=recipe.name,
                precision=recipe.precision,
                contract=InputContract(),
                checkpoint_sha256=sha256_of(checkpoint),
                builder=described,
                versions={
                    "mura_trt": mura_trt.__version__,
                    "torch": str(torch.__version__),
                    "onnx": onnx.__version__,
                },
                export_seconds=round(export_seconds, 1),
                files={role: describe_file(folder / name) for role, name in FILES.items() if (folder / name).exists()},
            ),
        )
    return Bundle.open(out)


def find_builder(choice: str) -> str | None:
    """The builder to use, None for none: TensorRT needs a GPU to build, TensorRT-RTX does not.

    Raises
    ------
    EnvironmentProblem
        The builder that was asked for by name cannot work here.
    """
    if choice == "none":
        return None
    for name in BUILDERS if choice == "auto" else (choice,):
        problem = _why_not(name)
        if problem is None:
            return name
        if choice != "auto":
            raise EnvironmentProblem(f"--builder {name}: {problem}")
        logger.info("builder %s not used: %s", name, problem)
    return None


def _why_not(builder: str) -> str | None:
    if builder == "tensorrt" and cuda_device_count() == 0:
        return "it builds on the GPU it builds for, and there is none here"
    try:
        importlib.import_module(BUILDERS[builder])
    except Exception as error:  # its loader raises whatever it meets: a missing library, a stub, a driver
        return f"{BUILDERS[builder]} does not import ({error}): pip install {builder}"
    return None


def build_plan(builder: str, onnx_path: Path, plan_path: Path, batch: tuple[int, int, int]) -> dict[str, Any]:
    """Compiles an ONNX graph; returns the manifest's ``builder`` entry.

    The network is strongly typed: precision is what the graph says.

    Raises
    ------
    EnvironmentProblem
        The parser or the builder refused, with what it logged.
    """
    trt = importlib.import_module(BUILDERS[builder])
    log = _logger(trt)
    log.errors.clear()
    engine_builder = trt.Builder(log)
    network = engine_builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx_path)):
        raise EnvironmentProblem(f"{builder} cannot parse {onnx_path.name}: {parser.get_error(0).desc()}")
    config = engine_builder.create_builder_config()
    profile = engine_builder.create_optimization_profile()
    height, width, channels = tuple(network.get_input(0).shape)[1:]
    profile.set_shape("image", *((views, height, width, channels) for views in batch))
    config.add_optimization_profile(profile)
    started = time.monotonic()
    plan = engine_builder.build_serialized_network(network, config)
    if plan is None:  # it does not raise; what went wrong is in the log
        raise EnvironmentProblem(f"{builder} could not build {onnx_path.name}: {'; '.join(log.errors) or 'no reason'}")
    plan_path.write_bytes(memoryview(plan))
    return {
        "name": builder,
        "version": trt.__version__,
        "targets": TARGETS[builder],
        "batch": list(batch),
        "seconds": round(time.monotonic() - started, 1),
        "plan_bytes": plan_path.stat().st_size,
    }


def _network_flags(trt: Any) -> int:
    """TensorRT 10 must be asked for strong typing; later versions know nothing else and lack or ignore the flag."""
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if strongly_typed is None else 1 << int(strongly_typed)


@functools.cache
def _logger(trt: Any) -> Any:
    """The one logger of a TensorRT module in this process (it takes no second); keeps the errors it is told."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)
            logger.debug("%s: %s", trt.__name__, message)

    return Logger()

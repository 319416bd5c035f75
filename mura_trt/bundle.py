"""The engine bundle: a folder with everything scoring needs, and a manifest that everything in it must match."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mura_trt.caches import CacheFile
from mura_trt.contract import DENSENET169, NARROW, InputContract
from mura_trt.errors import BundleError, UsageError
from mura_trt.files import new_folder, sha256_of, write_atomically

SCHEMA = 3
OLD_SCHEMA = 2  # of bundles of DenseNet-169 alone, which say nothing of their network
MANIFEST = "bundle.json"
# Role in the bundle -> file name. The plan is missing where no builder was installed.
FILES = {"plan": "model.plan", "onnx": "model.onnx", "fp32_onnx": "model-fp32.onnx"}
CACHE = "cache"  # a folder beside them: what may be lost
REQUIRED = ("onnx", "fp32_onnx")


@dataclass(frozen=True)
class Manifest:
    """``bundle.json``: how the files came to be, and their hashes."""

    name: str
    precision: str
    """One of ``PRECISIONS``: of ``model.onnx`` and ``model.plan``."""
    contract: InputContract
    checkpoints_sha256: list[str]
    """Of the file that it was built from, with the files that hold its weights beside it, or of each member's."""
    builder: dict[str, Any] | None
    """What :func:`mura_trt.plan.build_plan` tells, how to build it again (``rebuild``), and, where the batch was
    measured, views per second by batch (``sweep``); None where there is no plan."""
    versions: dict[str, str]
    """mura_trt, torch and onnx that exported the graphs."""
    quantization: dict[str, Any] | None
    """INT8 and FP8: method, the sample that it was calibrated on, and the layers that stay in half precision."""
    bounds: dict[str, float]
    """How far its scores may be from the reference's."""
    parity: dict[str, Any] | None
    """What the check of ``build-engine`` found; None where it was left out."""
    export_seconds: float
    files: dict[str, dict[str, Any]]
    """Role -> name, bytes, sha256."""
    network: str = DENSENET169
    """Such as ``densenet169``, ``densenet169 x 3`` for an ensemble, or the name of an ONNX file."""
    imported: dict[str, Any] | None = None
    """Of an ONNX file's graph, how it takes pixels and what it gives (:class:`mura_trt.networks.told.Told`); None of a
    network that was built from PyTorch checkpoints."""
    schema: int = SCHEMA

    @property
    def reference(self) -> str:
        """What its scores are compared with, always in FP32."""
        return "PyTorch" if self.imported is None else "its ONNX file"

    @property
    def build_command(self) -> str:
        """What builds such a bundle, without its options."""
        return (
            "mura-trt build-engine --checkpoint CHECKPOINT"
            if self.imported is None
            else f"mura-trt import-onnx {self.network}.onnx"
        )

    @property
    def parity_summary(self) -> str:
        """A few words on how the bundle compares with its reference."""
        if self.parity is None:
            return f"never compared with {self.reference}"
        # What is no finite number is null in JSON.
        values = {
            (figure["level"], figure["name"]): float("nan") if figure["value"] is None else figure["value"]
            for figure in self.parity["figures"]
        }
        return (
            f"{'' if self.parity['kept'] else 'MISSES ITS BOUNDS: '}probabilities differ by"
            f" {values['model', 'dp_mean']:.1e} on average, {values['model', 'dp_max']:.1e} at most, on"
            f" {self.parity['views']} views ({self.parity['runtime']})"
        )

    def to_json(self) -> bytes:
        """The manifest as written: canonical, with a digest of itself, so that a changed byte shows."""
        return _signed(dataclasses.asdict(self))


def _signed(content: dict[str, Any]) -> bytes:
    digest = hashlib.sha256(_render(content)).hexdigest()
    return _render({**content, "digest": digest})


def _render(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every file was found to match its manifest."""

    folder: Path
    manifest: Manifest
    sha256: str
    """Of ``bundle.json``, which holds the hashes of all else: it stands for the whole bundle."""

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        """Checks a bundle without loading any part of it.

        Raises
        ------
        BundleError
            No bundle, another schema, a missing file, or a byte that differs from what was built.
        """
        manifest, sha256 = read_manifest(folder)
        for role in FILES:
            if role in manifest.files:
                if problem := file_problem(folder, manifest, role):
                    raise _refuse(folder, problem, manifest)
            elif role in REQUIRED:
                raise _refuse(folder, f"{MANIFEST} lists no {FILES[role]}", manifest)
        return cls(folder, manifest, sha256)

    @property
    def contract(self) -> InputContract:
        """What the graphs take."""
        return self.manifest.contract

    def require_map(self) -> None:
        """Raises UsageError where its graph has no class activation map."""
        if self.contract.map_shape is None:
            raise UsageError(
                f"{self.folder}: this bundle's graph has no class activation map, for it does not end in a global"
                " average pool and one linear layer; score without heatmaps"
            )

    def require_proof(self) -> None:
        """Raises BundleError where its check was left out or missed a bound."""
        found = self.manifest.parity
        if found and found["kept"]:
            return
        missed = (
            [f"{one['level']}.{one['name']}" for one in found["figures"] if not one.get("kept", True)] if found else []
        )
        reason = (
            f"missed {', '.join(missed)} when it was built"
            if found
            else (f"was never compared with {self.manifest.reference}")
        )
        made_from = "CHECKPOINT" if self.manifest.imported is None else f"{self.manifest.network}.onnx"
        raise BundleError(
            f"{self.folder}: this bundle {reason}; look with mura-trt parity {self.folder} ARCHIVE --checkpoint"
            f" {made_from}, or score with --allow-unproven"
        )

    def path(self, role: str) -> Path:
        """The file of a role: ``onnx``, ``fp32_onnx``, or ``plan`` where the manifest names a builder."""
        return self.folder / FILES[role]

    def cache(self, *key: str) -> CacheFile:
        """A file that saves time to who loads the bundle, under a name made of the key's parts.

        It lies in the bundle's folder, goes with it and is no part of it: no hash holds it, it may be lost at any time,
        and where the folder cannot be written to there is none.
        """
        return CacheFile.named(self.folder / CACHE, *key)


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """A bundle's manifest, itself checked, and its SHA-256; of the other files it looks at none.

    Raises
    ------
    BundleError
        No bundle, another schema, or a manifest that was changed.
    """
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
    except NotADirectoryError:
        raise BundleError(
            f"{folder}: a file, and an engine bundle is a folder; make one of a checkpoint with: mura-trt build-engine"
            f" --checkpoint {folder} -o FOLDER"
        ) from None
    except OSError as error:
        raise BundleError(
            f"{folder}: no engine bundle there ({MANIFEST}: {error.strerror});"
            f" build one with: mura-trt build-engine --checkpoint CHECKPOINT -o {folder}"
        ) from error
    return _parse(raw, folder), hashlib.sha256(raw).hexdigest()


def _parse(raw: bytes, folder: Path) -> Manifest:
    try:
        content = json.loads(raw)
        schema = content["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise _refuse(folder, f"{MANIFEST} is not a bundle's manifest") from error
    if schema not in (OLD_SCHEMA, SCHEMA):
        raise _refuse(folder, f"{MANIFEST} has schema {schema}, and this version of mura-trt reads {SCHEMA}")
    content.pop("digest", None)
    written = _signed(content)
    try:
        contract = content.pop("contract")
        if schema == OLD_SCHEMA:
            stride = contract.pop("stride")
            contract["map_shape"] = [contract["height"] // stride, contract["width"] // stride]
            content["schema"] = SCHEMA
        for numbers in ("mean", "std", "map_shape"):
            if contract[numbers] is not None:
                contract[numbers] = tuple(contract[numbers])
        manifest = Manifest(contract=InputContract(**contract), **content)
    except (KeyError, TypeError) as error:
        raise _refuse(folder, f"{MANIFEST} lacks a field or has one too many") from error
    if written != raw:
        raise _refuse(folder, f"{MANIFEST} was changed after it was written", manifest)
    return manifest


def file_problem(folder: Path, manifest: Manifest, role: str) -> str | None:
    """What is wrong with a file that the manifest lists; None where it is as it was built."""
    path, said = folder / FILES[role], manifest.files[role]
    try:
        size = path.stat().st_size
        if size != said["bytes"]:
            return f"{path.name} has {size} bytes instead of {said['bytes']}"
        if sha256_of(path) != said["sha256"]:
            return f"{path.name} differs from what was built (SHA-256)"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return None


def _refuse(folder: Path, reason: str, manifest: Manifest | None = None) -> BundleError:
    built = manifest.builder if manifest else None
    if built and "rebuild" in built:
        command = built["rebuild"]
    else:
        precision = manifest.precision if manifest else "fp16"
        calibrate = " --calibrate ARCHIVE" if precision in NARROW else ""
        build = manifest.build_command if manifest else "mura-trt build-engine --checkpoint CHECKPOINT"
        command = f"{build} --precision {precision}{calibrate} -o {folder} --overwrite"
    return BundleError(f"{folder}: {reason}; copy the bundle again or rebuild it: {command}")


@contextmanager
def new_bundle(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A scratch folder that becomes ``folder`` when the block ends well, and vanishes when it does not.

    Raises
    ------
    UsageError
        ``folder`` is there already and ``overwrite`` is not set, or it is no bundle, or holds more than that, or cannot
        be replaced.
    """
    if folder.exists():
        held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if not folder.is_dir() or (held and MANIFEST not in held):
            raise UsageError(f"{folder} exists and is no engine bundle; choose another output folder")
        if held and not overwrite:
            raise UsageError(f"{folder} exists; add --overwrite to replace this bundle, or choose another folder")
        if others := sorted(held - {MANIFEST, CACHE, *FILES.values()}):
            raise UsageError(
                f"{folder} holds more than its bundle ({', '.join(others[:3])}{', ...' if len(others) > 3 else ''}),"
                " which would be gone; move that away, or choose another folder"
            )
        if folder.resolve().is_mount():
            raise UsageError(f"{folder} is a mount point, which nothing can take the place of; name a folder in it")
    with new_folder(folder) as scratch:
        yield scratch


def describe_file(path: Path) -> dict[str, Any]:
    """The manifest's entry for one file."""
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes ``bundle.json``, last of a bundle's files."""
    write_atomically(folder / MANIFEST, manifest.to_json())

"""What a bundle is judged by, of whichever kind its network is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mura_trt.bundle import Manifest
from mura_trt.errors import UsageError
from mura_trt.files import sha256_of
from mura_trt.networks.checkpoints import Checkpoints
from mura_trt.networks.reading import files_of
from mura_trt.networks.told import Facts
from mura_trt.parity.onnx_reference import OnnxReference
from mura_trt.parity.reference import Reference


def reference_of(manifest: Manifest, paths: Sequence[Path], ranges: bool) -> tuple[Reference, list[str]]:
    """What a bundle is judged by, from the files that a user names, and their SHA-256.

    Parameters
    ----------
    manifest
        The bundle's: it says what kind of network they are of.
    paths
        Checkpoints, or the ONNX file.
    ranges
        Have it note how large its values become.

    Raises
    ------
    UsageError
        They are of the other kind, or cannot be used.
    """
    graphs = [path for path in paths if path.suffix.lower() == ".onnx"]
    if manifest.imported is None:
        if graphs:
            raise UsageError(
                f"{graphs[0]}: the bundle was built from PyTorch checkpoints, by build-engine; name these with"
                " --checkpoint"
            )
        origin = Checkpoints(paths)
        return origin.reference(ranges), origin.sha256
    if len(paths) != 1:
        raise UsageError(f"the bundle is of one ONNX file, by import-onnx, and --checkpoint names {len(paths)} files")
    (path,) = paths
    hashes = [sha256_of(file) for file in files_of(path)]
    return OnnxReference(path, manifest.contract, Facts.of(manifest.imported), ranges), hashes

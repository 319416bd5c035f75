"""A wrapped graph tried out against its file, on pictures drawn for that, before a bundle is made of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mura_trt.contract import InputContract
from mura_trt.errors import UsageError
from mura_trt.networks.original import OnnxSession, Original
from mura_trt.networks.told import Facts

if TYPE_CHECKING:
    from onnx import ModelProto

BATCHES = (1, 2, 3)
# Of single precision, whose sums come out otherwise in other orders: |difference| <= CLOSE * (1 + |logit|), and of
# probabilities CLOSE. A wrong number, layout or column is off by far more.
CLOSE = 1e-3
FLAT = (0, 128, 255)  # gray levels

logger = logging.getLogger(__name__)


def pictures(height: int, width: int) -> NDArray[np.uint8]:
    """uint8 (3, H, W, 1): bright shapes with soft edges on a dark ground, and noise; no picture is like another."""
    random = np.random.default_rng(5)
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    found = []
    for _ in range(max(BATCHES)):
        gray = 30 + 40 * rows
        for row, column, level in random.random((6, 3)):
            gray = gray + 160 * level * np.exp(-60 * ((rows - row) ** 2 + (columns - column) ** 2))
        found.append(np.clip(gray + random.normal(0, 12, gray.shape), 0, 255))
    return np.rint(found).astype(np.uint8)[..., None]


def agrees(graph: ModelProto, path: Path, contract: InputContract, facts: Facts) -> bool:
    """Whether a wrapped graph gives what its file does, on one picture at a time."""
    pixels = pictures(*contract.size)
    return _close(_of(graph, path, pixels, 1), _one_by_one(Original(path, contract, facts), pixels))


def try_out(graph: ModelProto, path: Path, contract: InputContract, facts: Facts) -> None:
    """Has batches of one, two and three pictures scored, and flat pictures, which real archives have, too.

    Parameters
    ----------
    graph
        What becomes a bundle's FP32 graph.
    path
        The file that it is of.
    contract, facts
        What it takes and gives.

    Raises
    ------
    UsageError
        It scores a picture otherwise than the file does, or otherwise in other company, or gives no finite number.
    """
    pixels = pictures(*contract.size)
    original = Original(path, contract, facts)
    theirs = _one_by_one(original, pixels)
    if not all(np.isfinite(part).all() for part in theirs):
        raise UsageError(
            f"{path}: its graph gives {theirs[1].tolist()} for ordinary pictures; look at its weights, and whether"
            " --mean, --std and --pixels are those of its training"
        )
    found = {1: _of(graph, path, pixels, 1)}
    for size in BATCHES[1:]:
        try:
            found[size] = _of(graph, path, pixels, size)
        except UsageError as error:
            raise UsageError(_fixed(path, facts, f"on {size} pictures it fails ({_last_line(error)})")) from error
        if not _close(found[size], found[1]):
            off = float(np.abs(found[size][0] - found[1][0]).max())
            raise UsageError(
                _fixed(path, facts, f"a picture's probability changes by {off:.2g} with {size} in its batch")
            )
    if not _close(found[1], theirs):
        off = float(np.abs(found[1][0] - theirs[0]).max())
        raise UsageError(
            f"{path}: as a bundle's graph it would score otherwise than the file itself (a probability by {off:.2g}):"
            " a graph that does not give the same twice (random numbers, dropout left on), to be exported in evaluation"
            " mode, model.eval(); or a fault of mura-trt"
        )
    _try_flat(original, path, contract)


def _fixed(path: Path, facts: Facts, what: str) -> str:
    if facts.batch is not None:
        return (
            f"{path}: its graph was exported for a batch of {facts.batch}, and cannot be made to take any number:"
            f" {what}; export it again with a dynamic batch axis: torch.onnx.export(..., dynamic_shapes=({{0:"
            " torch.export.Dim('batch')},), dynamo=True), from an example of two pictures"
        )
    return (
        f"{path}: its graph does not score each picture by itself: {what}; export it in evaluation mode, model.eval(),"
        " and with a dynamic batch axis from an example of two pictures"
    )


def _try_flat(original: Original, path: Path, contract: InputContract) -> None:
    shape = *contract.size, 1
    levels = [
        level for level in FLAT if not np.isfinite(original.scores(np.full((1, *shape), level, np.uint8))[1]).all()
    ]
    if levels:
        logger.warning(
            "%s gives no finite number for a picture that is %s all over (does it divide by the picture's own"
            " deviation?): such views will be failures, NOT_FINITE, and no others",
            path, " or ".join(map(str, levels)),
        )  # fmt: skip


Found = tuple[NDArray[np.float32], NDArray[np.float32]]


def _one_by_one(original: Original, pixels: NDArray[np.uint8]) -> Found:
    parts = [original.scores(pixels[at : at + 1]) for at in range(len(pixels))]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _of(graph: ModelProto, path: Path, pixels: NDArray[np.uint8], size: int) -> Found:
    """Probability and logit (n,) of a wrapped graph; the last batch is smaller where there are not enough pictures."""
    session = OnnxSession(graph.SerializeToString(), path)
    parts = [
        session.run("image", pixels[start : start + size], ["probability", "logit"])
        for start in range(0, len(pixels), size)
    ]
    probability, logit = (np.concatenate(column) for column in zip(*parts, strict=True))
    if probability.shape != (len(pixels),):
        raise UsageError(f"{path}: {len(pixels)} pictures give scores of shape {probability.shape}")
    return probability, logit


def _close(ours: Found, theirs: Found) -> bool:
    probability, logit = np.abs(ours[0] - theirs[0]), np.abs(ours[1] - theirs[1])
    return bool((probability <= CLOSE).all() and (logit <= CLOSE * (1 + np.abs(theirs[1]))).all())


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]

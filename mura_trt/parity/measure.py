"""A runtime and the reference over the same views: pixels of both decoders, scores of both networks."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mura_trt.archives.listing import Listing
from mura_trt.contract import InputContract
from mura_trt.errors import UsageError
from mura_trt.parity.reference import Reference
from mura_trt.pixels import decoded_listing
from mura_trt.rows import Failure
from mura_trt.runtimes import Session

PILLOW_VIEWS = 32  # that the reference scores once more with Pillow's pixels


@dataclass
class Measured:
    """What was found on n views, of which some may have no pixels.

    Attributes
    ----------
    rows
        int64 (n,): the views' numbers in the listing.
    probability, logit, true_probability, true_logit
        float32 (n,): the runtime's and the reference's, of the same pixels.
    inside, border
        int64 (n,): gray levels by which our pixels differ from Pillow's at most, but for the outermost ones, and there;
        -1 where Pillow cannot read the file.
    colored
        bool (n,): whether the file stores color.
    pillow_dp
        float32 (k,): what Pillow's pixels in place of ours do to the reference's probability, of the first views.
    company_dp
        How far a view's probability depends on how many others are in its batch, at the most, in one full batch.
    largest
        Layer -> the largest absolute value that the reference saw come out of it.
    half_dp
        float32 (h,): what half-precision arithmetic on the CPU does to the probability, of views of the first batch.
    failures
        Views without pixels.
    """

    rows: NDArray[np.int64]
    probability: NDArray[np.float32]
    logit: NDArray[np.float32]
    true_probability: NDArray[np.float32]
    true_logit: NDArray[np.float32]
    inside: NDArray[np.int64]
    border: NDArray[np.int64]
    colored: NDArray[np.bool_]
    pillow_dp: NDArray[np.float32]
    company_dp: float
    largest: dict[str, float]
    half_dp: NDArray[np.float32]
    failures: list[Failure]


def measure(
    listing: Listing,
    contract: InputContract,
    session: Session,
    reference: Reference,
    half_views: int,
    report: Callable[[str], None] = lambda _: None,
) -> Measured:
    """Scores every view of a listing both ways.

    Parameters
    ----------
    listing
        The views.
    contract
        The size of the pixels.
    session
        The runtime to judge.
    reference
        What it is judged by.
    half_views
        How many views go through half-precision arithmetic, too.
    report
        Takes a line on how far it has come.

    Raises
    ------
    UsageError
        No view has pixels.
    """
    failures: list[Failure] = []
    pillow_dp = half_dp = np.empty(0, np.float32)
    company_dp = 0.0
    columns: dict[str, list[NDArray[np.generic]]] = {}
    count = len(listing)
    done = 0
    for decoded in decoded_listing(listing, contract.size):
        failures += decoded.failures
        if not decoded.views:
            continue
        pixels = decoded.pixels.copy()
        probability, logit = in_batches(session, pixels, session.batch)
        true_probability, true_logit = reference.scores(pixels)
        read, theirs = _pillows(decoded.files, contract.size)
        inside, border = (np.full(len(pixels), -1) for _ in range(2))
        inside[read], border[read] = _differences(pixels[read], theirs)
        if not done:
            few = read[:PILLOW_VIEWS]
            if len(few):
                pillow_dp = np.abs(reference.scores(theirs[: len(few)])[0] - true_probability[few])
            company_dp = _company(session, pixels[: session.batch])
            if half_views:
                report(f"half precision on the CPU, {half_views} views")
                spread = np.unique(np.linspace(0, len(pixels) - 1, half_views).round().astype(np.int64))
                half_dp = np.abs(reference.half_scores(pixels[spread]) - true_probability[spread])
        row = {
            "rows": np.array(decoded.views),
            "probability": probability,
            "logit": logit,
            "true_probability": true_probability,
            "true_logit": true_logit,
            "inside": inside,
            "border": border,
            "colored": np.array(decoded.color, bool),
        }
        for name, values in row.items():
            columns.setdefault(name, []).append(values)
        done += len(decoded.views)
        report(f"compared {done} of {count} views")
    if not done:
        raise UsageError(f"none of the {count} views has pixels; the first: {failures[0].message}")
    whole: dict[str, Any] = {name: np.concatenate(parts) for name, parts in columns.items()}
    largest = dict(reference.largest)
    return Measured(
        **whole, pillow_dp=pillow_dp, company_dp=company_dp, largest=largest, half_dp=half_dp, failures=failures
    )


def pillow_pixels(data: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 (H, W, 1): an image file as Pillow decodes, grays (ITU-R 601) and resizes it (antialiased bilinear)."""
    from PIL import Image

    height, width = size
    with Image.open(io.BytesIO(data)) as image:
        resized = image.convert("L").resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)[..., None]


def _pillows(files: list[bytes], size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Which of the files Pillow reads, and their pixels (k, H, W, 1)."""
    read, pixels = [], []
    for at, data in enumerate(files):
        try:
            pixels.append(pillow_pixels(data, size))
        except Exception:  # its plugins raise whatever they meet; DALI has read the file
            continue
        read.append(at)
    return np.array(read, np.int64), np.array(pixels, np.uint8).reshape(len(read), *size, 1)


def _differences(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of (n, H, W, 1) pixels, the largest difference in each view inside, and on the outermost pixels."""
    difference = np.abs(ours.astype(np.int64) - theirs)[..., 0]
    inside = difference[:, 1:-1, 1:-1].max((1, 2), initial=0)
    difference[:, 1:-1, 1:-1] = 0
    return inside, difference.max((1, 2), initial=0)


def _company(session: Session, pixels: NDArray[np.uint8]) -> float:
    """How far a view's probability depends on the size of its batch and on its place there."""

    together, sevens, alone = (in_batches(session, pixels, size)[0] for size in (len(pixels), 7, 1))
    return float(np.max(np.abs([together - sevens, together - alone])))


def in_batches(
    session: Session, pixels: NDArray[np.uint8], size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probability and logit; copied batch by batch, for a session may give the same memory each time."""
    size = min(size, session.batch)
    parts = []
    for start in range(0, len(pixels), size):
        scores = session.run(pixels[start : start + size])
        parts.append((scores.probability.copy(), scores.logit.copy()))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

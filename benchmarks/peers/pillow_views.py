"""Pixels by Pillow, for runtimes that take a graph of raw pixels: one file after another, or some batches ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.peers.script import SIZE

AHEAD = 2  # batches


def load(path: Path) -> NDArray[np.uint8]:
    """uint8 (320, 320, 1)."""
    with Image.open(path) as image:
        gray = image.convert("L").resize(SIZE, Image.Resampling.BILINEAR)
    return np.array(gray)[..., None]  # a copy that may be written to, which PyTorch wants


def runs_of(views: Sequence[Path], batch: int) -> list[Sequence[Path]]:
    """The views, so many at a time."""
    return [views[at : at + batch] for at in range(0, len(views), batch)]


def batches(views: Sequence[Path], batch: int, threads: int) -> Iterator[NDArray[np.uint8]]:
    """Pixels, uint8 (batch, 320, 320, 1): in so many threads ahead of whoever takes them; with none, when asked."""
    if threads == 0:
        yield from (np.stack([load(view) for view in run]) for run in runs_of(views, batch))
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[list[Future[NDArray[np.uint8]]]] = deque()
        for run in runs_of(views, batch):
            waiting.append([pool.submit(load, view) for view in run])
            if len(waiting) > AHEAD:
                yield np.stack([view.result() for view in waiting.popleft()])
        while waiting:
            yield np.stack([view.result() for view in waiting.popleft()])

"""What every runtime offers: a session that takes gray pixels and gives scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mura_trt.contract import InputContract


class Scores(NamedTuple):
    """Of n views, float32: ``probability`` (n,), ``logit`` (n,) and class activation map ``cam`` (n, h, w)."""

    probability: NDArray[np.float32]
    logit: NDArray[np.float32]
    cam: NDArray[np.float32]


@dataclass(frozen=True)
class SessionOptions:
    """How a session may use the machine."""

    batch: int | None = None
    """Views in a batch; None takes what suits the runtime."""
    null_ms: float = 0.0
    """The ``null`` runtime's time for a batch, in milliseconds."""
    device: int = 0
    """Of a runtime on GPUs: the GPU's number, as the CUDA driver counts them."""


class Session(ABC):
    """One model on one device, open until ``close``."""

    name: str
    """The runtime's name, as in ``--runtime``."""
    device: str = "cpu"
    """``cpu`` or ``cuda``."""

    def __init__(self, contract: InputContract, batch: int) -> None:
        self.batch = batch
        """The most views in a batch."""
        self._shape = (contract.height, contract.width, 1)
        self._map_shape = contract.map_shape

    def run(self, images: NDArray[np.uint8]) -> Scores:
        """Scores a batch; the arrays may be the session's own and are reused by the next call.

        Parameters
        ----------
        images
            uint8 (n, H, W, 1), gray levels 0..255, 1 <= n <= ``batch``, H and W as in the bundle.

        Raises
        ------
        ValueError
            Another dtype or shape.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self._shape or not 1 <= len(images) <= self.batch:
            height, width, _ = self._shape
            raise ValueError(
                f"{self.name} takes uint8 (1..{self.batch}, {height}, {width}, 1), not {images.dtype} {images.shape}"
            )
        return self._run(images)

    @abstractmethod
    def _run(self, images: NDArray[np.uint8]) -> Scores: ...

    def close(self) -> None:  # noqa: B027  most runtimes free what they hold with the object
        """Gives back what the session holds outside Python's memory."""

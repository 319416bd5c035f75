"""What every runtime offers: a session that takes gray pixels and gives scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mura_trt.contract import InputContract


class Scores(NamedTuple):
    """Of n views, float32: ``probability`` (n,), ``logit`` (n,) and class activation map ``cam`` (n, h, w).

    ``cam`` is None where the bundle's graph has no map.
    """

    probability: NDArray[np.float32]
    logit: NDArray[np.float32]
    cam: NDArray[np.float32] | None = None


class Piece(NamedTuple):
    """Gray pixels in a GPU's memory, one behind the other: uint8 (``rows``, H, W, 1) from ``address`` on."""

    address: int
    rows: int
    owner: object
    """The memory is whole as long as this lives."""


class DevicePixels:
    """A batch for a GPU, as its pieces in order.

    One piece in the GPU's memory, but where its decoding had to be done in parts; what the host has decoded is still in
    its memory, uint8 (rows, H, W, 1).
    """

    def __init__(self, pieces: Sequence[Piece | NDArray[np.uint8]]) -> None:
        self.pieces = pieces

    def __len__(self) -> int:
        return sum(piece.rows if isinstance(piece, Piece) else len(piece) for piece in self.pieces)

    @classmethod
    def joined(cls, parts: Iterable[DevicePixels | NDArray[np.uint8]]) -> DevicePixels:
        """Batches one behind the other."""
        return cls([piece for part in parts for piece in (part.pieces if isinstance(part, DevicePixels) else (part,))])


Pixels = NDArray[np.uint8] | DevicePixels


class GpuStream(NamedTuple):
    """A CUDA stream by its handle, and the number of the GPU that it is on."""

    gpu: int
    handle: int


@dataclass(frozen=True)
class SessionOptions:
    """How a session may use the machine."""

    batch: int | None = None
    """Views in a batch; None takes what suits the runtime."""
    null_ms: float = 0.0
    """The ``null`` runtime's time for a batch, in milliseconds."""
    cuda_graphs: bool | None = None
    """Whether a batch is one CUDA graph, where the runtime can do with and without; None takes what suits it."""
    device: int = 0
    """Of a runtime on GPUs: the GPU's number, as the CUDA driver counts them."""


class Session(ABC):
    """One model on one device, open until ``close``. Batches go in by ``submit`` and come out in order by ``collect``.

    Attributes
    ----------
    batch
        The most views in a batch.
    pending
        Batches submitted and not collected.
    """

    name: str
    """The runtime's name, as in ``--runtime``."""
    depth = 1
    """So many batches may be pending."""
    stream: GpuStream | None = None
    """Of a session on a GPU: where pixels in the GPU's memory must be ready. Others take pixels in the host's only."""

    def __init__(self, contract: InputContract, batch: int) -> None:
        self.batch = batch
        self.pending = 0
        self._contract = contract
        self._shape = (*contract.size, 1)

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""
        return "cpu" if self.stream is None else "cuda"

    @property
    def room(self) -> bool:
        """Whether a batch may be submitted before one is collected."""
        return self.pending < self.depth

    def run(self, images: Pixels) -> Scores:
        """Scores a batch, with no other pending: ``submit`` and ``collect``."""
        self.submit(images)
        return self.collect()

    def submit(self, images: Pixels) -> None:
        """Takes a batch, and does not wait for what a GPU does with it.

        Parameters
        ----------
        images
            uint8 (n, H, W, 1), gray levels 0..255, 1 <= n <= ``batch``, H and W as in the bundle; in the host's memory,
            or in the GPU's, ready on ``stream``.

        Raises
        ------
        ValueError
            Another dtype or shape, memory of a GPU that this session knows nothing of, or no ``room``.
        """
        height, width, _ = self._shape
        if isinstance(images, DevicePixels):
            fits, given = self.stream is not None and 1 <= len(images) <= self.batch, f"{len(images)} views on a GPU"
        else:
            fits = images.dtype == np.uint8 and images.shape[1:] == self._shape and 1 <= len(images) <= self.batch
            given = f"{images.dtype} {images.shape}"
        if not fits:
            raise ValueError(f"{self.name} takes uint8 (1..{self.batch}, {height}, {width}, 1), not {given}")
        if not self.room:
            raise ValueError(f"{self.name} has {self.pending} batches that nobody has collected")
        self._submit(images)
        self.pending += 1

    def collect(self) -> Scores:
        """Waits for the oldest batch; the arrays may be the session's own, which the next ``submit`` uses again."""
        scores = self._collect()
        self.pending -= 1
        return scores

    @abstractmethod
    def _submit(self, images: Pixels) -> None: ...

    @abstractmethod
    def _collect(self) -> Scores: ...

    def close(self) -> None:  # noqa: B027  most runtimes free what they hold with the object
        """Gives back what the session holds outside Python's memory."""


class HostSession(Session):
    """A model that computes in the calling thread, when its scores are wanted."""

    def __init__(self, contract: InputContract, batch: int) -> None:
        super().__init__(contract, batch)
        self._waiting: deque[NDArray[np.uint8]] = deque()

    def _submit(self, images: Pixels) -> None:
        assert isinstance(images, np.ndarray)
        self._waiting.append(images)

    def _collect(self) -> Scores:
        return self._run(self._waiting.popleft())

    @abstractmethod
    def _run(self, images: NDArray[np.uint8]) -> Scores: ...

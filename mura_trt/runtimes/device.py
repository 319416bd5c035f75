"""Batches in flight on a GPU: the order of copies, computing and waiting, whatever computes.

    decoder's stream --(ready)--> compute: [gather] launch --(computed)--> copy back: the outputs --(copied)--> host

A batch that the decoder left whole in the GPU's memory is computed on where it lies; any other is gathered in the
session's own. The host waits for ``copied`` of the oldest batch only, with the younger ones queued behind it.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mura_trt.contract import InputContract
from mura_trt.errors import RuntimeUnavailable
from mura_trt.runtimes.base import DevicePixels, GpuStream, Piece, Pixels, Scores, Session
from mura_trt.runtimes.cuda import Device, Event, Stream


class Output(NamedTuple):
    """A tensor's two homes: ``address`` in the GPU's memory and ``host``, pinned, float32 (batch, ...)."""

    address: int
    host: NDArray[np.float32]


@dataclass
class Slot:
    """What one batch in flight has for itself."""

    image: int
    """Address of pixels, uint8 (batch, H, W, 1), where they do not lie together elsewhere."""
    outputs: dict[str, Output]
    """``probability``, ``logit`` and, where the graph has a map, ``cam``."""
    computed: Event
    copied: Event
    staged: NDArray[np.uint8]
    """Pinned memory for pixels that come from the host's memory."""
    views: int = 0
    pieces: list[Piece | NDArray[np.uint8]] = field(default_factory=list)
    """The batch's pixels, kept whole until they are computed on."""


class DeviceSession(Session):
    """A model on a GPU, with up to ``depth`` batches in flight; one thread's.

    Parameters
    ----------
    contract, batch
        As for :class:`Session`.
    gpu
        The device; closed with the session, also with one that does not come to be.

    Raises
    ------
    RuntimeUnavailable
        The model does not load, or a first batch fails.
    """

    depth = 3  # one computes, one waits behind it, and one is handed over

    def __init__(self, contract: InputContract, batch: int, gpu: Device) -> None:
        super().__init__(contract, batch)
        self._gpu = gpu
        self._free: deque[Slot] = deque()
        self._flying: deque[Slot] = deque()
        try:
            self._compute, self._copy_back = gpu.stream(), gpu.stream()
            self.stream = GpuStream(gpu.ordinal, self._compute.handle)
            self._free.extend(self._slot() for _ in range(self.depth))
            self._load()
            self._try_out()
        except BaseException as error:
            self.close()  # the next runtime must not find our context on its thread
            if isinstance(error, (RuntimeError, gpu.error)):
                raise RuntimeUnavailable(f"no batch of {batch} views can be computed on {gpu.name}: {error}") from error
            raise

    def _load(self) -> None:
        """Makes ready what ``_launch`` needs, with streams and memory there."""

    def _try_out(self) -> None:
        """Runs a first batch: what cannot work shows when the session is opened, and what is compiled late is."""
        self.run(DevicePixels([Piece(self._free[0].image, self.batch, None)]))

    @abstractmethod
    def _launch(self, image: int, outputs: dict[str, Output], stream: Stream) -> None:
        """Starts a whole batch on the stream: from pixels at an address to the outputs' addresses."""

    def _release(self) -> None:
        """Gives back what ``_load`` has got so far, with nothing in flight and the context still there."""

    def _slot(self) -> Slot:
        outputs = {}
        for name in self._contract.outputs:
            host = self._gpu.pinned((self.batch, *self._contract.output_shape(name)), np.float32)
            outputs[name] = Output(self._gpu.memory(host.nbytes), host)
        staged = self._gpu.pinned((self.batch, *self._shape), np.uint8)
        image = self._gpu.memory(staged.nbytes)
        return Slot(image, outputs, self._gpu.event(), self._gpu.event(), staged)

    @property
    def _view_bytes(self) -> int:
        return int(np.prod(self._shape))

    def _submit(self, images: Pixels) -> None:
        slot = self._free.popleft()
        slot.views = len(images)
        # Always a full batch, the rest of a short one being what lies there from before: another shape would have other
        # kernels, and a view's score would hang on its company.
        slot.pieces = [*images.pieces] if isinstance(images, DevicePixels) else [images]
        first = slot.pieces[0]
        if len(slot.pieces) == 1 and isinstance(first, Piece) and first.rows == self.batch:
            address = first.address
        else:
            address = slot.image
            self._gather(slot)
        self._launch(address, slot.outputs, self._compute)
        slot.computed.record(self._compute)
        self._copy_back.wait_for_event(slot.computed)
        for address, host in slot.outputs.values():
            self._gpu.download(host[: slot.views], address, self._copy_back)
        slot.copied.record(self._copy_back)
        self._flying.append(slot)

    def _gather(self, slot: Slot) -> None:
        """A batch's pieces to the memory that the session has for them; those on the host, by way of pinned memory."""
        at = 0
        for piece in slot.pieces:
            address = slot.image + at * self._view_bytes
            if isinstance(piece, Piece):
                self._gpu.copy(address, piece.address, piece.rows * self._view_bytes, self._compute)
                at += piece.rows
            else:
                staged = slot.staged[at : at + len(piece)]
                staged[:] = piece
                self._gpu.upload(address, staged, self._compute)
                at += len(piece)

    def _collect(self) -> Scores:
        slot = self._flying.popleft()
        slot.copied.synchronize()
        slot.pieces.clear()  # copied comes after computed, so nothing reads them any more
        self._free.append(slot)
        return Scores(*(slot.outputs[name].host[: slot.views] for name in self._contract.outputs))

    def close(self) -> None:
        """Waits for what is in flight, and gives memory and context back, however far the session has come."""
        with contextlib.suppress(self._gpu.error):  # of a GPU that has failed, nothing comes any more
            for slot in self._flying:
                slot.copied.synchronize()
        self._flying.clear()
        self._release()
        self._free.clear()
        self._compute = self._copy_back = None  # type: ignore[assignment]  # gone before their context is
        self._gpu.close()

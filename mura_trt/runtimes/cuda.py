"""Streams, events, memory and copies on the GPU's primary context: the only module that touches PyCUDA.

The primary context is the one that torch and DALI use, so that all of them can work on one another's memory.
"""

from __future__ import annotations

import contextlib
import ctypes
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from mura_trt.cuda_devices import LIBRARY, GpuKind, cuda_device_count
from mura_trt.errors import RuntimeUnavailable

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: nothing that others do on the default stream holds this one up


class Event(Protocol):
    """A mark in a stream, as PyCUDA's."""

    def record(self, stream: Stream) -> Any:
        """Sets the mark behind everything that the stream was given so far."""

    def synchronize(self) -> Any:
        """Waits, asleep, until the stream has come to the mark."""


class Stream(Protocol):
    """Work in order, as PyCUDA's."""

    @property
    def handle(self) -> int:
        """CUDA's handle."""

    def wait_for_event(self, event: Event) -> Any:
        """Whatever comes after waits until the mark is reached; the caller does not."""


class Device:
    """One GPU, its primary context current on this thread from here to ``close``, or to the end of a ``with``.

    Copies are started, not waited for; memory that one reads or writes must stay as it is until its stream is through.

    Attributes
    ----------
    error
        What its methods, and those of its streams and events, raise where CUDA refuses; no RuntimeError.

    Raises
    ------
    RuntimeUnavailable
        No such GPU, no PyCUDA, or CUDA refuses (the GPU is taken exclusively, or has no memory left).
    """

    def __init__(self, ordinal: int = 0) -> None:
        if cuda_device_count() <= ordinal:
            raise RuntimeUnavailable(f"no CUDA device {ordinal} here (the driver's libcuda.so.1 reports too few)")
        try:
            import pycuda.driver as driver
        except ImportError as error:
            raise RuntimeUnavailable(
                f"PyCUDA does not import ({error}): pip install pycuda, which needs nvcc"
            ) from error
        self._driver = driver
        self.error: type[Exception] = driver.Error
        self._memory: list[Any] = []
        self._pinned: list[NDArray[Any]] = []
        self.ordinal = ordinal
        try:
            driver.init()
            self._before = _current_context()
            device = driver.Device(ordinal)
            self.kind = GpuKind(device.name(), device.compute_capability())
            self._context = device.retain_primary_context()
            self._context.push()
        except driver.Error as error:
            raise RuntimeUnavailable(f"CUDA device {ordinal} cannot be used: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The GPU's, as the driver has it."""
        return self.kind.name

    def stream(self) -> Stream:
        """A new stream."""
        stream: Stream = self._driver.Stream(NON_BLOCKING)
        return stream

    def event(self) -> Event:
        """A new event, on which a thread waits without keeping a core busy."""
        flags = self._driver.event_flags
        event: Event = self._driver.Event(flags.BLOCKING_SYNC | flags.DISABLE_TIMING)
        return event

    def memory(self, nbytes: int) -> int:
        """The address of new device memory, whatever is in it, that lives until ``close``."""
        try:
            self._memory.append(self._driver.mem_alloc(nbytes))
        except self._driver.Error as error:
            raise RuntimeUnavailable(
                f"no memory on {self.name} for a batch: {error}; give a smaller --batch"
            ) from error
        return int(self._memory[-1])

    def pinned(self, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        """New host memory that copies to and from the GPU need not stop for; it lives until ``close``."""
        try:
            self._pinned.append(self._driver.pagelocked_empty(shape, dtype))
        except self._driver.Error as error:
            raise RuntimeUnavailable(f"no page-locked memory for a batch: {error}; give a smaller --batch") from error
        return self._pinned[-1]

    def upload(self, address: int, host: NDArray[Any], stream: Stream) -> None:
        """Starts copying an array of pinned memory to the device."""
        self._driver.memcpy_htod_async(address, host, stream)

    def download(self, host: NDArray[Any], address: int, stream: Stream) -> None:
        """Starts filling an array of pinned memory from the device."""
        self._driver.memcpy_dtoh_async(host, address, stream)

    def copy(self, to: int, address: int, nbytes: int, stream: Stream) -> None:
        """Starts copying from one place of the device's memory to another."""
        self._driver.memcpy_dtod_async(to, address, nbytes, stream)

    def free_bytes(self) -> int:
        """How much of the device's memory nobody has."""
        return int(self._driver.mem_get_info()[0])

    def close(self) -> None:
        """Gives memory back while its context is still current, and takes that off this thread; once only.

        Streams, events and pinned arrays must not be used after, and should be gone before. Where the GPU has failed,
        it refuses everything from then on, and the process's end gives back what is left.
        """
        for memory in self._memory:
            with contextlib.suppress(self.error):
                memory.free()
        self._memory.clear()
        self._pinned.clear()
        with contextlib.suppress(self.error):
            self._context.pop()
            self._context.detach()
            # To detach a context, PyCUDA makes it current again and takes the end of that for part of the detaching,
            # which holds for contexts of its own, but not for the primary one.
            if _current_context() != self._before:
                ctypes.CDLL(LIBRARY).cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def _current_context() -> int | None:
    """The handle of the context that is current on this thread; None where there is none."""
    handle = ctypes.c_void_p()
    ctypes.CDLL(LIBRARY).cuCtxGetCurrent(ctypes.byref(handle))
    return handle.value

"""Streams, device memory and copies on the GPU's primary context: the only module that touches PyCUDA.

The primary context is the one that torch and DALI use, so that all of them can work on one another's memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mura_trt.cuda_devices import cuda_device_count
from mura_trt.errors import RuntimeUnavailable


class Device:
    """One GPU, its primary context current on this thread from here to ``close``, and one stream on it.

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
        self._buffers: list[Buffer] = []
        try:
            driver.init()
            device = driver.Device(ordinal)
            self.compute_capability: tuple[int, int] = device.compute_capability()
            self.name: str = device.name()
            self._context = device.retain_primary_context()
            self._context.push()
        except driver.Error as error:
            raise RuntimeUnavailable(f"CUDA device {ordinal} cannot be used: {error}") from error
        self._stream = driver.Stream()

    @property
    def stream(self) -> int:
        """The stream's CUDA handle."""
        return int(self._stream.handle)

    def buffer(self, shape: tuple[int, ...], dtype: type[np.generic]) -> Buffer:
        """Pinned host memory and device memory of one shape; both live until ``close``."""
        try:
            self._buffers.append(Buffer(self._driver, self._stream, shape, dtype))
        except self._driver.Error as error:
            raise RuntimeUnavailable(
                f"no memory on {self.name} for a batch: {error}; give a smaller --batch"
            ) from error
        return self._buffers[-1]

    def synchronise(self) -> None:
        """Waits for everything on the stream."""
        self._stream.synchronize()

    def close(self) -> None:
        """Gives back buffers and stream while their context is still current, then takes it off this thread."""
        for buffer in self._buffers:
            buffer.free()
        del self._stream
        self._context.pop()
        self._context.detach()


class Buffer:
    """A tensor's two homes: ``host`` (pinned) and ``address`` (device), copied on the device's stream."""

    def __init__(self, driver: Any, stream: Any, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self._driver, self._stream = driver, stream
        self.host: NDArray[Any] = driver.pagelocked_empty(shape, dtype)
        self._memory = driver.mem_alloc(self.host.nbytes)

    @property
    def address(self) -> int:
        """The device pointer."""
        return int(self._memory)

    def clear(self) -> None:
        """Fills both with zeros."""
        self.host[:] = 0
        self.upload(len(self.host))

    def upload(self, rows: int) -> None:
        """Starts copying the first ``rows`` rows to the device."""
        self._driver.memcpy_htod_async(self._memory, self.host[:rows], self._stream)

    def download(self, rows: int) -> None:
        """Starts copying the first ``rows`` rows to the host."""
        self._driver.memcpy_dtoh_async(self.host[:rows], self._memory, self._stream)

    def free(self) -> None:
        """Gives the memory back; ``host`` must not be used after."""
        self._memory.free()
        del self.host, self._stream

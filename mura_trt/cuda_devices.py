"""Which GPUs there are, asked of the driver itself, without any CUDA library or context."""

from __future__ import annotations

import ctypes

_NAME_BYTES = 256


def cuda_device_count() -> int:
    """How many CUDA devices this process may use; 0 without a driver."""
    driver = _driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def cuda_device_name(ordinal: int) -> str:
    """As ``NVIDIA H200``; empty where the driver does not tell."""
    driver = _driver()
    device, name = ctypes.c_int(0), ctypes.create_string_buffer(_NAME_BYTES)
    if (
        driver is None
        or driver.cuDeviceGet(ctypes.byref(device), ordinal) != 0
        or driver.cuDeviceGetName(name, _NAME_BYTES, device) != 0
    ):
        return ""
    return name.value.decode(errors="replace")


def _driver() -> ctypes.CDLL | None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None

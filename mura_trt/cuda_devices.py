"""Whether there is a GPU, asked of the driver itself, without any CUDA library or context."""

from __future__ import annotations

import ctypes
from typing import NamedTuple


def cuda_device_count() -> int:
    """How many CUDA devices this process may use; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


class CudaDevice(NamedTuple):
    """What the driver says of a GPU."""

    name: str
    compute_capability: tuple[int, int]

    @property
    def architecture(self) -> str:
        """Such as ``SM90``."""
        return "SM{}{}".format(*self.compute_capability)


def cuda_device(ordinal: int = 0) -> CudaDevice | None:
    """The GPU of that number, None where there is none."""
    if ordinal >= cuda_device_count():
        return None
    driver = ctypes.CDLL("libcuda.so.1")
    device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    numbers = [ctypes.c_int(0), ctypes.c_int(0)]
    failed = driver.cuDeviceGet(ctypes.byref(device), ordinal) or driver.cuDeviceGetName(name, len(name), device)
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
    for number, attribute in zip(numbers, (75, 76), strict=True):
        failed = failed or driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
    return None if failed else CudaDevice(name.value.decode(errors="replace"), (numbers[0].value, numbers[1].value))

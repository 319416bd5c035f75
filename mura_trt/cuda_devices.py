"""What GPUs there are, asked of the driver itself, without any Python CUDA package."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

LIBRARY = "libcuda.so.1"
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_COMPUTE_MODE, _CAPABILITY_MAJOR, _CAPABILITY_MINOR = 20, 75, 76  # CUdevice_attribute


@dataclass(frozen=True)
class Gpu:
    """One CUDA device."""

    name: str
    compute_capability: str
    """Such as ``9.0``."""
    memory_bytes: int
    free_bytes: int | None
    """None where the GPU takes no context: it is another process's own, or broken."""


class GpuKind(NamedTuple):
    """What decides which plans a GPU can load."""

    name: str
    compute_capability: tuple[int, int]

    @property
    def architecture(self) -> str:
        """Such as ``SM90``."""
        return "SM{}{}".format(*self.compute_capability)


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver and the GPUs that this process may use, in CUDA's order."""

    version: str | None
    """Of the kernel module, such as ``580.65.06``; None where there is none to be seen."""
    cuda: str | None
    """The newest CUDA that ``libcuda.so.1`` knows, such as ``13.0``; None where it cannot be loaded."""
    gpus: tuple[Gpu, ...]
    problem: str | None
    """Why there are no GPUs, where the library is there and did not just count none."""


class _Refused(Exception):
    """A call that the driver answered with an error."""


def cuda_device_count() -> int:
    """How many CUDA devices this process may use; 0 without a driver. Makes no context."""
    try:
        driver = ctypes.CDLL(LIBRARY)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def gpu_kind(ordinal: int = 0) -> GpuKind | None:
    """What a GPU is, without a context on it; None where there is no such GPU, or the driver does not tell."""
    if ordinal >= cuda_device_count():
        return None
    try:
        return _kind(ctypes.CDLL(LIBRARY), ordinal)[1]
    except _Refused:
        return None


def room(ordinal: int = 0) -> int:
    """Bytes of a GPU's memory that several processes may share; 0 where it takes one alone, or does not tell.

    It takes the GPU's primary context for a moment.
    """
    if ordinal >= cuda_device_count():
        return 0
    library, mode = ctypes.CDLL(LIBRARY), ctypes.c_int(0)
    try:
        device, _ = _kind(library, ordinal)
        _call(library, "cuDeviceGetAttribute", ctypes.byref(mode), _COMPUTE_MODE, device)
    except _Refused:
        return 0
    # CU_COMPUTEMODE_DEFAULT is 0; the others are of one process, or of none.
    return 0 if mode.value else _free_bytes(library, device) or 0


def cuda_driver(system: Path = Path("/")) -> Driver:
    """Asks for all there is to know; for free memory it takes each GPU's primary context for a moment.

    Parameters
    ----------
    system
        Where ``sys`` and ``proc`` are.
    """
    version = _module_version(system)
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return Driver(version, None, (), None)
    cuda = None
    try:
        number = ctypes.c_int(0)
        _call(library, "cuDriverGetVersion", ctypes.byref(number))
        cuda = f"{number.value // 1000}.{number.value % 1000 // 10}"
        if library.cuInit(0) == _NO_DEVICE:
            return Driver(version, cuda, (), None)
        _call(library, "cuInit", 0)
        count = ctypes.c_int(0)
        _call(library, "cuDeviceGetCount", ctypes.byref(count))
        return Driver(version, cuda, tuple(_gpu(library, ordinal) for ordinal in range(count.value)), None)
    except _Refused as refused:
        return Driver(version, cuda, (), str(refused))


def nvidia_cards(system: Path = Path("/")) -> int:
    """How many NVIDIA display or compute cards are on the PCI bus, with or without a driver."""
    found = 0
    for device in (system / "sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue
        found += vendor == "0x10de" and kind.startswith("0x03")
    return found


def _module_version(system: Path) -> str | None:
    for name, pattern in (
        ("sys/module/nvidia/version", r"^(\S+)"),
        ("proc/driver/nvidia/version", r"Kernel Module.*?\s(\d+\.\d[\d.]*)"),
    ):
        try:
            found = re.search(pattern, (system / name).read_text())
        except OSError:
            continue
        if found:
            return found[1]
    return None


def _gpu(library: ctypes.CDLL, ordinal: int) -> Gpu:
    device, kind = _kind(library, ordinal)
    total = ctypes.c_size_t(0)
    _call(library, "cuDeviceTotalMem_v2", ctypes.byref(total), device)
    capability = "{}.{}".format(*kind.compute_capability)
    return Gpu(kind.name, capability, total.value, _free_bytes(library, device))


def _kind(library: ctypes.CDLL, ordinal: int) -> tuple[ctypes.c_int, GpuKind]:
    device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    _call(library, "cuDeviceGet", ctypes.byref(device), ordinal)
    _call(library, "cuDeviceGetName", name, len(name), device)
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    for attribute, value in ((_CAPABILITY_MAJOR, major), (_CAPABILITY_MINOR, minor)):
        _call(library, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
    return device, GpuKind(name.value.decode(errors="replace"), (major.value, minor.value))


def _free_bytes(library: ctypes.CDLL, device: ctypes.c_int) -> int | None:
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(0), ctypes.c_size_t(0)
    try:
        _call(library, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    except _Refused:
        return None
    try:
        _call(library, "cuCtxPushCurrent_v2", context)
        _call(library, "cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        _call(library, "cuCtxPopCurrent_v2", ctypes.byref(context))
    except _Refused:
        return None
    finally:
        library.cuDevicePrimaryCtxRelease_v2(device)
    return free.value


def _call(library: ctypes.CDLL, function: str, *arguments: object) -> None:
    """Raises _Refused with the driver's own words."""
    try:
        status = getattr(library, function)(*arguments)
    except AttributeError as error:
        raise _Refused(f"{LIBRARY} has no {function}: it is too old, or not NVIDIA's") from error
    if status != 0:
        words = ctypes.c_char_p()
        told = getattr(library, "cuGetErrorString", None)
        said = told is not None and told(status, ctypes.byref(words)) == 0 and words.value
        raise _Refused(f"{function}: error {status}{f' ({said.decode()})' if said else ''}")

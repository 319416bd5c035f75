"""Files out of the page cache, and how much of them is still there."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path


def evict(paths: Iterable[Path]) -> None:
    """Writes the files' pages to the disk and asks the kernel to forget them, which needs no privilege."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def cached_share(paths: Iterable[Path]) -> float:
    """Share of the files' pages that the kernel holds, by ``mincore``.

    Since Linux 5.2 it tells the truth of files that one owns or may write to, and calls all others' pages present.

    Raises
    ------
    OSError
        The kernel does not tell.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
    there = pages = 0
    for path in paths:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                continue
            with mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE) as mapped:  # private: ctypes wants to write to it
                address = ctypes.c_char.from_buffer(mapped)
                found = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
                failed = libc.mincore(ctypes.addressof(address), size, found)
                del address  # or the map could not be closed
                if failed:
                    raise OSError(ctypes.get_errno(), f"mincore of {path}: {os.strerror(ctypes.get_errno())}")
        there += sum(byte & 1 for byte in found.raw[: -(-size // mmap.PAGESIZE)])
        pages += -(-size // mmap.PAGESIZE)
    return there / pages if pages else 0.0

"""A tar in volumes of one size, each small enough for a stick or a disc."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

VOLUME = "mura-trt.tar."  # what the name of each begins with


def write_volumes(files: Iterable[Path], folder: Path, size: int) -> list[dict[str, Any]]:
    """Writes a tar of ``files`` in volumes of ``size`` bytes; returns each one's name, size and SHA-256.

    The same files give the same bytes.
    """
    with _Volumes(folder, size) as volumes, tarfile.open(fileobj=volumes, mode="w|") as tar:
        for path in files:
            member = tarfile.TarInfo(path.name)
            member.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(member, file)
    return volumes.written


class _Volumes(io.RawIOBase):
    """A file that is written once and falls into volumes of one size."""

    def __init__(self, folder: Path, size: int) -> None:
        self.written: list[dict[str, Any]] = []
        self._folder = folder
        self._size = size
        self._room = 0
        self._file: io.BufferedWriter | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        rest = memoryview(data)
        while rest:
            if not self._room:
                self._begin()
            assert self._file is not None
            part = rest[: self._room]
            self._file.write(part)
            self._digest.update(part)
            self._room -= len(part)
            rest = rest[len(part) :]
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._end()
        super().close()

    def _begin(self) -> None:
        self._end()
        self._file = (self._folder / f"{VOLUME}{len(self.written) + 1:03d}").open("wb")
        self._digest = hashlib.sha256()
        self._room = self._size

    def _end(self) -> None:
        if self._file is None:
            return
        self._file.close()
        path = Path(self._file.name)
        self.written.append({"name": path.name, "size": path.stat().st_size, "sha256": self._digest.hexdigest()})
        self._file = None

"""Files that save time and may be lost: read where they are whole, written where they can be, never an error."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from mura_trt.files import read_checked, write_checked

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheFile:
    """One cache, in a file with its SHA-256 in front."""

    path: Path

    @classmethod
    def named(cls, folder: Path, *key: str) -> CacheFile:
        """The cache in ``folder`` for a key, whose parts make the file's name."""
        return cls(folder / "-".join(re.sub(r"[^\w.]+", "_", part) for part in key))

    def load(self) -> bytes | None:
        """What was saved; None where there is nothing, or nothing whole."""
        try:
            return read_checked(self.path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.info("cache %s is not used: %s", self.path, error)
            return None

    def save(self, data: bytes) -> None:
        """Keeps ``data``, whole or not at all, unless it is there already or the folder cannot be written to."""
        if self.load() == data:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_checked(self.path, data)
        except OSError as error:
            logger.info("cache %s is not kept: %s", self.path, error)

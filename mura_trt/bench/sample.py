"""Views of an archive as files of their own, linked again and again until there are as many as a measurement takes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mura_trt.archives import NamedArchive
from mura_trt.archives.folder import FolderSource
from mura_trt.archives.keys import IMAGE_SUFFIXES, suffix_of
from mura_trt.archives.listing import DICOM, Unreadable
from mura_trt.errors import UsageError
from mura_trt.host_decode import open_decoder
from mura_trt.readahead import plain_of
from mura_trt.screen import Rejected

MOST_VIEWS = 512
MOST_BYTES = 1 << 28  # of files, which are to stay in the page cache

SUFFIXES = IMAGE_SUFFIXES | {".dcm"}


@dataclass(frozen=True)
class Sample:
    """Views that can be scored, each a file of its own or a link to one."""

    folder: Path
    listed: int
    """Views of the archive."""
    views: int
    """How many of them are here."""
    left_out: dict[str, int]
    """Views that were looked at and cannot be scored, by the reason's code."""
    mean_bytes: int
    """Of a file."""
    converted: bool
    """Whether some are turned into other files before they are decoded: DICOM, and gray PNG of 16 bits."""
    unpacked: bool
    """Whether they are copies, of an archive that is no folder of files."""

    def paths(self) -> list[Path]:
        """Of the files, in order."""
        return view_files(self.folder)

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "listed": self.listed,
            "sampled": self.views,
            "left_out": self.left_out,
            "mean_bytes": self.mean_bytes,
            "unpacked": self.unpacked,
        }


def take_sample(archive: NamedArchive, folder: Path, size: tuple[int, int], threads: int) -> Sample:
    """Takes up to ``MOST_VIEWS`` evenly spaced views of an archive, or the first of one that is read in order.

    Of those, where they have more than ``MOST_BYTES``, the first.

    Each is read, screened and decoded once, and stays out where it cannot be. Files of a folder are linked to, others
    copied; names tell of study and view by number only.

    Parameters
    ----------
    archive
        Of any kind that can be scored.
    folder
        Made.
    size
        Height and width that views are decoded to.
    threads
        That decode.

    Raises
    ------
    UsageError
        The archive cannot be used, or has no view that can be scored.
    EnvironmentProblem
        What reading it needs is missing.
    """
    listing = archive.listing()
    reader = listing.source.open()
    linked = isinstance(listing.source, FolderSource)
    count = min(MOST_VIEWS, len(listing))
    rows = np.arange(count) if reader.threads == 1 else np.linspace(0, len(listing) - 1, count).round().astype(np.int64)
    chosen = listing.take(rows)
    kinds = chosen.kinds_of(0, count) or bytes(count)
    suffixes = [_suffix(key, kind) for key, kind in zip(chosen.keys(0, count), kinds, strict=True)]
    left_out: dict[str, int] = {}
    sizes: list[int] = []
    converted = False
    with closing(open_decoder(size, threads, 1)) as decoder:
        for number, reference in enumerate(chosen.references(0, count)):
            try:
                data = reader.read(reference)
                plain = plain_of(data, kinds[number]).data
                decoder.submit([plain])
                for _, rejected in decoder.collect().rejected:
                    raise rejected
            except (OSError, Unreadable, Rejected) as reason:
                code = getattr(reason, "code", "UNREADABLE")
                left_out[code] = left_out.get(code, 0) + 1
                continue
            if sizes and sum(sizes) + len(data) > MOST_BYTES:
                break
            sizes.append(len(data))
            converted = converted or plain is not data
            target = folder / f"study{chosen.study_of[number]:06d}" / f"view{number:06d}{suffixes[number]}"
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(reference, bytes) and linked:
                target.symlink_to((Path(listing.source.root) / os.fsdecode(reference)).resolve())
            else:
                target.write_bytes(data)
    if not sizes:
        reasons = ", ".join(f"{found} {code}" for code, found in left_out.items())
        raise UsageError(f"{archive.place}: none of {count} views can be scored ({reasons}); score tells why, by view")
    mean = sum(sizes) // len(sizes)
    return Sample(folder, len(listing), len(sizes), left_out, mean, converted, unpacked=not linked)


def _suffix(key: bytes, kind: int) -> str:
    """One that a folder's views are known by; what an image is, its bytes tell."""
    if kind == DICOM:
        return ".dcm"
    suffix = suffix_of(key)
    return suffix if suffix in IMAGE_SUFFIXES else ".png"


def view_files(folder: Path) -> list[Path]:
    """Files below a folder whose names end as views' do, in order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def link_views(folder: Path, target: Path, views: int) -> None:
    """So many views: those of a folder, linked under as many folders of ``target`` as it takes."""
    paths = view_files(folder)
    for view in range(views):
        link = target / f"copy{view // len(paths)}" / paths[view % len(paths)].relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(paths[view % len(paths)].resolve())


@contextmanager
def repeated(archive: Path, views: int) -> Iterator[Path]:
    """A folder of so many views, gone when it was used."""
    with tempfile.TemporaryDirectory() as root:
        link_views(archive, Path(root), views)
        yield Path(root)

"""The views of an archive and the studies they belong to, listed without decoding a pixel."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from mura_trt.archives.dicoms import HeaderIndex, sorted_by_headers
from mura_trt.archives.disclosure import Disclosure
from mura_trt.archives.folder import UNREAD_SUFFIXES, list_folder
from mura_trt.archives.keys import IMAGE_SUFFIXES
from mura_trt.archives.listing import Found, Listing, gather
from mura_trt.archives.lists import LIST_SUFFIXES, is_list, list_file
from mura_trt.archives.openers import located
from mura_trt.archives.remote import check_url, file_system, list_below
from mura_trt.archives.tars import is_tar, list_tars
from mura_trt.archives.zips import list_zip
from mura_trt.errors import UsageError

logger = logging.getLogger(__name__)

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")  # as in shards-{00000..00099}.tar
MAX_TARS = 100_000


@dataclass(frozen=True)
class NamedArchive:
    """An archive and how it is to be read, for commands that show none of its DICOM files' paths and UIDs."""

    place: Path | str
    """A string is a URL."""
    study_depth: int | None = None
    root: Path | None = None
    uid_salt_file: Path | None = None
    """What hashes are keyed with; None takes the user's own."""

    def listing(self) -> Listing:
        """Its views; raises what :func:`list_archive` does."""
        disclosure = Disclosure.of(self.uid_salt_file)
        return list_archive(self.place, study_depth=self.study_depth, root=self.root, disclosure=disclosure)


def list_archive(
    archive: Path | str,
    *,
    study_depth: int | None = None,
    root: Path | None = None,
    disclosure: Disclosure | None = None,
    index: HeaderIndex | None = None,
) -> Listing:
    """Lists an archive: a folder tree, a zip, a tar or a numbered row of them, or a file that lists images.

    Parameters
    ----------
    archive
        The folder or file; a string is a URL. ``shards-{00000..00099}.tar`` stands for the tar files of those numbers.
    study_depth
        A study is the first so many parts of a view's path; without it, the folder the view lies in.
    root
        For a list: the folder its relative paths start from. Without it, the first of the list's own folder, that
        folder's parent (MURA's lists lie inside the folder that their paths begin with) and the working directory in
        which one of the first 100 paths exists.
    disclosure
        How DICOM files' paths and UIDs are shown; None leaves these files out.
    index
        DICOM headers that were read before; holds those of this archive afterwards.

    Raises
    ------
    UsageError
        Nothing there, nothing readable there, or no view in it.
    EnvironmentProblem
        There are DICOM files and pydicom is not installed, or what a URL needs is not.
    """
    named = isinstance(archive, Path) and is_list(archive)
    if study_depth is not None and study_depth < 1:
        raise UsageError(f"--study-depth {study_depth}: a study is at least the first part of a path; give 1 or more")
    listing = gather(_find(archive, root), study_depth)
    listing = sorted_by_headers(listing, disclosure, HeaderIndex() if index is None else index, named)
    _check_not_empty(listing, archive)
    for name, reason in listing.unreadable:
        logger.warning("%s could not be listed to its end: %s", listing.part_name(name), reason)
    return listing


def _find(archive: Path | str, root: Path | None) -> Found:
    if root is not None and (isinstance(archive, str) or not is_list(archive)):
        raise UsageError(f"--root is for list files, and {archive} is none; leave it out")
    if isinstance(archive, str):
        return _find_behind_url(archive)
    # Not Path's own questions, which raise where a name is too long or a folder above is closed.
    if os.path.isdir(archive):
        return list_folder(archive)
    if os.path.isfile(archive):
        if is_list(archive):
            return list_file(archive, root)
        if archive.suffix.lower() == ".zip":
            return list_zip(archive)
        if is_tar(archive):
            return list_tars(archive, [located(archive)])
    elif is_tar(archive) and (numbers := _RANGE.search(str(archive))):
        return list_tars(archive, _numbered(located(archive), numbers))
    if os.path.exists(archive):
        kinds = ", ".join((".zip", ".tar", ".tar.gz", ".tar.zst", *sorted(LIST_SUFFIXES)))
        raise UsageError(f"{archive}: neither a folder nor a zip, tar or list file ({kinds})")
    raise UsageError(f"{archive}: no such folder or file; check the path")


def _find_behind_url(url: str) -> Found:
    check_url(url)
    file_system(url)  # raises where what it takes is not installed, which no reader of broken bytes must swallow
    if url.lower().endswith(".zip"):
        return list_zip(url)
    if is_tar(url):
        numbers = _RANGE.search(url)
        return list_tars(url, _numbered(url, numbers) if numbers else [url])
    return list_below(url)


def _numbered(pattern: str, numbers: re.Match[str]) -> list[str]:
    first, last = numbers.groups()
    count = int(last) - int(first) + 1
    if not 0 < count <= MAX_TARS:
        raise UsageError(f"{pattern}: {numbers[0]} stands for {count} files; give 1 to {MAX_TARS}")
    before, after = pattern.split(numbers[0], 1)
    return [f"{before}{number:0{len(first)}d}{after}" for number in range(int(first), int(last) + 1)]


def _check_not_empty(listing: Listing, archive: Path | str) -> None:
    if len(listing):
        return
    told = listing.told_ignored().items()
    seen = ", ".join([f"{count} {suffix or 'without a suffix'}" for suffix, count in told][:5])
    unread = sorted(set(listing.ignored) & UNREAD_SUFFIXES)
    hint = f"; this version does not read {', '.join(unread)}" if unread else ""
    denied = (
        f"; could not be opened: {listing.part_name(listing.unreadable[0][0])} ({listing.unreadable[0][1]})"
        if listing.unreadable
        else ""
    )
    raise UsageError(
        f"{archive}: no view found; a view is a {', '.join(sorted(IMAGE_SUFFIXES))} or DICOM file that is not hidden"
        f" (others seen: {seen or 'none'}){hint}{denied}"
    )

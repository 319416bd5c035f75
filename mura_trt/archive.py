"""The views of an archive and the studies they belong to, listed without decoding a pixel."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mura_trt.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
# Image formats that people keep X-rays in and this version does not read: named, so that nobody takes a folder of
# them for an empty one.
UNREAD_SUFFIXES = frozenset(
    {".dcm", ".dicom", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".j2k", ".zip", ".tar"}
)
LIST_SUFFIXES = frozenset({".csv", ".txt"})
LIST_HEADERS = frozenset({"view", "path", "image"})

# A file larger than this is no X-ray: the largest plain radiographs are around 50 MB uncompressed.
MAX_FILE_BYTES = 1 << 28

_BODY_PART = re.compile(r"(?:^|/)XR_([A-Z]+)(?=/|$)")
_LABEL = re.compile(r"(?:^|/)study\d+_(positive|negative)(?=/|$)")


@dataclass(frozen=True)
class FolderSource:
    """Reads views that are files below ``root``; small and picklable, so that a worker process can hold it."""

    root: str

    def read(self, key: bytes) -> bytes:
        """The bytes of one view.

        Raises
        ------
        OSError
            The file is gone, unreadable, no regular file, or larger than ``MAX_FILE_BYTES``.
        """
        path = os.path.join(os.fsencode(self.root), key)
        if b"\0" in path:
            raise OSError("the path holds a NUL byte")
        # Without O_NONBLOCK, opening a FIFO that nobody writes to would hang the run.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:  # open() refuses a directory's descriptor without closing it
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError("not a regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise OSError(f"{status.st_size} bytes; at most {MAX_FILE_BYTES} are read")
            with open(descriptor, "rb", buffering=0, closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class Listing:
    """Every view of an archive in read order, in columns: about 70 bytes a view, whatever the archive's size.

    Attributes
    ----------
    source
        Where a worker reads the views from.
    views
        n view keys, as bytes: the path relative to the archive as the file system spells it.
    study_of
        int32 (n,): the number of each view's study.
    studies
        m study keys, as bytes, in order of first appearance.
    ignored
        How many files were passed over, by suffix.
    unreadable
        Folders that could not be listed, with the reason.
    duplicates
        How many entries of a list named a view that was there already.
    """

    source: FolderSource
    views: pa.LargeBinaryArray
    study_of: NDArray[np.int32]
    studies: pa.LargeBinaryArray
    ignored: Counter[str] = field(default_factory=Counter)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    duplicates: int = 0

    def __len__(self) -> int:
        return len(self.study_of)

    def keys(self, start: int, stop: int) -> list[bytes]:
        """The keys of views ``start`` to ``stop`` (exclusive)."""
        keys: list[bytes] = self.views.slice(start, stop - start).to_pylist()
        return keys

    def study_names(self, numbers: NDArray[np.int32]) -> list[str]:
        """Study keys as text, by number."""
        return [display(key) for key in self.studies.take(numbers).to_pylist()]

    def fingerprint(self) -> str:
        """64 hexadecimal digits that change with the keys of the views and studies and with their order."""
        digest = hashlib.sha256(self.study_of.tobytes())
        for column in (self.views, self.studies):
            for buffer in column.buffers()[1:]:  # where each key ends, and the keys' bytes
                digest.update(buffer)
        return digest.hexdigest()

    def first_views(self) -> list[bytes]:
        """The key of each study's first view, by study number."""
        _, first = np.unique(self.study_of, return_index=True)
        keys: list[bytes] = self.views.take(first).to_pylist()
        return keys


def display(key: bytes) -> str:
    """A key as text for tables and messages; line breaks and bytes that are not UTF-8 show as backslash escapes."""
    return key.decode("utf-8", "backslashreplace").replace("\r", "\\r").replace("\n", "\\n")


def body_part(key: bytes) -> str:
    """``WRIST`` of ``.../XR_WRIST/...``; empty where the path names no body part the way MURA does."""
    found = _BODY_PART.search(display(key))
    return found[1] if found else ""


def label(key: bytes) -> int | None:
    """1 or 0 of MURA's ``studyN_positive`` or ``studyN_negative``; None where the path carries no label."""
    found = _LABEL.search(display(key))
    return int(found[1] == "positive") if found else None


def list_archive(archive: Path, *, study_depth: int | None = None, root: Path | None = None) -> Listing:
    """Lists an archive: a folder tree, or a list file (``.csv``, ``.txt``) of image paths.

    Parameters
    ----------
    archive
        The folder or the list file.
    study_depth
        A study is the first so many parts of a view's path; without it, the folder the view lies in.
    root
        For a list: the folder its relative paths start from. Without it, the first of the list's own folder, that
        folder's parent (MURA's lists lie inside the folder that their paths begin with) and the working directory in
        which one of the first 100 paths exists.

    Raises
    ------
    UsageError
        Nothing there, nothing readable there, or no view in it.
    """
    if study_depth is not None and study_depth < 1:
        raise UsageError(f"--study-depth {study_depth}: a study is at least the first part of a path; give 1 or more")
    # Not Path's own questions, which raise where a name is too long or a folder above is closed.
    if os.path.isdir(archive):
        if root is not None:
            raise UsageError(f"--root is for list files, and {archive} is a folder; leave it out")
        return _list_folder(archive, study_depth)
    if os.path.isfile(archive) and archive.suffix.lower() in LIST_SUFFIXES:
        return _list_file(archive, study_depth, root)
    if os.path.exists(archive):
        raise UsageError(f"{archive}: neither a folder nor a list file ({', '.join(sorted(LIST_SUFFIXES))})")
    raise UsageError(f"{archive}: no such folder or list file; check the path")


def _list_folder(archive: Path, study_depth: int | None) -> Listing:
    ignored: Counter[str] = Counter()
    unreadable: list[tuple[str, str]] = []
    keys = (key for key in _walk(os.fsencode(archive), b"", (), unreadable) if _is_view(key, ignored))
    listing = _columns(FolderSource(str(archive.resolve())), ((key, None) for key in keys), study_depth)
    if len(listing) == 0:
        seen = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in ignored.most_common(5))
        unread = sorted(set(ignored) & UNREAD_SUFFIXES)
        hint = f"; this version does not read {', '.join(unread)}" if unread else ""
        denied = f"; could not be opened: {unreadable[0][0]} ({unreadable[0][1]})" if unreadable else ""
        raise UsageError(
            f"{archive}: no view found; a view is a {', '.join(sorted(IMAGE_SUFFIXES))} file that is not hidden"
            f" (other files seen: {seen or 'none'}){hint}{denied}"
        )
    listing.ignored.update(ignored)
    listing.unreadable.extend(unreadable)
    return listing


def _walk(
    folder: bytes, prefix: bytes, ancestors: tuple[tuple[int, int], ...], unreadable: list[tuple[str, str]]
) -> Iterator[bytes]:
    """Paths of the files below ``folder``: a folder's own files first, then its folders, each in order of bytes."""
    try:
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in ancestors:  # a symlink to a folder above
            return
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        # What is no folder counts as a file, be it a link that leads nowhere: it fails when read, with its reason.
        folders = [entry.name for entry in found if _is_folder(entry)]
        files = [entry.name for entry in found if not _is_folder(entry)]
    except OSError as error:
        unreadable.append((display(prefix) or ".", error.strerror or str(error)))
        return
    yield from (prefix + name for name in files)
    for name in folders:
        if not name.startswith(b".") and name != b"__MACOSX":
            yield from _walk(os.path.join(folder, name), prefix + name + b"/", (*ancestors, identity), unreadable)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_view(key: bytes, ignored: Counter[str]) -> bool:
    name = os.path.basename(key)
    if name.startswith(b"."):  # hidden, AppleDouble (._image1.png) among them
        return False
    suffix = os.path.splitext(os.fsdecode(name))[1].lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    ignored[suffix] += 1
    return False


def _list_file(archive: Path, study_depth: int | None, root: Path | None) -> Listing:
    entries = _read_list(archive)
    if root is not None and not root.is_dir():
        raise UsageError(f"--root {root}: no such folder")
    base = root.resolve() if root else _root_of_list(archive, [path for path, _ in entries[:100]])
    return _columns(FolderSource(str(base)), entries, study_depth, archive)


def _read_list(archive: Path) -> list[tuple[bytes, bytes | None]]:
    """(path, study or None) of each line: MURA's bare paths, or a table whose first line names its columns."""
    try:
        with archive.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file, strict=True), start=1) if row]
    except (csv.Error, OSError) as error:
        raise UsageError(f"{archive}: not a list of image paths, one a line: {error}") from error
    columns = ["view"]
    if rows and LIST_HEADERS.intersection(header := [name.strip().lower() for name in rows[0][1]]):
        columns = header
        del rows[0]
    if not rows:
        raise UsageError(f"{archive}: the list names no image")
    view_column = next(at for at, name in enumerate(columns) if name in LIST_HEADERS)
    study_column = columns.index("study") if "study" in columns else None
    entries: list[tuple[bytes, bytes | None]] = []
    for number, row in rows:
        if len(row) != len(columns):
            raise UsageError(
                f"{archive}, line {number}: {len(row)} columns where {', '.join(columns)} is expected; quote a path"
                " that holds a comma; begin a list of several columns with a line that names them, as in: view,study"
            )
        if not all(row):
            raise UsageError(f"{archive}, line {number}: an empty cell; fill it in or delete the line")
        entries.append(
            (_plain(os.fsencode(row[view_column])), None if study_column is None else os.fsencode(row[study_column]))
        )
    return entries


def _plain(path: bytes) -> bytes:
    """Without empty and ``.`` parts, so that a view has one name; ``..`` stays, for a link may lie before it."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    return (b"/" if path.startswith(b"/") else b"") + b"/".join(parts)


def _root_of_list(archive: Path, sample: list[bytes]) -> Path:
    own = archive.resolve().parent
    candidates = [own, own.parent, Path.cwd()]
    for base in candidates:
        if any(os.path.lexists(os.path.join(os.fsencode(base), path)) for path in sample):
            return base
    raise UsageError(
        f"{archive}: {display(sample[0])} is in none of {', '.join(dict.fromkeys(map(str, candidates)))};"
        " name the folder that the paths start from with --root"
    )


def _columns(
    source: FolderSource,
    entries: Iterable[tuple[bytes, bytes | None]],
    study_depth: int | None,
    list_file: Path | None = None,
) -> Listing:
    """Gathers (view key, study key or None) in columns; a view named twice counts once."""
    import pyarrow as pa

    numbers: dict[bytes, int] = {}
    seen: dict[bytes, int] = {}
    views: list[bytes] = []
    study_of: list[int] = []
    duplicates = 0
    for key, named in entries:
        study = numbers.setdefault(named or _study_key(key, study_depth), len(numbers))
        if list_file is not None:
            if seen.setdefault(key, study) != study:
                raise UsageError(f"{list_file}: {display(key)} is listed under two studies; keep one")
            if len(seen) == len(views):
                duplicates += 1
                continue
        views.append(key)
        study_of.append(study)
    return Listing(
        source=source,
        views=pa.array(views, pa.large_binary()),
        study_of=np.array(study_of, np.int32),
        studies=pa.array(list(numbers), pa.large_binary()),
        duplicates=duplicates,
    )


def _study_key(key: bytes, study_depth: int | None) -> bytes:
    if study_depth is None:
        return os.path.dirname(key) or b"."
    return b"/".join(key.split(b"/")[:study_depth])

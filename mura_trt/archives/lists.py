"""A file that lists images as an archive."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from mura_trt.archives.folder import FolderSource
from mura_trt.archives.keys import key_of, plain
from mura_trt.archives.listing import Entry, Found
from mura_trt.errors import UsageError

LIST_SUFFIXES = frozenset({".csv", ".txt"})
LIST_HEADERS = frozenset({"view", "path", "image"})


def is_list(path: Path) -> bool:
    """Whether it is named as a list file, and no folder."""
    return path.suffix.lower() in LIST_SUFFIXES and not os.path.isdir(path)


def list_file(archive: Path, root: Path | None) -> Found:
    """Lists the images that a file names.

    Raises
    ------
    UsageError
        No such list, none of its images is anywhere, or a view is listed under two studies.
    """
    entries = _read_list(archive)
    if root is not None and not root.is_dir():
        raise UsageError(f"--root {root}: no such folder")
    base = root.resolve() if root else _root_of_list(archive, [entry.key for entry in entries[:100]])
    studies: dict[bytes, bytes | None] = {}
    for number, (key, study, _) in enumerate(entries, start=1):
        if studies.setdefault(key, study) != study:  # by number, for a path may tell of a patient
            raise UsageError(f"{archive}, entry {number}: its path is listed under two studies; keep one")
    return Found(
        FolderSource(str(base)),
        map(Entry, studies.keys(), studies.values()),
        duplicates=len(entries) - len(studies),
        studies_named=any(study is not None for study in studies.values()),
    )


def _read_list(archive: Path) -> list[Entry]:
    """What each line names: MURA's bare paths, or a table whose first line names its columns."""
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
    entries: list[Entry] = []
    for number, row in rows:
        if len(row) != len(columns):
            raise UsageError(
                f"{archive}, line {number}: {len(row)} columns where {', '.join(columns)} is expected; quote a path"
                " that holds a comma; begin a list of several columns with a line that names them, as in: view,study"
            )
        if not all(row):
            raise UsageError(f"{archive}, line {number}: an empty cell; fill it in or delete the line")
        study = None if study_column is None else key_of(row[study_column])
        entries.append(Entry(plain(key_of(row[view_column])), study))
    return entries


def _root_of_list(archive: Path, sample: list[bytes]) -> Path:
    own = archive.resolve().parent
    candidates = [own, own.parent, Path.cwd()]
    for base in candidates:
        if any(os.path.lexists(os.path.join(os.fsencode(base), path)) for path in sample):
            return base
    raise UsageError(
        f"{archive}: its first path is in none of {', '.join(dict.fromkeys(map(str, candidates)))};"
        " name the folder that the paths start from with --root"
    )

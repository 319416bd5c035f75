"""Files and folders that are either whole or not there."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mura_trt.errors import UsageError


def check_target(target: Path, reads: Iterable[Path], what: str) -> None:
    """Looks, before any work, at whether a file can be written where the user wants it, and is none of the inputs.

    Parameters
    ----------
    target
        The file to write.
    reads
        Files and folders, there or not, that no result may take the place of, or lie in.
    what
        The result is, as in "name another file for the predictions".

    Raises
    ------
    UsageError
        It is no place for a file, or one of ``reads``.
    """
    if target.exists() and not target.is_file():
        raise UsageError(f"{target}: no regular file; name one for {what}")
    place = target.resolve()
    for given in reads:
        same = given.exists() and target.exists() and target.samefile(given)
        if same or place.is_relative_to(given.resolve()):
            raise UsageError(f"{target}: this is, or lies in, {given}, which is read; name another file for {what}")
    if not (place.parent.is_dir() and os.access(place.parent, os.W_OK)):
        raise UsageError(f"{target}: {place.parent} is no folder that can be written to; make it, or choose another")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write, which takes ``path``'s place: that holds it whole or what it held before.

    Also after a power cut.

    Raises
    ------
    OSError
        The disk refused; ``path`` is unchanged and no temporary file is left.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):  # which names the temporary file, or none
            error.filename, error.filename2 = str(path), None
        raise
    sync_folder(path.parent)


def write_atomically(path: Path, *data: bytes | memoryview) -> None:
    """Writes all ``data`` by :func:`replacing`."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        for part in data:
            file.write(part)


def write_checked(path: Path, data: bytes | memoryview) -> None:
    """As :func:`write_atomically`, behind a line with the SHA-256, so that damage shows when it is read."""
    write_atomically(path, hashlib.sha256(data).hexdigest().encode() + b"\n", data)


def read_checked(path: Path) -> bytes:
    """What :func:`write_checked` wrote; raises OSError, or ValueError where it has changed since."""
    digest, _, data = path.read_bytes().partition(b"\n")
    if hashlib.sha256(data).hexdigest().encode() != digest:
        raise ValueError("wrong SHA-256")
    return data


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder that takes ``folder``'s place when the block ends well, and vanishes when it does not.

    What was in ``folder`` before is deleted: whether it may be is for the caller to look at.
    """
    folder = folder.resolve()  # where it is a link, that stays
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{part}") for part in ("new", "old"))
    scratch.mkdir()
    try:
        try:
            yield scratch
        except OSError as error:  # of a full disk, libraries may name no file
            error.filename = error.filename or str(folder)
            raise
        replaces = folder.exists()
        if replaces:
            folder.rename(old)
        try:
            scratch.rename(folder)
        except BaseException:
            if replaces:
                old.rename(folder)
            raise
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Makes the names in ``folder`` (a rename, a new file) survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The file's SHA-256 as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

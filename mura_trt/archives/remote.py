"""Archives behind URLs, through fsspec: s3://, gs://, http:// and https://.

Credentials and endpoints come from where the stores' own tools look for them: the environment, and files in the home.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, ClassVar, cast
from urllib.parse import urlsplit

import numpy as np

from mura_trt.archives.keys import hidden, is_view, key_of
from mura_trt.archives.listing import MAX_FILE_BYTES, Entry, Found, Reference, Unreadable
from mura_trt.errors import EnvironmentProblem, UsageError

# Extras by scheme.
SCHEMES = {"s3": "s3", "gs": "gs", "http": "http", "https": "http"}
READ_THREADS = 16  # a store answers after tens of milliseconds, and any number of questions at once
# What stores call that which changes with an object.
_VERSIONS = (
    "ETag",
    "etag",
    "md5Hash",
    "generation",
    "Content-MD5",
    "Last-Modified",
    "LastModified",
    "updated",
    "mtime",
)
_AT_ONCE = 1 << 22  # bytes asked for at once, so that a slow link is seen to move


def is_url(archive: object) -> bool:
    """Whether an archive is named by a URL."""
    return isinstance(archive, str) and "://" in archive


def check_url(url: str) -> None:
    """Refuses what is no URL of a store that is known; raises UsageError."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"{url}: no URL ({error})") from error
    if parts.scheme not in SCHEMES:
        raise UsageError(f"{parts.scheme}://: URLs begin with {', '.join(f'{scheme}://' for scheme in SCHEMES)}")
    if parts.username or parts.password or parts.query:
        raise UsageError(
            f"{parts.scheme}://: no user, password or signature in a URL, for results name it; use the environment"
        )


def file_system(url: str) -> tuple[Any, str]:
    """Fsspec's file system for a URL, and the path in it.

    Raises
    ------
    EnvironmentProblem
        The extra for that kind of store is not installed.
    """
    scheme = urlsplit(url).scheme
    try:
        import fsspec

        found, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        extra = SCHEMES[scheme]
        raise EnvironmentProblem(
            f"{scheme}:// needs the extra `{extra}` ({error}): pip install 'mura-trt[{extra}]'"
        ) from error
    return found, path


@contextmanager
def oserrors() -> Iterator[None]:
    """Has whatever a store's client raises be an OSError, without its words, which name objects."""
    try:
        yield
    except FileNotFoundError as error:
        cause = error.__cause__  # fsspec says so of whatever a web server answers, or does not
        if type(cause).__module__.startswith("aiohttp") and getattr(cause, "status", None) not in (404, 410):
            told = getattr(cause, "status", type(cause).__name__)
            raise OSError(errno.EIO, f"the server gives an error ({told})") from error
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
    except PermissionError as error:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES)) from error
    except Exception as error:  # clients have exceptions of their own
        raise OSError(errno.EIO, f"the store gives an error ({type(error).__name__})") from error


class _Behind:
    """What lies behind a URL.

    Attributes
    ----------
    moved_at
        When bytes last came: seconds of the monotonic clock.
    """

    def __init__(self, url: str) -> None:
        self._system, self._path = file_system(url)
        self.moved_at = time.monotonic()

    def _read(self, path: str, offset: int, count: int) -> bytes:
        """Up to ``count`` bytes, some at a time; raises OSError."""
        parts: list[bytes] = []
        while count > 0:
            asked = min(count, _AT_ONCE)
            with oserrors():
                part = cast(bytes, self._system.cat_file(path, start=offset, end=offset + asked))
            if len(part) > asked:
                raise OSError(errno.EIO, "the server gives whole files only, no parts of them")
            self.moved_at = time.monotonic()
            parts.append(part)
            if len(part) < asked:
                break
            offset, count = offset + asked, count - asked
        return b"".join(parts)


class RemoteFile(_Behind):
    """A file behind a URL, which any thread may read at any place."""

    def read(self, count: int, offset: int) -> bytes:
        """So many bytes; raises Unreadable where the file ends before, and OSError."""
        data = self._read(self._path, offset, count)
        if len(data) < count:
            raise Unreadable("TRUNCATED", f"the archive ends inside the member, at byte {offset + len(data)}")
        return data


class _Stream(io.RawIOBase):
    """A file of fsspec's whose errors are told without their words."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with oserrors():
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with oserrors():
            return cast(int, self._file.seek(offset, whence))

    def tell(self) -> int:
        return cast(int, self._file.tell())

    def close(self) -> None:
        self._file.close()
        super().close()


def opened_url(url: str) -> IO[bytes]:
    """A file behind a URL as a stream that seeks; raises OSError."""
    system, path = file_system(url)
    with oserrors():
        return cast("IO[bytes]", io.BufferedReader(_Stream(system.open(path, "rb"))))


def url_stamp(url: str) -> bytes:
    """What changes when a file behind a URL does; raises OSError, also where the server does not tell."""
    system, path = file_system(url)
    with oserrors():
        told = _stamp(system.info(path))
    if not any(told):
        raise OSError(errno.ENODATA, "the server does not tell when the file changed")
    return told


def url_absence(url: str) -> str:
    """Why nothing is behind a URL just now; empty where something is."""
    system, path = file_system(url)
    system.invalidate_cache()  # what it remembers says nothing
    try:
        with oserrors():
            system.info(path)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _stamp(info: dict[str, Any]) -> bytes:
    """16 bytes; zeros where nothing but the size is told."""
    told = [str(info[name]) for name in _VERSIONS if info.get(name)]
    return hashlib.blake2b(repr((info.get("size"), told)).encode(), digest_size=16).digest() if told else bytes(16)


@dataclass(frozen=True)
class RemoteFolder:
    """Views that are objects below a URL."""

    root: str
    in_order: ClassVar[bool] = False

    def open(self) -> RemoteReader:
        """A client of its own."""
        return RemoteReader(self.root)

    def absence(self) -> str:
        """Why there is no such bucket or prefix."""
        return url_absence(self.root)


class RemoteReader(_Behind):
    """Reads objects by their keys."""

    threads = READ_THREADS
    away = ""

    def read(self, reference: Reference) -> bytes:
        """The bytes of one object.

        Raises
        ------
        OSError
            The store's, or the object has more than ``MAX_FILE_BYTES``.
        """
        data = self.head(reference, MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, f"more than {MAX_FILE_BYTES} bytes")
        return data

    def head(self, reference: Reference, count: int) -> bytes:
        """Its first bytes; raises OSError."""
        path = self._of(reference)
        try:
            return self._read(path, 0, count)
        except FileNotFoundError:
            raise
        except OSError:
            with oserrors():
                size = self._system.info(path).get("size")
            if size == 0 or (size is not None and size % _AT_ONCE == 0 and size < count):  # no part begins at its end
                return self._read(path, 0, size)
            raise

    def stamp(self, reference: Reference) -> bytes:
        """What the store says of it; raises OSError."""
        with oserrors():
            return _stamp(self._system.info(self._of(reference)))

    def _of(self, reference: Reference) -> str:
        assert isinstance(reference, bytes)
        return f"{self._path.rstrip('/')}/{reference.decode('utf-8', 'surrogateescape')}"


def list_below(url: str) -> Found:
    """Lists the objects below a URL, in order of their keys.

    Raises
    ------
    UsageError
        The store does not list them.
    """
    if SCHEMES[urlsplit(url).scheme] == "http":
        raise UsageError(f"{url}: of web servers, .zip and .tar files are read; what lies in folders, they do not list")
    system, path = file_system(url)
    path = path.rstrip("/")
    try:
        with oserrors():
            found = system.find(path, detail=True)
    except OSError as error:
        raise UsageError(f"{url}: cannot be listed ({error.strerror}); check the URL and the credentials") from error
    system.invalidate_cache()  # or all that it was told would stay in memory
    ignored: Counter[str] = Counter()
    objects = {key_of(name[len(path) + 1 :]): info for name, info in found.items() if info["type"] == "file"}
    keys = [key for key in sorted(objects) if not hidden(key) and is_view(key, ignored)]
    stamps = np.frombuffer(b"".join(_stamp(objects[key]) for key in keys), np.uint8).reshape(-1, 16)
    return Found(RemoteFolder(url.rstrip("/")), map(Entry, keys), ignored=ignored, stamps=stamps)

"""Archives behind URLs, through fsspec: s3://, gs://, http:// and https://.

Credentials and endpoints come from where the stores' own tools look for them: the environment, and files in the home.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast
from urllib.parse import urlsplit

from mura_trt.archives.listing import MAX_FILE_BYTES, Entry, Listing, Reference, Unreadable, gather, is_view, plain
from mura_trt.errors import EnvironmentProblem, UsageError

# Extras by scheme.
SCHEMES = {"s3": "s3", "gs": "gs", "http": "http", "https": "http"}
READ_THREADS = 16  # a store answers after tens of milliseconds, and any number of questions at once
# What stores call that which changes with an object.
_VERSIONS = ("ETag", "etag", "md5Hash", "generation", "LastModified", "last_modified", "updated", "mtime")


def is_url(archive: object) -> bool:
    """Whether an archive is named by a URL."""
    return isinstance(archive, str) and "://" in archive


def check_url(url: str) -> None:
    """Refuses what is no URL of a store that is known; raises UsageError."""
    parts = urlsplit(url)
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
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
    except PermissionError as error:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES)) from error
    except (Unreadable, EnvironmentProblem, UsageError):
        raise
    except Exception as error:  # clients have exceptions of their own
        raise OSError(errno.EIO, f"the store gives an error ({type(error).__name__})") from error


class RemoteFile:
    """A file behind a URL, which any thread may read at any place."""

    def __init__(self, url: str) -> None:
        self._system, self._path = file_system(url)

    def read(self, count: int, offset: int) -> bytes:
        """So many bytes; raises Unreadable where the file ends before, and OSError."""
        if count == 0:
            return b""
        with oserrors():
            data = cast(bytes, self._system.cat_file(self._path, start=offset, end=offset + count))
        if len(data) > count:
            raise OSError(errno.EIO, "the server gives whole files only, no parts of them")
        if len(data) < count:
            raise Unreadable("TRUNCATED", f"the archive ends inside the member, at byte {offset + len(data)}")
        return data


def opened_url(url: str) -> IO[bytes]:
    """A file behind a URL as a stream that seeks; raises OSError."""
    system, path = file_system(url)
    with oserrors():
        return cast("IO[bytes]", system.open(path, "rb"))


def url_stamp(url: str) -> bytes:
    """What changes when a file behind a URL does; raises OSError."""
    system, path = file_system(url)
    with oserrors():
        return _stamp(system.info(path))


def _stamp(info: dict[str, Any]) -> bytes:
    told = repr((info.get("size"), *(str(info.get(name)) for name in _VERSIONS)))
    return hashlib.blake2b(told.encode(), digest_size=16).digest()


@dataclass(frozen=True)
class RemoteFolder:
    """Views that are objects below a URL."""

    root: str

    def open(self) -> RemoteReader:
        """A client of its own."""
        return RemoteReader(self.root)


class RemoteReader:
    """Reads objects by their keys."""

    threads = READ_THREADS
    moved_at = 0.0

    def __init__(self, url: str) -> None:
        self._system, self._path = file_system(url)

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
        with oserrors():
            try:
                return cast(bytes, self._system.cat_file(path, start=0, end=count))[:count]
            except FileNotFoundError:
                raise
            except Exception:
                if self._system.info(path).get("size") == 0:  # of which a store gives no part
                    return b""
                raise

    def stamp(self, reference: Reference) -> bytes:
        """What the store says of it; raises OSError."""
        with oserrors():
            return _stamp(self._system.info(self._of(reference)))

    def _of(self, reference: Reference) -> str:
        assert isinstance(reference, bytes)
        return f"{self._path}/{os.fsdecode(reference)}"


def list_below(url: str, study_depth: int | None) -> Listing:
    """Lists the objects below a URL, in order of their keys.

    Raises
    ------
    UsageError
        The store does not list them.
    """
    system, path = file_system(url)
    path = path.rstrip("/")
    try:
        with oserrors():
            found = system.find(path, detail=True)
    except OSError as error:
        raise UsageError(f"{url}: cannot be listed ({error.strerror}); check the URL and the credentials") from error
    ignored: Counter[str] = Counter()
    below: Callable[[str], bytes] = lambda name: os.fsencode(name[len(path) :].strip("/"))  # noqa: E731
    keys = sorted(plain(below(name)) for name, info in found.items() if info.get("type", "file") == "file")
    shown = (key for key in keys if not _hidden(key) and is_view(key, ignored))
    listing = gather(RemoteFolder(url.rstrip("/")), map(Entry, shown), study_depth)
    listing.ignored.update(ignored)
    return listing


def _hidden(key: bytes) -> bool:
    return any(part.startswith(b".") or part == b"__MACOSX" for part in key.split(b"/"))

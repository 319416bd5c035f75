"""What zip and tar archives have in common: members refused by their names or kinds, and bytes at an offset."""

from __future__ import annotations

from collections import Counter

from mura_trt.archives.keys import hidden, is_view, plain
from mura_trt.archives.listing import MAX_FILE_BYTES, Place, Unreadable

# A refused member is listed and fails when it is read, so that it is named among the failures. The numbers are kept in
# listings; the way out is the same for all: repack the archive.
UNSAFE_NAME, LINK, NOT_A_FILE, DUPLICATE_NAME, TOO_LARGE, ENCRYPTED, UNSUPPORTED_COMPRESSION, OVERLAPPING, SPARSE = (
    range(-1, -10, -1)
)
REFUSALS = {
    UNSAFE_NAME: (
        "UNSAFE_NAME",
        "the member's name is absolute, leads out of the archive, holds a NUL byte or is too long",
    ),
    LINK: ("LINK", "the member is a link, and links inside archives are not followed: pack the file itself"),
    NOT_A_FILE: ("NOT_A_FILE", "the member is a device, a pipe or the like"),
    DUPLICATE_NAME: ("DUPLICATE_NAME", "the archive has a member of that name already; the first one is scored"),
    TOO_LARGE: ("TOO_LARGE", f"the member says that it has more than {MAX_FILE_BYTES} bytes"),
    ENCRYPTED: ("ENCRYPTED", "the member is encrypted"),
    UNSUPPORTED_COMPRESSION: ("UNSUPPORTED_COMPRESSION", "the member is neither stored nor deflated"),
    OVERLAPPING: ("OVERLAPPING", "the member's bytes are another member's, too"),
    SPARSE: ("SPARSE", "the member is stored with holes, which are not read"),
}
_MAX_NAME = 4096  # bytes, as of Linux's paths


def refuse(place: Place) -> None:
    """Raises Unreadable where a place's last number says that the member is refused."""
    if place[-1] < 0:
        raise Unreadable(*REFUSALS[place[-1]])


class Names:
    """The members' names as they come: which are views, and which of them are refused."""

    def __init__(self) -> None:
        self.ignored: Counter[str] = Counter()
        self._seen: set[bytes] = set()

    def key(self, name: bytes) -> bytes | None:
        """The view's key; None where the member is no view."""
        return plain(name) if not hidden(name) and is_view(name, self.ignored) else None

    def refusal(self, key: bytes) -> int:
        """Why a view of that key is refused; 0 where nothing speaks against it."""
        if len(key) > _MAX_NAME or key.startswith(b"/") or b"\0" in key or b".." in key.split(b"/"):
            return UNSAFE_NAME
        if key in self._seen:
            return DUPLICATE_NAME
        self._seen.add(key)
        return 0


def bounded(key: bytes) -> bytes:
    """A key, or the beginning of one that is refused for its length: listings hold a great many."""
    return key if len(key) <= _MAX_NAME else key[:200] + b"..."

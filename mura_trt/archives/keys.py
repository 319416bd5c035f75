"""Keys of views and studies, which are paths as bytes: what they tell, how they are shown, and columns of them."""

from __future__ import annotations

import os
import re
from array import array
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
NO_IMAGE = "DICOM without an image"  # among suffixes, for reports and the like
DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
# What is told of by name where names may be patients'.
_OTHERS = {"", ".txt", ".csv", ".xml", ".json", ".pdf", ".zip", ".tar", ".tif", ".tiff", NO_IMAGE}
KNOWN_SUFFIXES = IMAGE_SUFFIXES | DICOM_SUFFIXES | _OTHERS

_BODY_PART = re.compile(r"(?:^|/)XR_([A-Z]+)(?=/|$)")
_ESCAPES = str.maketrans({"\r": "\\r", "\n": "\\n", "\0": "\\x00"})
_PATIENT = re.compile(r"(?:^|/)(patient\d+)(?=/|$)")
_LABEL = re.compile(r"(?:^|/)study\d+_(positive|negative)(?=/|$)")


class KeyColumn:
    """Keys one behind another as they come: an object of Python's for each would take twice what all else does."""

    def __init__(self) -> None:
        self._keys, self._ends = bytearray(), array("q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> bytes:
        return bytes(self._keys[self._ends[number] : self._ends[number + 1]])

    def append(self, key: bytes) -> None:
        """Takes one more."""
        self._keys += key
        self._ends.append(len(self._keys))

    def to_arrow(self) -> pa.LargeBinaryArray:
        """All of them, not copied; none can be added then."""
        import pyarrow as pa

        buffers = [None, pa.py_buffer(self._ends), pa.py_buffer(self._keys)]
        return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(self), buffers)


class KeyNumbers(KeyColumn):
    """Keys that are told apart, numbered in order of first appearance."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers: dict[int, int] = {}  # by the key's hash, or the next that is free
        self._last: tuple[bytes, int] = (b"", -1)

    def number(self, key: bytes) -> int:
        """The key's number, be it new or not."""
        if key != self._last[0] or not len(self):  # a study's views mostly stand together
            slot = hash(key)
            while (number := self._numbers.setdefault(slot, len(self))) < len(self) and self[number] != key:
                slot += 1
            if number == len(self):
                self.append(key)
            self._last = key, number
        return self._last[1]


def study_key(key: bytes, study_depth: int | None) -> bytes:
    """The study of a view by its path: the first so many parts of it, or, with None, the folder the view lies in."""
    if study_depth is None:
        return os.path.dirname(key) or b"."
    return b"/".join(key.split(b"/")[: study_depth + key.startswith(b"/")])  # an absolute path's first part is empty


def hidden(key: bytes) -> bool:
    """Whether a path leads through what archivers and systems hide, ``__MACOSX`` among it."""
    return any(part == b"__MACOSX" or (part.startswith(b".") and part not in (b".", b"..")) for part in key.split(b"/"))


def is_view(key: bytes, ignored: Counter[str]) -> bool:
    """Whether a path's name may be a view's; counts what is passed over by its suffix, but for what is hidden."""
    if os.path.basename(key).startswith(b"."):  # hidden, AppleDouble (._image1.png) among them
        return False
    suffix = suffix_of(key)
    if suffix in IMAGE_SUFFIXES or may_be_dicom(suffix):
        return True
    ignored[suffix] += 1
    return False


def key_of(name: str) -> bytes:
    """A name that was read as UTF-8, as the bytes that stand in the archive, whatever the locale."""
    return name.encode("utf-8", "surrogateescape")


def suffix_of(key: bytes) -> str:
    """``.png`` of ``a/b.PNG``."""
    return display(os.path.splitext(key)[1]).lower()


def may_be_dicom(suffix: str) -> bool:
    """Whether files of that suffix are looked into: exports have none, or names that are UIDs and end in a number."""
    return suffix in DICOM_SUFFIXES or not suffix or suffix[1:].isdigit()


def plain(path: bytes) -> bytes:
    """Without empty and ``.`` parts, so that a view has one name; ``..`` stays, for a link may lie before it."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    return (b"/" if path.startswith(b"/") else b"") + b"/".join(parts)


def display(key: bytes) -> str:
    """A key as text for tables and messages; line breaks, NUL and what is not UTF-8 show as backslash escapes."""
    text = key.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else text.translate(_ESCAPES)


def body_part(key: bytes) -> str:
    """``WRIST`` of ``.../XR_WRIST/...``; empty where the path names no body part the way MURA does."""
    found = _BODY_PART.search(display(key))
    return found[1] if found else ""


def label(key: bytes) -> int | None:
    """1 or 0 of MURA's ``studyN_positive`` or ``studyN_negative``; None where the path carries no label."""
    found = _LABEL.search(display(key))
    return int(found[1] == "positive") if found else None


def patient(name: str) -> str | None:
    """MURA's ``patient00012`` of a view's or study's name as text; None where it tells of none."""
    found = _PATIENT.search(name)
    return found[1] if found else None

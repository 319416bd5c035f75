"""The nights before: a file with a line of JSON for each, to which lines are added and of which none is changed."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mura_trt.errors import UsageError
from mura_trt.files import sync_folder

_OF_A_NIGHT = {"date", "commit", "key", "figures", "failures"}


def read(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """All records, oldest first, and what is wrong with lines that are none; nothing of a file that is not there.

    A line that accepts a record (:func:`accept`) is not one itself: that record has ``accepted``.

    Raises
    ------
    UsageError
        It cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}); name a file of an earlier run, or a new one"
        ) from error
    records: list[dict[str, Any]] = []
    damaged = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if "accepts" in record:
                next(one for one in reversed(records) if one["date"] == record["accepts"])["accepted"] = True
            elif record.keys() >= _OF_A_NIGHT:
                records.append(record)
            else:
                raise ValueError("fields are missing")
        except (ValueError, AttributeError, TypeError, StopIteration):
            last = " (the last: its run was cut off)" if not any(map(bytes.strip, lines[number:])) else ""
            damaged.append(f"{path}, line {number}{last}: no record, passed over")
    return records, damaged


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Adds a line; it is on the disk when this returns. A line that was cut off before stays by itself.

    Raises
    ------
    UsageError
        The file cannot be written to.
    """
    line = json.dumps(record, allow_nan=False).encode() + b"\n"
    try:
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # two nights at a time do not mix their lines
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except OSError as error:
        raise UsageError(f"{path} cannot be written to ({error.strerror}); choose another history") from error


def accept(path: Path, record: Mapping[str, Any]) -> None:
    """Notes that what a night found is right: its figures are what later nights are compared with."""
    append(path, {"accepts": record["date"]})


def alike(records: list[dict[str, Any]], key: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those of the same machine, bundle, images and mode."""
    return [record for record in records if record["key"] == key]

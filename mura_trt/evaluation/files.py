"""Files of study decisions, as the MURA challenge writes them and as ``score`` does."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mura_trt.archives.listing import body_part, label
from mura_trt.errors import UsageError

NAMED = 3  # studies that a message names
_PATIENT = re.compile(r"(?:^|/)(patient[^/]+)/")


@dataclass
class Predictions:
    """What was decided of n studies.

    Attributes
    ----------
    names
        Studies as :func:`study_name` has them.
    body_parts
        Of each study; empty where unknown.
    probability
        float64 (n,), NaN for a study without a score; None where the file has decisions only.
    decided
        int64 (n,), 1 for abnormal, -1 for a study without a score.
    run
        What ``run.json`` says of the run that scored them, if any did.
    notes
        What was unusual about the file, and how it was taken.
    """

    names: list[str]
    body_parts: list[str]
    probability: NDArray[np.float64] | None
    decided: NDArray[np.int64]
    run: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class Labels:
    """The gold standard of n studies: int64 (n,), and of each of k readers int64 (n, k), if they are known."""

    names: list[str]
    truth: NDArray[np.int64]
    readers: NDArray[np.int64] | None = None
    notes: list[str] = field(default_factory=list)


def study_name(text: str) -> str:
    """A study's folder with forward slashes, without ``./`` in front and a slash behind."""
    parts = [part for part in text.strip().replace("\\", "/").split("/") if part not in ("", ".")]
    return ("/" if text.strip().startswith("/") else "") + "/".join(parts)


def patient(study: str) -> str:
    """MURA's patient of a study; the study itself where its name tells of none."""
    found = _PATIENT.search(f"{study}/")
    return found[1] if found else study


def read_predictions(path: Path, threshold: float | None) -> Predictions:
    """An output folder of ``score``, its table of studies, or a file of ``STUDY/,0|1`` lines.

    Parameters
    ----------
    path
        Folder or file.
    threshold
        Abnormal is a probability strictly above; None keeps the decisions as they were made.

    Raises
    ------
    UsageError
        It cannot be read, means something else, names a study twice, or has no probabilities to be decided anew.
    """
    run = None
    if path.is_dir():
        if not (path / "run.json").exists():
            raise UsageError(f"{path}: no run.json, so no run has come to its end there; go on with score --resume")
        try:
            run = dict(json.loads((path / "run.json").read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"{path / 'run.json'}: cannot be read ({error}); score again with --resume") from error
        path = path / ("studies.csv" if (path / "studies.csv").exists() else "studies.parquet")
    if path.suffix == ".parquet" or {"study", "probability"} <= set(_first_line(path).split(",")):
        found = _of_table(path, threshold)
    else:
        if threshold is not None:
            raise UsageError(f"{path}: it has decisions only, and a threshold needs probabilities; leave it out")
        names, values, notes = _rows(path)
        if values.shape[1] != 1:
            raise UsageError(f"{path}: {values.shape[1]} decisions a line; predictions have one")
        found = Predictions(names, _body_parts(names), None, values[:, 0], notes=notes)
    found.run = run
    return found


def read_labels(path: Path) -> Labels:
    """Lines of ``STUDY/,0|1``, or of an odd number of readers' decisions, whose majority is the gold standard.

    Raises
    ------
    UsageError
        The file cannot be read, means something else, or names a study twice.
    """
    names, values, notes = _rows(path)
    readers = values.shape[1]
    if readers == 1:
        return Labels(names, values[:, 0], None, notes)
    if readers % 2 == 0:
        raise UsageError(f"{path}: {readers} readers have no majority where they are split; give one or an odd number")
    notes.append(f"{path}: the gold standard is the majority of {readers} readers")
    return Labels(names, (2 * values.sum(1) > readers).astype(np.int64), values, notes)


def read_readers(path: Path) -> Labels:
    """Lines of ``STUDY/,0|1,...``: any number of readers, who make no gold standard.

    Raises
    ------
    UsageError
        As :func:`read_labels`.
    """
    names, values, notes = _rows(path)
    return Labels(names, np.full(len(names), -1), values, notes)


def labels_of_names(names: list[str]) -> Labels:
    """The labels that MURA's ``study1_positive`` and ``study1_negative`` tell.

    Raises
    ------
    UsageError
        A name has none.
    """
    found = [label(f"{name}/x".encode()) for name in names]
    without = [name for name, value in zip(names, found, strict=True) if value is None]
    if without:
        raise UsageError(
            f"{some(without)}: no label in the name (study1_positive, study1_negative); give a file with --labels"
        )
    return Labels(names, np.array(found, np.int64))


def some(names: list[str]) -> str:
    """A few of them, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _of_table(path: Path, threshold: float | None) -> Predictions:
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:  # a study or a body part may be called NA
            empty = {"probability": [""], "abnormal": [""]}
            table = pd.read_csv(path, dtype={"study": str}, keep_default_na=False, na_values=empty)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a readable table of studies ({error})") from error
    if not {"study", "probability"} <= set(table):
        raise UsageError(f"{path}: it has {', '.join(map(str, table))}; study and probability are wanted")
    try:
        probability = table["probability"].to_numpy(np.float64)
    except ValueError as error:
        raise UsageError(f"{path}: a probability is no number ({error})") from error
    unscored = np.isnan(probability)
    if (np.abs(probability[~unscored] - 0.5) > 0.5).any():
        raise UsageError(f"{path}: a probability is outside 0 to 1")
    if threshold is not None:
        decisions = (probability > threshold).astype(np.int64)
    elif "abnormal" in table:
        decisions = np.asarray(table["abnormal"].astype("Float64").fillna(-1), np.int64)
    else:
        raise UsageError(f"{path}: no column abnormal; say with --threshold above which probability a study is that")
    names = [study_name(name) for name in table["study"]]
    _check_not_doubled(path, names)
    parts = table["body_part"].astype(str).tolist() if "body_part" in table else _body_parts(names)
    return Predictions(names, parts, probability, np.where(unscored, -1, decisions))


def _rows(path: Path) -> tuple[list[str], NDArray[np.int64], list[str]]:
    """Names and values (n, k) of a file without a header, and what was unusual about it."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a readable text file ({error})") from error
    notes = [f"{path}: its lines end in CR LF; taken as LF"] if "\r\n" in text else []
    rows = enumerate(csv.reader(text.splitlines()), 1)
    lines = [(number, [field.strip() for field in row]) for number, row in rows if row]
    if lines and _is_header(lines[0][1]):
        number, header = lines.pop(0)
        notes.append(f"{path}: line {number} is a header ({','.join(header)}); left out")
    for number, (study, *given) in lines:
        if not study or not given or not set(given) <= {"0", "1"}:
            raise UsageError(f"{path}, line {number}: {','.join([study, *given])!r} is not STUDY/,0 or STUDY/,1")
        if len(given) != len(lines[0][1]) - 1:
            raise UsageError(f"{path}, line {number}: {len(given)} decisions, and another number on line {lines[0][0]}")
    if not lines:
        raise UsageError(f"{path}: no study in it")
    names = [study_name(line[0]) for _, line in lines]
    bare = sum(not line[0].endswith(("/", "\\")) for _, line in lines)
    if bare:
        notes.append(f"{path}: {bare} of {len(names)} studies lack the slash at their end; taken as if they had it")
    _check_not_doubled(path, names)
    return names, np.array([line[1:] for _, line in lines]).astype(np.int64), notes


def _is_header(fields: list[str]) -> bool:
    """Whether a first line is words: no folder in front, and no number where decisions stand."""
    return not re.search(r"[/\\]", fields[0]) and not any(re.fullmatch(r"[-+.\d]*", field) for field in fields[1:])


def _check_not_doubled(path: Path, names: list[str]) -> None:
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise UsageError(f"{path}: in it more than once: {some(doubled)}; leave one line of each")


def _body_parts(names: list[str]) -> list[str]:
    return [body_part(f"{name}/".encode()) for name in names]


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.readline(4096).decode("utf-8-sig", "replace").strip()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error

"""Files of study decisions, as the MURA challenge writes them and as ``score`` does."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mura_trt.archives.keys import body_part, label
from mura_trt.errors import UsageError
from mura_trt.evaluation.finished import WORDS_SHOWN, disclosure_of, read_run_file, read_studies, table_of
from mura_trt.recipe import noted_recipe

NAMED = 3  # studies that a message names
_HASH = re.compile(r"[0-9a-f]{32}")  # a name that DICOM files' studies have in its place


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
    partly
        bool (n,): studies that were decided by some of their views, the others having failed; None where unknown.
    run, recipe
        What ``run.json`` and ``recipe.json`` say of the run that scored them, if any did.
    notes
        What was unusual about the file, and how it was taken.
    """

    names: list[str]
    body_parts: list[str]
    probability: NDArray[np.float64] | None
    decided: NDArray[np.int64]
    partly: NDArray[np.bool_] | None = None
    run: dict[str, Any] | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
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
    recipe: dict[str, Any] = {}
    if path.is_dir():
        run, folder, place = read_run_file(path), path, table_of(path, "studies")
        if place is None:
            raise UsageError(f"{folder}: no studies.csv or studies.parquet; score again with --resume")
        path = place
    if path.stem == "studies":  # which may lie where its run has left it
        recipe = noted_recipe(path.parent)
    if path.suffix == ".parquet" or {"study", "probability"} <= set(_first_fields(path)):
        found = _of_table(path, threshold)
    else:
        if threshold is not None:
            raise UsageError(f"{path}: it has decisions only, and a threshold needs probabilities; leave it out")
        names, values, notes = _rows(path)
        if values.shape[1] != 1:
            raise UsageError(f"{path}: {values.shape[1]} decisions a line; predictions have one")
        found = Predictions(names, _body_parts(names), None, values[:, 0], notes=notes)
    found.run, found.recipe = run, recipe
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


def names_hashed(labels: Labels, predictions: Predictions, salt_file: Path | None) -> Labels:
    """Labels by the names that the predictions have: hashes, where those are of a run that hashed DICOM files' UIDs.

    A name that is among the predictions stays. What is left has no name that may not be told.

    Parameters
    ----------
    labels
        Of studies by StudyInstanceUID (or folder), or by hash.
    predictions
        Whose run says how it named studies.
    salt_file
        As :func:`mura_trt.evaluation.finished.disclosure_of`.

    Raises
    ------
    UsageError
        The salt is not the run's, and some names are no hashes.
    """
    if not str(predictions.recipe.get("uids", "")).startswith("hashed"):
        return labels
    known = set(predictions.names)
    plain = [name for name in labels.names if name not in known and not _HASH.fullmatch(name)]
    if not plain:
        return labels
    try:
        shown = disclosure_of(predictions.recipe, salt_file)
    except UsageError as error:
        raise UsageError(
            f"the run names its studies by hashes of their UIDs, and {len(plain)} of {len(labels.names)} labels have"
            f" other names: {error}, or score again with --keep-uids"
        ) from error
    assert shown is not None
    hashes = {name: shown.digest(name.encode()) for name in plain}
    notes = [*labels.notes, f"the run names its studies by hashes; {len(plain)} labels were found by theirs"]
    return replace(labels, names=[hashes.get(name, name) for name in labels.names], notes=notes)


def some(names: list[str]) -> str:
    """A few of them, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _of_table(path: Path, threshold: float | None) -> Predictions:
    table = read_studies(path)
    probability = table["probability"].to_numpy()
    if threshold is not None:
        decisions = (probability > threshold).astype(np.int64)
    elif "abnormal" in table:
        decisions = table["abnormal"].to_numpy()
    else:
        raise UsageError(f"{path}: no column abnormal; say with --threshold above which probability a study is that")
    names = [study_name(name) for name in table["study"]]
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise UsageError(f"{path}: in it more than once: {some(doubled)}; leave one line of each")
    parts = table["body_part"].tolist() if "body_part" in table else _body_parts(names)
    partly = (table["failed"] > 0).to_numpy() if "failed" in table else None
    return Predictions(names, parts, probability, np.where(np.isnan(probability), -1, decisions), partly)


def _rows(path: Path) -> tuple[list[str], NDArray[np.int64], list[str]]:
    """Names and values (n, k) of a file without a header, and what was unusual about it."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a readable text file ({error})") from error
    notes = [f"{path}: its lines end in CR LF; taken as LF"] if "\r\n" in text else []
    lines = _lines(path, text)
    if lines and _is_header(lines[0][1]):
        number, header = lines.pop(0)
        notes.append(f"{path}: line {number} is a header ({_short(header)}); left out")
    for number, (study, *given) in lines:
        # Names are not told here: they may be UIDs of a run that hides them.
        if not study or not given or not set(given) <= {"0", "1"}:
            what = f"{_short(given)!r} behind the study" if given else "no decision"
            raise UsageError(f"{path}, line {number}: {what if study else 'no study'}; a line is STUDY/,0 or STUDY/,1")
        if len(given) != len(lines[0][1]) - 1:
            raise UsageError(f"{path}, line {number}: {len(given)} decisions, and another number on line {lines[0][0]}")
    if not lines:
        raise UsageError(f"{path}: no study in it")
    names = [study_name(line[0]) for _, line in lines]
    bare = sum(not line[0].endswith(("/", "\\")) for _, line in lines)
    if bare:
        notes.append(f"{path}: {bare} of {len(names)} studies lack the slash at their end; taken as if they had it")
    first: dict[str, int] = {}
    for (number, _), name in zip(lines, names, strict=True):
        if first.setdefault(name, number) != number:
            raise UsageError(f"{path}, line {number}: the study of line {first[name]} again; leave one line of each")
    return names, np.array([line[1:] for _, line in lines]).astype(np.int64), notes


def _lines(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """The fields of every line that holds any, with the number of the line that they begin on."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    found, number = [], 1
    try:
        for row in reader:
            if row:
                found.append((number, [field.strip() for field in row]))
            number = reader.line_num + 1
    except csv.Error as error:
        raise UsageError(f"{path}, line {number}: not CSV ({error}); a quotation mark too many or too few?") from error
    return found


def _short(fields: list[str]) -> str:
    row = ",".join(fields)
    return row if len(row) <= WORDS_SHOWN else f"{row[:WORDS_SHOWN]}..."


def _is_header(fields: list[str]) -> bool:
    """Whether a first line is words: no folder in front, and no number where decisions stand."""
    return not re.search(r"[/\\]", fields[0]) and not any(re.fullmatch(r"[-+.\d]*", field) for field in fields[1:])


def _body_parts(names: list[str]) -> list[str]:
    return [body_part(f"{name}/".encode()) for name in names]


def _first_fields(path: Path) -> list[str]:
    """Those of the first line, as the header of a table has them."""
    try:
        with path.open("rb") as file:
            line = file.readline(4096).decode("utf-8-sig", "replace")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    return [field.strip() for field in next(csv.reader([line], skipinitialspace=True), [])]

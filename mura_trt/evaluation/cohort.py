"""Predictions and labels of the same studies, matched by name."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mura_trt.archives.keys import patient
from mura_trt.errors import UsageError
from mura_trt.evaluation.files import Labels, Predictions, some

_MURA_PART = re.compile(r"(?:^|/)(XR_[A-Z]+/.*)")


@dataclass
class Cohort:
    """n studies whose truth and decision are both known.

    Attributes
    ----------
    truth, decided
        int64 (n,): 1 for abnormal.
    probability
        float64 (n,), or None where only decisions are known.
    readers
        int64 (n, k): what each of k readers decided; None where there are none.
    patients
        int64 (n,): studies of one number are of one patient; no number is left out.
    body_parts
        Of each study; empty where unknown.
    notes
        What became of studies that are not among these, and how names were matched.
    names
        Of each study, as the predictions have it; empty where nobody asks.
    """

    truth: NDArray[np.int64]
    decided: NDArray[np.int64]
    probability: NDArray[np.float64] | None
    readers: NDArray[np.int64] | None
    patients: NDArray[np.int64]
    body_parts: list[str]
    notes: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def patient_count(self) -> int:
        """Of how many patients they are."""
        return int(self.patients.max()) + 1

    def by_body_part(self) -> dict[str, Cohort]:
        """The studies of each body part, in order of its name; those whose part is unknown are in none."""
        numbers: dict[str, int] = {}
        part_of = np.array([numbers.setdefault(part, len(numbers)) for part in self.body_parts], np.int64)
        return {part: self._rows(np.flatnonzero(part_of == numbers[part])) for part in sorted(numbers) if part}

    def _rows(self, rows: NDArray[np.int64]) -> Cohort:
        return Cohort(
            self.truth[rows],
            self.decided[rows],
            None if self.probability is None else self.probability[rows],
            None if self.readers is None else self.readers[rows],
            np.unique(self.patients[rows], return_inverse=True)[1],
            [self.body_parts[row] for row in rows.tolist()],
        )


def matched(predictions: Predictions, labels: Labels, readers: Labels | None = None, partial: bool = False) -> Cohort:
    """The studies that predictions and labels tell of.

    Names are matched as they are or, where no two are the same, from ``XR_...`` on.

    Parameters
    ----------
    predictions, labels
        Of studies named once each.
    readers
        Whose decisions stand beside the predictions; None takes those of the labels, if they have any.
    partial
        Leave studies out that are not on both sides or have no score; without it they are an error.

    Raises
    ------
    UsageError
        Studies are missing, unknown, without a score, or named alike by the end of their names.
    """
    notes = [*predictions.notes, *labels.notes]
    ours, theirs = predictions.names, labels.names
    if not set(ours) & set(theirs):
        ours, theirs = _from_body_part(ours), _from_body_part(theirs)
        notes.append("names of studies differ in front; matched from XR_... on")
    row_of = {name: row for row, name in enumerate(ours)}
    common = [(row_of[name], at) for at, name in enumerate(theirs) if name in row_of]
    if not common:
        raise UsageError(
            f"no study is in both: predictions have {some(predictions.names[:1])}, labels {some(labels.names[:1])}"
        )
    known = set(theirs)
    in_both = [row for row, _ in common]
    leaving = {
        "missing from the predictions": [name for name in theirs if name not in row_of],
        "without a label": [name for name in ours if name not in known],
        "without a score or decision": [ours[row] for row in sorted(in_both) if predictions.decided[row] < 0],
    }
    kept = [(row, at) for row, at in common if predictions.decided[row] >= 0]
    reader_of = None if readers is None else _rows_of(readers, predictions.names, in_both, notes)
    if reader_of is not None:
        leaving["that the readers have not decided"] = [ours[row] for row, _ in kept if row not in reader_of]
        kept = [(row, at) for row, at in kept if row in reader_of]
    for reason, names in leaving.items():
        if not names:
            continue
        if not partial:
            raise UsageError(f"{len(names)} studies {reason}: {some(names)}; --partial leaves such studies out")
        notes.append(f"{len(names)} studies {reason}, left out: {some(names)}")
    if not kept:
        raise UsageError("no study has all of a label, a score and, where they are named, readers' decisions")
    rows, ats = np.array(kept).T
    read = labels.readers[ats] if labels.readers is not None else None
    if readers is not None and reader_of is not None:
        assert readers.readers is not None
        read = readers.readers[[reader_of[row] for row in rows.tolist()]]
        if len(readers.names) > len(rows):
            notes.append(f"{len(readers.names) - len(rows)} studies of the readers are not among these, left out")
    elif read is not None:
        notes.append("the readers make the gold standard themselves, which favours each of them")
    if predictions.partly is not None and (partly := int(predictions.partly[rows].sum())):
        notes.append(f"{partly} studies were decided by part of their views; the others have failed")
    names = [predictions.names[row] for row in rows.tolist()]
    return Cohort(
        labels.truth[ats],
        predictions.decided[rows],
        None if predictions.probability is None else predictions.probability[rows],
        read,
        _patients(names, notes),
        [predictions.body_parts[row] for row in rows.tolist()],
        notes,
        names,
    )


def _patients(names: list[str], notes: list[str]) -> NDArray[np.int64]:
    """A number for each study's patient; a study whose name tells of none is a patient of its own."""
    numbers: dict[str, int] = {}
    told = [patient(name) for name in names]
    unknown = told.count(None)
    if unknown:
        notes.append(f"{unknown} of {len(names)} names tell of no patient, each counted as one")
    # No name of a study that tells of no patient is a patient's.
    found = [numbers.setdefault(known or name, len(numbers)) for known, name in zip(told, names, strict=True)]
    return np.array(found, np.int64)


def _from_body_part(names: list[str]) -> list[str]:
    cut = [found[1] if (found := _MURA_PART.search(name)) else name for name in names]
    doubled = [name for name, count in Counter(cut).items() if count > 1]
    if doubled:
        raise UsageError(f"studies cannot be told apart by the end of their names: {some(doubled)}")
    return cut


def _rows_of(readers: Labels, names: list[str], rows: list[int], notes: list[str]) -> dict[int, int]:
    """Rows of the readers' file by rows of the predictions, of those that both tell of."""
    notes += readers.notes
    theirs = readers.names
    if not {names[row] for row in rows} & set(theirs):
        names, theirs = _from_body_part(names), _from_body_part(theirs)
        notes.append("names of the readers' studies differ in front; matched from XR_... on")
    row_of = {name: row for row, name in enumerate(theirs)}
    return {row: row_of[names[row]] for row in rows if names[row] in row_of}

"""Predictions and labels of the same studies, matched by name."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mura_trt.errors import UsageError
from mura_trt.evaluation.files import Labels, Predictions, patient, some

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

    def part(self, body_part: str) -> Cohort:
        """Its studies of one body part."""
        here = np.array([part == body_part for part in self.body_parts])
        return Cohort(
            self.truth[here],
            self.decided[here],
            None if self.probability is None else self.probability[here],
            None if self.readers is None else self.readers[here],
            np.unique(self.patients[here], return_inverse=True)[1],
            [body_part] * int(here.sum()),
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
    scored = [(row, at) for row, at in common if predictions.decided[row] >= 0]
    in_both = {row for row, _ in common}
    leaving = {
        "missing from the predictions": [name for name in theirs if name not in row_of],
        "without a label": [name for name in ours if name not in known],
        "without a score": [ours[row] for row in sorted(in_both) if predictions.decided[row] < 0],
    }
    for reason, names in leaving.items():
        if not names:
            continue
        if not partial:
            raise UsageError(f"{len(names)} studies {reason}: {some(names)}; --partial leaves such studies out")
        notes.append(f"{len(names)} studies {reason}, left out: {some(names)}")
    if not scored:
        raise UsageError("no study has both a label and a score")
    rows, ats = np.array(scored).T
    truth = labels.truth[ats]
    read = labels.readers[ats] if labels.readers is not None else None
    if readers is not None:
        read = _read(readers, [predictions.names[row] for row in rows])
        notes += readers.notes
        if len(readers.names) > len(rows):
            notes.append(f"{len(readers.names) - len(rows)} studies of the readers are not among these, left out")
    elif read is not None:
        notes.append("the readers make the gold standard themselves, which favours each of them")
    names = [predictions.names[row] for row in rows]
    patients = [patient(name) for name in names]
    if patients == names:
        notes.append("names tell of no patients; each study is taken for one")
    _, numbers = np.unique(patients, return_inverse=True)
    return Cohort(
        truth,
        predictions.decided[rows],
        None if predictions.probability is None else predictions.probability[rows],
        read,
        numbers,
        [predictions.body_parts[row] for row in rows],
        notes,
        names,
    )


def _from_body_part(names: list[str]) -> list[str]:
    cut = [found[1] if (found := _MURA_PART.search(name)) else name for name in names]
    doubled = [name for name, count in Counter(cut).items() if count > 1]
    if doubled:
        raise UsageError(f"studies cannot be told apart by the end of their names: {some(doubled)}")
    return cut


def _read(readers: Labels, names: list[str]) -> NDArray[np.int64]:
    assert readers.readers is not None
    theirs = readers.names
    if not set(names) & set(theirs):
        names, theirs = _from_body_part(names), _from_body_part(theirs)
    row_of = {name: row for row, name in enumerate(theirs)}
    without = [name for name in names if name not in row_of]
    if without:
        raise UsageError(f"{len(without)} studies that the readers have not decided: {some(without)}")
    return readers.readers[[row_of[name] for name in names]]

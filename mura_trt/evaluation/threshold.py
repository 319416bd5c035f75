"""Operating points: thresholds chosen on studies whose truth is known, and the file that hands one to ``score``."""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mura_trt.errors import UsageError
from mura_trt.files import write_atomically

RULES = "youden, sensitivity=0.95 or specificity=0.95"


class Choice(NamedTuple):
    """A threshold, and the sensitivity and specificity that it has on the studies it was chosen on."""

    threshold: float
    sensitivity: float
    specificity: float


def choose_threshold(truth: NDArray[np.int64], probability: NDArray[np.float64], rule: str) -> Choice:
    """A threshold, half-way between two neighbouring probabilities, above which a study is abnormal.

    ``youden`` takes the largest sensitivity + specificity - 1 (Youden 1950), of equal ones the most sensitive;
    ``sensitivity=S`` the highest threshold with a sensitivity of S or more; ``specificity=S`` the lowest with such a
    specificity.

    Parameters
    ----------
    truth
        int64 (n,), of both classes.
    probability
        float64 (n,).
    rule
        One of those above.

    Raises
    ------
    UsageError
        There is no such rule, or one class only.
    """
    found = re.fullmatch(r"youden|(sensitivity|specificity)=(0?\.\d+|0|1)", rule)
    if not found:
        raise UsageError(f"--choose-threshold {rule}: give {RULES}")
    abnormal = int(truth.sum())
    if not 0 < abnormal < len(truth):
        raise UsageError("a threshold cannot be chosen on studies of one class only")
    values = np.unique(probability)
    # Below all, between neighbours, and at the largest, which is not above itself.
    thresholds = np.concatenate([[values[0] / 2], (values[1:] + values[:-1]) / 2, values[-1:]])
    ordered = np.sort(probability[truth == 1]), np.sort(probability[truth == 0])
    below = [np.searchsorted(part, thresholds, "right") for part in ordered]
    # Whole numbers, for a share such as 0.93 of 100 studies is reached by 93 of them whatever is rounded.
    normal = len(truth) - abnormal
    caught, cleared = abnormal - below[0], below[1]
    if found[1] is None:
        at = int(np.argmax(caught * normal + cleared * abnormal))  # the first of equal ones
    elif found[1] == "sensitivity":
        enough = np.flatnonzero(caught >= math.ceil(Fraction(found[2]) * abnormal))
        if not len(enough):
            raise UsageError(f"--choose-threshold {rule}: an abnormal study has the probability 0, which is above none")
        at = int(enough[-1])
    else:
        at = int(np.flatnonzero(cleared >= math.ceil(Fraction(found[2]) * normal))[0])
    return Choice(float(thresholds[at]), int(caught[at]) / abnormal, int(cleared[at]) / normal)


def write_threshold(path: Path, choice: Choice, **origin: Any) -> None:
    """Keeps a threshold with where it comes from; raises OSError."""
    content = {**choice._asdict(), **origin}
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def read_threshold(given: str) -> tuple[float, str | None]:
    """A threshold as a number or in a file, and the hash of the bundle it was chosen for, if it tells.

    Raises
    ------
    UsageError
        It is neither.
    """
    try:
        return float(given), None
    except ValueError:
        pass
    try:
        content = json.loads(Path(given).read_text())
        return float(content["threshold"]), content.get("bundle_sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"--threshold {given}: neither a number nor a file that evaluate --choose-threshold wrote ({error})"
        ) from error

"""What a run that has come to its end says: ``run.json`` and its table of studies, read and checked in one place."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mura_trt.archives.disclosure import Disclosure
from mura_trt.errors import UsageError
from mura_trt.recipe import RECIPE
from mura_trt.results import RUN_FILE
from mura_trt.tables import FORMATS

if TYPE_CHECKING:
    import pandas as pd

WORDS_SHOWN = 80  # characters of what is no number or no line
# What is read of a run, with what it must be.
_NUMBER = (int, float)
_OF_RUN: dict[str, type | tuple[type, ...]] = {
    "archive": object,
    "bundle": dict,
    "command": object,
    "versions": dict,
    "runtime": object,
    "device": object,
    "batch": object,
    "passed_over": list,
    "threshold": _NUMBER,
    "listed": _NUMBER,
    "scored": _NUMBER,
    "failed": _NUMBER,
    "unlisted": object,
    "workers_lost": object,
    "views_per_s": _NUMBER,
    "wall_s": _NUMBER,
    "stage_s": dict,
}
_OF_BUNDLE = ("name", "precision", "sha256", "parity")
_OF_STUDIES = ("study", "body_part", "views", "scored", "failed", "probability", "abnormal")
_COUNTS = ("views", "scored", "failed")
_DECISIONS = {"": -1, "0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
# Files of a run beside the two that tell of it.
_OWN = re.compile(
    r"(studies|views|failures|heatmaps|vanished)\.(csv|parquet)|\w+\.dat|worker(-\d+)?\.log|\.lock|\.before-.*"
)


def read_run_file(folder: Path) -> dict[str, Any]:
    """What ``run.json`` says, with all that is read of it anywhere.

    Raises
    ------
    UsageError
        No run has come to its end there, or the file is broken, or is of a version that wrote something else.
    """
    path = folder / RUN_FILE
    if not path.exists():
        raise UsageError(f"{folder}: no {RUN_FILE}, so no run has come to its end there; go on with score --resume")
    try:
        run = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); score again with --resume") from error
    if not isinstance(run, dict):
        raise UsageError(f"{path}: it does not tell of a run; score again with --resume")
    lacks = [name for name, kind in _OF_RUN.items() if not _is(run.get(name), kind)]
    if "bundle" not in lacks:
        lacks += [f"bundle.{name}" for name in _OF_BUNDLE if name not in run["bundle"]]
    if "stage_s" not in lacks and not all(_is(spent, _NUMBER) for spent in run["stage_s"].values()):
        lacks.append("stage_s")
    if lacks:
        raise UsageError(f"{path} lacks {', '.join(lacks)}; it is of another version; score again with --overwrite")
    return run


def own_files(folder: Path) -> list[Path]:
    """The files of a run, there or not, and its folders of files: no result may be written in their place.

    Of a file they are itself and, where it lies in a run's folder, those of the run.
    """
    if not folder.is_dir():
        return [folder, *(own_files(folder.parent) if (folder.parent / RUN_FILE).exists() else [])]
    there = [path for path in folder.iterdir() if _OWN.fullmatch(path.name)]
    return [*(folder / name for name in (RUN_FILE, RECIPE, "shards", "heatmaps")), *there]


def table_of(folder: Path, table: str) -> Path | None:
    """A run's table in whatever format it has; None where there is none."""
    return next((path for kind in FORMATS if (path := folder / f"{table}.{kind}").exists()), None)


def read_studies(path: Path, whole: bool = False) -> pd.DataFrame:
    """A table of studies.

    Parameters
    ----------
    path
        CSV or Parquet.
    whole
        Whether it is to have all columns that ``score`` writes; else study and probability will do.

    Returns
    -------
    DataFrame
        Those of these columns that it has: study and body_part (text), probability (float64, NaN without a score),
        abnormal (int64, -1 without a decision), and views, scored and failed (int64).

    Raises
    ------
    UsageError
        It cannot be read, lacks a column, or holds what is no such value.
    """
    import pandas as pd

    def wanted(column: str) -> bool:
        return column.strip() in _OF_STUDIES

    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:  # as it stands, for a study or a body part may be called NA
            table = pd.read_csv(
                path,
                usecols=wanted,
                dtype=str,
                keep_default_na=False,
                encoding="utf-8-sig",
                skipinitialspace=not whole,  # of our own tables, a name may begin with a blank
            )
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a table with study and probability ({_short(str(error))})") from error
    table = table.rename(columns=lambda name: str(name).strip())
    lacks = [name for name in (_OF_STUDIES if whole else ("study", "probability")) if name not in table]
    if lacks or not table.columns.is_unique or not isinstance(table.index, pd.RangeIndex):
        why = f"it lacks {', '.join(lacks)}" if lacks else "its lines do not fit its header"
        raise UsageError(f"{path}: not a table of studies; {why}")
    found = pd.DataFrame({name: _words(table[name]) for name in ("study", "body_part") if name in table}, dtype="str")
    if (found["study"] == "").any():
        raise UsageError(f"{path}: a study has no name")
    found["probability"] = _probabilities(path, table["probability"])
    for name in _COUNTS:
        if name in table:
            found[name] = _whole_numbers(path, name, table[name])
    if "abnormal" in table:
        found["abnormal"] = _decisions(path, table["abnormal"])
    return found


def disclosure_of(recipe: dict[str, Any], salt_file: Path | None) -> Disclosure | None:
    """How a run showed paths and UIDs of DICOM files; None where its archive holds none. The salt is not made here.

    Parameters
    ----------
    recipe
        What its ``recipe.json`` says.
    salt_file
        What hashes are keyed with; None takes the user's own.

    Raises
    ------
    UsageError
        It is not the salt that the run hashed with.
    """
    uids = recipe.get("uids")
    if uids is None:
        return None
    found = Disclosure.of(salt_file, bool(recipe.get("keep_paths")), str(uids).startswith("kept"))
    if not found.salt_file.exists() or found.tag != uids:
        raise UsageError(
            f"{found.salt_file} is not the salt that the run hashed names with; name it with --uid-salt-file"
        )
    return found


def _is(value: object, kind: type | tuple[type, ...]) -> bool:
    if kind is _NUMBER:
        return isinstance(value, _NUMBER) and not isinstance(value, bool) and math.isfinite(value)
    return value is not None and isinstance(value, kind)


def _words(column: pd.Series) -> list[str]:
    words: list[str] = column.astype(object).where(column.notna(), "").astype(str).tolist()
    return words


def _probabilities(path: Path, column: pd.Series) -> NDArray[np.float64]:
    numbers = _numbers(path, "probability", column)
    if (np.abs(numbers[~np.isnan(numbers)] - 0.5) > 0.5).any():
        raise UsageError(f"{path}: a probability is outside 0 to 1")
    return numbers


def _whole_numbers(path: Path, name: str, column: pd.Series) -> NDArray[np.int64]:
    numbers = _numbers(path, name, column)
    if not (np.isfinite(numbers) & (numbers >= 0) & (numbers == np.floor(numbers))).all():
        raise UsageError(f"{path}: in column {name} is what is no count")
    return numbers.astype(np.int64)


def _decisions(path: Path, column: pd.Series) -> NDArray[np.int64]:
    words = column.astype(object).where(column.notna(), "").astype(str).str.strip().str.lower()
    strange = [word for word in words.unique() if word not in _DECISIONS]
    if strange:
        raise UsageError(f"{path}: in column abnormal is {_short(strange[0])!r}; 0, 1 or nothing is wanted")
    return np.array(words.map(_DECISIONS), np.int64)


def _numbers(path: Path, name: str, column: pd.Series) -> NDArray[np.float64]:
    """NaN where it is empty; from text by Python, to the last digit."""
    try:
        if column.dtype.kind in "iuf":
            return column.to_numpy(np.float64, na_value=np.nan)
        return column.astype(object).where(column.notna() & (column != ""), "nan").to_numpy().astype(np.float64)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}: in column {name} is no number ({_short(str(error))})") from error


def _short(words: str) -> str:
    return words if len(words) <= WORDS_SHOWN else f"{words[:WORDS_SHOWN]}..."

"""What a report is made from: a finished run's tables, in the order of its worklist."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mura_trt.errors import UsageError
from mura_trt.evaluation.finished import read_run_file, read_studies, table_of
from mura_trt.recipe import noted_recipe
from mura_trt.results import RUN_FILE

if TYPE_CHECKING:
    import pandas as pd

HEATMAPS = "heatmaps"


@dataclass(frozen=True)
class ScoredRun:
    """A run that has come to its end.

    Attributes
    ----------
    folder
        Its output folder.
    run, recipe
        What ``run.json`` and ``recipe.json`` say.
    written
        When ``run.json`` was.
    studies
        study, body_part, views, scored, failed, probability (NaN without a score) and abnormal (-1 without one), the
        highest probability first and those without one last.
    views
        view, study, probability: of those that were scored.
    failures
        view, study, stage, code, message: of the others.
    heatmaps
        By view: the overlay's file, relative to the folder; empty where none were drawn.
    """

    folder: Path
    run: dict[str, Any]
    recipe: dict[str, Any]
    written: datetime
    studies: pd.DataFrame
    views: pd.DataFrame
    failures: pd.DataFrame
    heatmaps: dict[str, str]


def read_run(folder: Path) -> ScoredRun:
    """Reads an output folder of ``score``.

    Raises
    ------
    UsageError
        No run has come to its end there, or a table is missing or is none.
    """
    run = read_run_file(folder)
    written = datetime.fromtimestamp((folder / RUN_FILE).stat().st_mtime, UTC)
    studies = read_studies(_there(folder, "studies"), whole=True)
    views = _table(folder, "views", ["view", "study"], ["probability"])
    failures = _table(folder, "failures", ["view", "study", "stage", "code", "message"])
    drawn = _table(folder, HEATMAPS, ["view", "file"]) if table_of(folder, HEATMAPS) else None
    return ScoredRun(
        folder,
        run,
        noted_recipe(folder),
        written,
        studies.sort_values("probability", ascending=False, kind="stable", ignore_index=True),
        views,
        failures,
        {} if drawn is None else dict(zip(drawn["view"], drawn["file"], strict=True)),
    )


def _there(folder: Path, table: str) -> Path:
    path = table_of(folder, table)
    if path is None:
        raise UsageError(f"{folder}: no {table}.csv or {table}.parquet; score again with --resume")
    return path


def _table(folder: Path, table: str, words: list[str], numbers: list[str] | None = None) -> pd.DataFrame:
    """Columns of a table: ``words`` as text, ``numbers`` as float64, NaN where they are empty."""
    import pandas as pd

    path = _there(folder, table)
    numbers = numbers or []
    columns = [*words, *numbers]
    try:
        if path.suffix == ".csv":  # a study or a body part may be called NA
            empty = {column: [""] for column in numbers}
            found = pd.read_csv(
                path, usecols=columns, dtype=dict.fromkeys(words, str), keep_default_na=False, na_values=empty
            )
        else:
            found = pd.read_parquet(path, columns=columns)
        found = found.fillna(dict.fromkeys(words, ""))
        return found.astype(dict.fromkeys(words, str) | dict.fromkeys(numbers, np.float64))[columns]
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"{path}: not a table with {', '.join(columns)} ({error}); score again with --resume"
        ) from error

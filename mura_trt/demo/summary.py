"""How the demo's scores compare with what was drawn: for the screen at the end of ``make demo``, and for benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from mura_trt.demo.lesions import LESION_KINDS
from mura_trt.errors import UsageError
from mura_trt.metrics import auroc, cohen_kappa

if TYPE_CHECKING:
    import pandas as pd


def drawn_and_scored(archive: Path, out: Path) -> pd.DataFrame:
    """A row for each scored study of a demo archive: study, body_part, label, kind, probability, abnormal.

    Raises
    ------
    UsageError
        No demo archive or no scores there.
    """
    import pandas as pd

    try:
        drawn = pd.read_csv(archive / "views.csv", keep_default_na=False)
        scored = pd.read_csv(out / "studies.csv").dropna(subset="probability")
        studies = drawn.drop_duplicates("study")[["study", "body_part", "label", "kind"]]
    except OSError as error:
        raise UsageError(f"{error.filename}: not there; run mura-trt demo, then mura-trt score") from error
    except KeyError as error:
        raise UsageError(f"{archive}: no demo archive; name the folder that mura-trt demo made") from error
    both = studies.merge(scored[["study", "probability", "abnormal"]], on="study").astype({"abnormal": int})
    if both.empty:
        raise UsageError(f"{out}: scores of no study of {archive}; name the archive that was scored")
    return both


def by_kind(studies: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """All studies, and for each kind of lesion that occurs its studies with all normal ones."""
    parts = {"all": studies}
    for kind in LESION_KINDS:
        if (studies["kind"] == kind).any():
            parts[kind] = studies[(studies["kind"] == kind) | (studies["label"] == 0)]
    return parts


def summarise(archive: Path, out: Path) -> str:
    """A few lines on a scored demo archive: counts, speed, AUROC overall and per kind of lesion, kappa, and the files.

    Raises
    ------
    UsageError
        No demo archive or no finished run there.
    """
    studies = drawn_and_scored(archive, out)
    try:
        run = json.loads((out / "run.json").read_text())
    except OSError as error:
        raise UsageError(f"{error.filename}: not there; run mura-trt score to its end") from error
    table = [
        f"{name:<12}{len(part):>8}{part['label'].sum():>10}   {auroc(part['label'], part['probability'])}"
        for name, part in by_kind(studies).items()
    ]
    lines = [
        "Demo model on synthetic images: it says nothing about patients.",
        f"{run['studies']} studies, {run['listed']} views, {run['failed']} failed;"
        f" {run['views_per_s']:.2f} views/s with {run['runtime']}",
        f"{'lesion':<12}{'studies':>8}{'abnormal':>10}   AUROC (95 % interval)",
        *table,
        f"Cohen's kappa at the threshold {run['threshold']}: {cohen_kappa(studies['label'], studies['abnormal'])}",
        f"files: {out}/studies.csv  {out}/views.csv  {out}/failures.csv  {out}/run.json",
    ]
    return "\n".join(lines)

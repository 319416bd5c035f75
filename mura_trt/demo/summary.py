"""How the demo's scores compare with what was drawn: for the screen at the end of ``make demo``."""

from __future__ import annotations

import json
from pathlib import Path

from mura_trt.archive import label
from mura_trt.demo.xray import LESION_KINDS
from mura_trt.errors import UsageError
from mura_trt.metrics import auroc, cohen_kappa


def summarise(archive: Path, out: Path) -> str:
    """A few lines on a scored demo archive: counts, speed, AUROC overall and per kind of lesion, kappa, and the files.

    Raises
    ------
    UsageError
        No demo archive or no finished run there.
    """
    import pandas as pd

    try:
        lesions = pd.read_csv(archive / "lesions.csv").drop_duplicates("study").set_index("study")["kind"]
        studies = pd.read_csv(out / "studies.csv").dropna(subset="probability")
        run = json.loads((out / "run.json").read_text())
    except OSError as error:
        raise UsageError(f"{error.filename}: not there; run mura-trt demo, then mura-trt score") from error
    truth = studies["study"].map(lambda study: label(str(study).encode())).astype(int)
    kind = studies["study"].map(lesions).fillna("")
    rows = [("all", truth.index)]
    for lesion in LESION_KINDS:
        if (kind == lesion).any():
            rows.append((lesion, truth.index[(kind == lesion) | (truth == 0)]))
    table = [
        f"{name:<12}{len(at):>8}{truth[at].sum():>10}   {auroc(truth[at], studies.loc[at, 'probability'])}"
        for name, at in rows
    ]
    lines = [
        "Demo model on synthetic images: it says nothing about patients.",
        f"{run['studies']} studies, {run['listed']} views, {run['failed']} failed;"
        f" {run['views_per_s']} views/s with {run['runtime']}",
        f"{'lesion':<12}{'studies':>8}{'abnormal':>10}   AUROC (95 % interval)",
        *table,
        f"Cohen's kappa at the threshold {run['threshold']}: {cohen_kappa(truth, studies['abnormal'].astype(int))}",
        f"files: {out}/studies.csv  {out}/views.csv  {out}/failures.csv  {out}/run.json",
    ]
    return "\n".join(lines)

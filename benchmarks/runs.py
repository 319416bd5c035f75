"""Output folders as ``score`` leaves them, made without scoring: for pages of any size, and with any names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mura_trt.archives.listing import Listing
from mura_trt.earlier import hashes_of, write_hashes
from mura_trt.recipe import note_recipe
from mura_trt.results import HASHES_FILE, RUN_FILE


class MadeStudy(NamedTuple):
    """A study; ``views`` are probabilities by the view's name, None for one that failed."""

    name: str
    body_part: str
    views: dict[str, float | None]
    message: str = "neither DALI nor Pillow knows what it is"


def made_of(listing: Listing, seed: int = 0) -> list[MadeStudy]:
    """An archive's studies with random probabilities."""
    rng = np.random.default_rng(seed)
    names = listing.view_names(listing.keys(0, len(listing)))
    views: dict[int, dict[str, float | None]] = {}
    for name, study in zip(names, listing.study_of.tolist(), strict=True):
        views.setdefault(study, {})[name] = round(float(rng.random()), 6)
    parts = listing.body_parts_of_studies()
    return [
        MadeStudy(name, part, views[number])
        for number, (name, part) in enumerate(
            zip(listing.study_names(np.arange(len(listing.studies), dtype=np.int32)), parts, strict=True)
        )
    ]


def write_run(
    out: Path, studies: Sequence[MadeStudy], listing: Listing | None = None, table_format: str = "csv", **changes: Any
) -> Path:
    """Writes a finished run of these studies.

    Parameters
    ----------
    out
        The folder; made.
    studies
        What was scored.
    listing
        Of the archive that they are in, if there is one.
    table_format
        ``csv`` or ``parquet``.
    **changes
        Other fields of ``run.json``.
    """
    out.mkdir(parents=True)
    threshold = changes.get("threshold", 0.5)
    rows: dict[str, list[dict[str, Any]]] = {"studies": [], "views": [], "failures": []}
    for study in studies:
        scores = [value for value in study.views.values() if value is not None]
        mean = float(np.mean(scores)) if scores else None
        rows["studies"].append(
            {
                "study": study.name,
                "body_part": study.body_part,
                "views": len(study.views),
                "scored": len(scores),
                "failed": len(study.views) - len(scores),
                "probability": mean,
                "abnormal": None if mean is None else int(mean > threshold),
            }
        )
        for view, value in study.views.items():
            known = {"view": view, "study": study.name}
            if value is None:
                rows["failures"].append({**known, "stage": "decode", "code": "UNDECODABLE", "message": study.message})
            else:
                logit = float(np.log(value / (1 - value)))
                rows["views"].append({**known, "logit": logit, "probability": value, "color": 0})
    columns = {"failures": ["view", "study", "stage", "code", "message"]}
    for name, found in rows.items():
        table = pd.DataFrame(found, columns=columns.get(name)).astype({"abnormal": "Int8"} if name == "studies" else {})
        path = out / f"{name}.{table_format}"
        table.to_csv(path, index=False) if table_format == "csv" else table.to_parquet(path, index=False)
    root = str(listing.source.root) if listing else "/nowhere"
    kept = listing.disclosure if listing else None
    note_recipe(
        out,
        {
            "archive": root,
            "uids": kept.tag if kept else None,
            "keep_paths": kept.keep_paths if kept else None,
        },
    )
    if listing:
        write_hashes(out / HASHES_FILE, hashes_of(listing))
    scored, failed = len(rows["views"]), len(rows["failures"])
    run = {
        "command": f"mura-trt score {root} --engine engine -o out",
        "versions": {"python": "3.11.7", "mura_trt": "0.1.0", "numpy": np.__version__},
        "archive": root,
        "bundle": {
            "name": "made",
            "precision": "fp16",
            "sha256": "0" * 64,
            "parity": "probabilities differ by 1.0e-05 on average, 1.0e-04 at most, on 64 views (emulated)",
        },
        "runtime": "onnxruntime",
        "device": "cpu",
        "batch": 8,
        "shard_views": 256,
        "passed_over": ["tensorrt: no NVIDIA GPU"],
        "threshold": threshold,
        "listed": scored + failed,
        "scored": scored,
        "failed": failed,
        "studies": len(studies),
        "unlisted": 0,
        "workers_lost": 0,
        "views_per_s": 10.25,
        "wall_s": round((scored + failed) / 10.25, 2),
        "stage_s": {"list": 0.1, "score": round(scored / 10.25, 2), "tables": 0.1, "worker_engine": 1.0},
        "out": str(out),
        "exit_code": 3 if failed else 0,
        **changes,
    }
    (out / RUN_FILE).write_text(json.dumps(run, indent=2) + "\n")
    return out

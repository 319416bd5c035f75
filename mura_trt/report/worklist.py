"""The worklist as data for the page: columns, for 10,000 studies are a few megabytes that way."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import Any

from mura_trt.evaluation.files import study_name
from mura_trt.report.data import ScoredRun
from mura_trt.report.thumbnails import Pictures

DIGITS = 6  # of a probability


@dataclass(frozen=True)
class Worklist:
    """What the page's script shows.

    Attributes
    ----------
    rows
        ``threshold``; ``parts`` and ``codes``, the words that columns name by number; ``studies``, a column each:
        ``name``, ``part``, ``probability`` (null without a score), ``abnormal`` and ``truth`` (1, 0, or -1 where
        unknown), ``scored``, ``failed`` and ``first``, the number of its first view; and ``views``, study by study:
        ``name``, ``probability``, ``code`` of the failure, ``picture`` (numbers, -1 where there is none), ``overlay``
        (1 where the picture is one) and ``file`` of the overlay.
    pictures
        JPEG files in base64.
    """

    rows: dict[str, Any]
    pictures: list[str]


def worklist(run: ScoredRun, count: int, truth: dict[str, int], pictures: Pictures, link: bool) -> Worklist:
    """The first studies, those with the highest probabilities, each with its views, those with the highest ones first.

    Parameters
    ----------
    run
        What was scored.
    count
        So many studies at the most.
    truth
        By study; of those whose labels are known.
    pictures
        Of views.
    link
        Whether the page lies where the overlays' files can be named from.
    """
    studies = run.studies[:count]
    scored = run.views[run.views["study"].isin(studies["study"])]
    failed = run.failures[run.failures["study"].isin(studies["study"])]
    parts, codes = _numbered(studies["body_part"].tolist()), _numbered(failed["code"].tolist())
    of_study: dict[str, list[tuple[str, float | None, int]]] = {name: [] for name in studies["study"]}
    ordered = scored.sort_values("probability", ascending=False, kind="stable")
    for view, study, probability in zip(ordered["view"], ordered["study"], ordered["probability"], strict=True):
        of_study[study].append((view, probability, -1))
    for view, study, code in zip(failed["view"], failed["study"], failed["code"], strict=True):
        of_study[study].append((view, None, codes[code]))
    columns: dict[str, list[Any]] = {name: [] for name in ("name", "probability", "code", "picture", "overlay", "file")}
    first: list[int] = []
    shown: list[str] = []
    for study in studies["study"]:
        first.append(len(columns["name"]))
        for view, probability, code in of_study[study]:
            columns["name"].append(view.removeprefix(f"{study}/"))
            columns["probability"].append(_rounded(probability))
            columns["code"].append(code)
            jpeg = pictures.jpegs.get(view)
            columns["picture"].append(-1 if jpeg is None else len(shown))
            columns["overlay"].append(int(view in pictures.overlays))
            columns["file"].append(run.heatmaps[view] if link and view in pictures.overlays else 0)
            if jpeg is not None:
                shown.append(base64.b64encode(jpeg).decode())
    rows = {
        "threshold": run.run["threshold"],
        "labels": bool(truth),
        "parts": list(parts),
        "codes": list(codes),
        "studies": {
            "name": studies["study"].tolist(),
            "part": [parts[part] for part in studies["body_part"]],
            "probability": [_rounded(probability) for probability in studies["probability"]],
            "abnormal": studies["abnormal"].tolist(),
            "truth": [truth.get(study_name(study), -1) for study in studies["study"]],
            "scored": studies["scored"].tolist(),
            "failed": studies["failed"].tolist(),
            "first": first,
        },
        "views": columns,
    }
    return Worklist(rows, shown)


def _numbered(words: list[str]) -> dict[str, int]:
    """The different ones in order, by number."""
    return {word: number for number, word in enumerate(sorted(set(words)))}


def _rounded(probability: float | None) -> float | None:
    return None if probability is None or math.isnan(probability) else round(probability, DIGITS)

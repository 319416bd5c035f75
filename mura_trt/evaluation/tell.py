"""An evaluation as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NAMES = {
    "kappa": "Cohen's kappa",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "positive predictive value",
    "npv": "negative predictive value",
    "f1": "F1",
    "brier": "Brier score",
    "calibration_error": "calibration error, 10 bins",
}
METHODS = {
    "fleiss_cohen_everitt": "Fleiss, Cohen and Everitt",
    "bootstrap": "bootstrap over patients",
    "challenge": "as the challenge publishes it: variance in place of standard error, too narrow",
    "delong": "DeLong",
    "wilson": "Wilson",
}


def table(found: dict[str, Any]) -> str:
    """Every figure of all studies with its intervals, then kappa by body part and of readers, then what to know."""
    everything = found["groups"]["all"]
    threshold = "as decided" if found["threshold"] is None else f"abnormal above {found['threshold']:.4g}"
    counts = everything["counts"]
    lines = [
        f"{everything['studies']} studies of {everything['patients']} patients, {everything['abnormal']} abnormal;"
        f" {threshold}; TP {counts['true_positive']}, FN {counts['false_negative']},"
        f" TN {counts['true_negative']}, FP {counts['false_positive']}",
        "",
    ]
    rows: list[Sequence[str]] = [("figure", "value", "95 % interval", "")]
    for name, figure in everything["figures"].items():
        for number, (method, interval) in enumerate(figure["intervals"].items()):
            first = (NAMES[name], _value(figure["value"])) if number == 0 else ("", "")
            rows.append((*first, _interval(interval), METHODS[method]))
    lines += _columns(rows)
    rows = [("kappa by body part", "studies", "value", "95 % interval", "AUROC", "paper's model", "best radiologist")]
    for part, group in found["groups"].items():
        kappa, area = group["figures"]["kappa"], group["figures"].get("auroc")
        paper = found["published"]["body_parts"].get(part)
        if part == "all":
            paper = {
                "model": found["published"]["model"]["kappa"],
                "best_radiologist": max(found["published"]["radiologists"]),
            }
        rows.append(
            (
                part,
                str(group["studies"]),
                _value(kappa["value"]),
                _interval(kappa["intervals"]["fleiss_cohen_everitt"]),
                _value(area["value"]) if area else "",
                _value(paper["model"]) if paper else "",
                _value(paper["best_radiologist"]) if paper else "",
            )
        )
    lines += ["", *_columns(rows), f"note: {found['published']['warning']}"]
    if found["readers"]:
        rows = [("reader", "kappa", "95 % interval", "ours less theirs", "95 % interval, paired")]
        for number, reader in enumerate(found["readers"], 1):
            kappa, difference = reader["kappa"]["all"], reader["model_less_reader"]
            rows.append(
                (
                    str(number),
                    _value(kappa["value"]),
                    _interval(kappa["intervals"]["fleiss_cohen_everitt"]),
                    _value(difference["value"]),
                    _interval(difference["intervals"]["bootstrap"]),
                )
            )
        lines += ["", *_columns(rows)]
    lines += [f"note: {note}" for note in found["notes"]]
    return "\n".join(lines)


def _columns(rows: list[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _value(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _interval(interval: Sequence[float | None]) -> str:
    low, high = interval
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"

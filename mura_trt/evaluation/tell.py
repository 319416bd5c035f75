"""An evaluation as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NO_WIDTH = 1e-9  # of an interval: less says nothing of how sure a figure is
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
    everything = found["overall"]
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
        for number, (method, limits) in enumerate(figure["intervals"].items()):
            first = (NAMES[name], decimals(figure["value"])) if number == 0 else ("", "")
            rows.append((*first, interval_of(limits), method_of(method, figure, found["resamples"])))
    lines += _columns(rows)
    rows = [("kappa by body part", "studies", "value", "95 % interval", "AUROC", "paper's model", "best radiologist")]
    for part, group, paper in by_body_part(found):
        kappa, area = group["figures"]["kappa"], group["figures"].get("auroc")
        rows.append(
            (
                part,
                str(group["studies"]),
                decimals(kappa["value"]),
                interval_of(kappa["intervals"]["fleiss_cohen_everitt"]),
                decimals(area["value"]) if area else "",
                decimals(paper["model"]) if paper else "",
                decimals(paper["best_radiologist"]) if paper else "",
            )
        )
    lines += ["", *_columns(rows), f"note: {found['published']['warning']}"]
    if found["readers"]:
        rows = [("reader", "kappa", "95 % interval", "ours less theirs", "95 % interval, paired")]
        for number, reader in enumerate(found["readers"], 1):
            kappa, difference = reader["overall"], reader["model_less_reader"]
            rows.append(
                (
                    str(number),
                    decimals(kappa["value"]),
                    interval_of(kappa["intervals"]["fleiss_cohen_everitt"]),
                    decimals(difference["value"]),
                    interval_of(difference["intervals"]["bootstrap"]),
                )
            )
        lines += ["", *_columns(rows)]
    lines += [f"note: {note}" for note in found["notes"]]
    return "\n".join(lines)


def _columns(rows: list[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def by_body_part(found: dict[str, Any]) -> list[tuple[str, dict[str, Any], dict[str, float] | None]]:
    """Name, figures, and kappas of the paper where it has some: of all studies, and of each body part."""
    published = found["published"]
    parts = found["body_parts"].items()
    return [
        ("overall", found["overall"], published["overall"]),
        *((part, group, published["body_parts"].get(part)) for part, group in parts),
    ]


def method_of(method: str, figure: dict[str, Any], resamples: int) -> str:
    """How an interval was found, and by how many resamples where some did not define the figure."""
    defined = figure.get("defined_resamples", resamples)
    some = f", {defined:,} of {resamples:,} resamples" if method == "bootstrap" and 0 < defined < resamples else ""
    return METHODS[method] + some


def decimals(value: float | None) -> str:
    """Three of them."""
    return "not defined" if value is None else f"{value:.3f}"


def interval_of(limits: Sequence[float | None]) -> str:
    """The limits of a 95 % interval; nothing where there is none."""
    low, high = limits
    if low is None or high is None:
        return ""
    return f"{low:.3f} to {high:.3f}" if high - low >= NO_WIDTH else "no width"

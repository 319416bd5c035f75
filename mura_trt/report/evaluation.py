"""The page's section on how the scores do against labels: figures, curves, kappa by body part, confusion matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mura_trt.evaluation.tell import NAMES, by_body_part, decimals, interval_of, method_of
from mura_trt.report import charts
from mura_trt.report.judged import Judged
from mura_trt.report.markup import name, table, text
from mura_trt.report.sections import notes

KAPPA_INTERVAL = "fleiss_cohen_everitt"


def evaluation(judged: Judged | str) -> str:
    """The section; where there are no labels, why."""
    if isinstance(judged, str):
        return f'<p class="absent">There is no evaluation: {name(judged)}</p>'
    found = judged.found
    everything = found["overall"]
    said = (
        f"{everything['studies']:,} studies of {everything['patients']:,} patients, {everything['abnormal']:,} of them"
        f" abnormal. Labels: {found['labels']}."
    )
    curves = "".join(
        f"<figure><figcaption>{text(words)}</figcaption>{chart}</figure>" for words, chart in _curves(judged)
    )
    chart, by_body_part = _by_body_part(found)
    return (
        f"<p>{name(said)}</p>"
        f'<div class="split">{_figures(everything["figures"], found["resamples"])}'
        f"<div>{_confusion(everything['counts'])}{chart}</div></div>"
        f'<div class="charts">{curves}</div>'
        f"{by_body_part}{_readers(found['readers'])}{notes(found['notes'])}"
    )


def _figures(found: dict[str, Any], resamples: int) -> str:
    rows = []
    for key, figure in found.items():
        for method, limits in figure["intervals"].items():
            how = method_of(method, figure, resamples)
            rows.append((NAMES[key], decimals(figure["value"]), interval_of(limits), how))
    return table("Figures with 95 % intervals", ["figure", "value", "95 % interval", "method"], rows, [1, 2], "figures")


def _confusion(counts: dict[str, int]) -> str:
    """Truth by decision; a cell is the darker, the more of its row are in it."""
    rows = (
        ("truly abnormal", (counts["true_positive"], "found"), (counts["false_negative"], "missed")),
        ("truly normal", (counts["false_positive"], "false alarms"), (counts["true_negative"], "cleared")),
    )
    body = ""
    for words, *cells in rows:
        total = sum(count for count, _ in cells) or 1
        body += f'<tr><th scope="row">{words}</th>' + "".join(
            f'<td class="shade{round(4 * count / total)}"><strong>{count:,}</strong>'
            f"<span>{what}, {100 * count / total:.1f} %</span></td>"
            for count, what in cells
        )
        body += "</tr>"
    return (
        '<table class="confusion"><caption>Confusion matrix</caption><thead><tr><td></td>'
        '<th scope="col">decided abnormal</th><th scope="col">decided normal</th></tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _curves(judged: Judged) -> Iterator[tuple[str, str]]:
    everything = judged.found["overall"]
    found, counts, studies = everything["figures"], everything["counts"], everything["studies"]
    sensitivity, specificity, precision = (found[key]["value"] for key in ("sensitivity", "specificity", "ppv"))
    if judged.roc:
        yield "ROC", charts.roc(judged.roc, _said(found["auroc"]), (1 - specificity, sensitivity))
        share = (counts["true_positive"] + counts["false_negative"]) / studies
        at = None if precision is None else (sensitivity, precision)
        average = _said(found["average_precision"])
        yield "Precision and recall", charts.precision_recall(judged.precision_recall, average, share, at)
    if everything["calibration"]:
        yield "Calibration", charts.calibration(everything["calibration"], _said(found["calibration_error"]))


def _said(figure: dict[str, Any]) -> str:
    limits = interval_of(next(iter(figure["intervals"].values())))
    return decimals(figure["value"]) + (f" (95 % interval {limits})" if limits else "")


def _by_body_part(found: dict[str, Any]) -> tuple[str, str]:
    """Kappa as a chart, and as a table with what else is known of each body part."""
    rows: list[tuple[str, float | None, Sequence[float | None], dict[str, float] | None]] = []
    cells = []
    for part, group, paper in by_body_part(found):
        kappa, area = group["figures"]["kappa"], group["figures"].get("auroc")
        limits = kappa["intervals"][KAPPA_INTERVAL]
        rows.append((part, kappa["value"], limits, paper))
        cells.append(
            (
                part,
                f"{group['studies']:,}",
                decimals(kappa["value"]),
                interval_of(limits),
                decimals(area["value"]) if area else "",
                decimals(paper["model"]) if paper else "",
                decimals(paper["best_radiologist"]) if paper else "",
            )
        )
    columns = ["body part", "studies", "kappa", "95 % interval", "AUROC", "paper's model", "best radiologist"]
    chart = (
        '<figure class="kappas"><figcaption>Cohen\'s kappa by body part</figcaption>'
        f"<p>Beside it stands what the MURA paper reports; {text(found['published']['warning'])}.</p>"
        '<ul class="legend"><li class="key-point">this run, 95 % interval</li><li class="key-paper">paper\'s model</li>'
        f'<li class="key-radiologist">paper\'s best radiologist</li></ul>{charts.kappas(rows)}</figure>'
    )
    return chart, f'<div class="by-part">{table("Body parts", columns, cells, range(1, 7))}</div>'


def _readers(readers: list[dict[str, Any]]) -> str:
    if not readers:
        return ""
    rows = []
    for number, reader in enumerate(readers, 1):
        kappa, difference = reader["overall"], reader["model_less_reader"]
        rows.append(
            (
                number,
                decimals(kappa["value"]),
                interval_of(kappa["intervals"][KAPPA_INTERVAL]),
                decimals(difference["value"]),
                interval_of(difference["intervals"]["bootstrap"]),
            )
        )
    columns = ["reader", "kappa", "95 % interval", "this run less the reader", "95 % interval, paired"]
    return f"<h3>Readers</h3>{table('Readers against the same labels', columns, rows, range(1, 5))}"

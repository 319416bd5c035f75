"""What the page says beside its worklist: the run in short, what failed, and how it was made."""

from __future__ import annotations

from typing import Any

import numpy as np

from mura_trt.evaluation.tell import decimals, interval_of
from mura_trt.report import charts
from mura_trt.report.data import ScoredRun
from mura_trt.report.judged import Judged
from mura_trt.report.markup import facts, name, table, text
from mura_trt.runtimes import OWN_RUNTIMES

FAILURES_SHOWN = 100
STAGES = {
    "list": "list the archive",
    "score": "score",
    "tables": "write the tables",
    "worker_read": "read",
    "worker_decode": "decode",
    "worker_engine": "engine",
    "worker_main_cpu": "CPU time of the main thread",
    "worker_cpu": "CPU time of the worker",
    "supervisor_cpu": "CPU time of the supervisor",
}


def summary(run: ScoredRun, judged: Judged | str) -> str:
    """The run in a row of figures, and how the probabilities are spread."""
    said, studies = run.run, run.studies
    abnormal = int((studies["abnormal"] == 1).sum())
    scored = studies["probability"].dropna().to_numpy(np.float64)
    tiles = [
        ("studies", f"{len(studies):,}", f"{abnormal:,} abnormal, {len(scored) - abnormal:,} normal"),
        ("views scored", f"{said['scored']:,}", f"of {said['listed']:,}; {said['failed']:,} failed"),
        ("views a second", f"{said['views_per_s']:,.1f}", f"{_seconds(said['wall_s'])} in all"),
        ("threshold", f"{said['threshold']:.4g}", "abnormal is strictly above"),
    ]
    without = len(studies) - len(scored)
    if without:
        tiles[0] = (*tiles[0][:2], f"{tiles[0][2]}, {without:,} without a score")
    if isinstance(judged, Judged):
        found = judged.found["overall"]["figures"]
        for key, words in (("auroc", "AUROC"), ("kappa", "Cohen's kappa")):
            limits = next(iter(found[key]["intervals"].values()))
            tiles.append((words, decimals(found[key]["value"]), interval_of(limits)))
    cells = "".join(
        f'<li><span class="what">{text(what)}</span><strong>{text(value)}</strong><span>{text(more)}</span></li>'
        for what, value, more in tiles
    )
    spread = f"<figure>{charts.histogram(scored, said['threshold'])}</figure>" if len(scored) else ""
    looks = "tiles four" if len(tiles) == 4 else "tiles"
    return f'<div class="summary-grid"><ul class="{looks}">{cells}</ul>{spread}</div>'


def parity(said: dict[str, Any]) -> str:
    """How the bundle compares with its reference, as ``score`` prints it; older runs knew PyTorch alone."""
    bundle = said["bundle"]
    against = f"{bundle['precision']} plan against {bundle.get('reference', 'PyTorch')} in FP32: {bundle['parity']}"
    used = "" if said["runtime"] in OWN_RUNTIMES else f"; this run did not use the plan, but {said['runtime']}"
    return f"parity of the {against}{used}"


def failures(run: ScoredRun) -> str:
    """How many views have no score, by code, and the first of them."""
    found = run.failures
    if not len(found):
        return "<p>All views were scored.</p>"
    counts = found["code"].value_counts()
    by_code = table("Failures by code", ["code", "views"], [(code, f"{n:,}") for code, n in counts.items()], [1])
    columns = ["view", "study", "stage", "code", "message"]
    first = found[columns][:FAILURES_SHOWN].to_numpy().tolist()
    more = len(found) - len(first)
    told = f"<p>{more:,} more are in the run's table of failures.</p>" if more else ""
    return by_code + table("Views without a score", columns, first, label="failures") + told


def particulars(run: ScoredRun) -> str:
    """What the run was made with, and what took how long."""
    said = run.run
    bundle = said["bundle"]
    made = facts(
        [
            ("Archive", said["archive"]),
            ("Ended", moment(run)),
            ("Engine bundle", f"{bundle['name']} ({bundle['precision']})"),
            ("Bundle's SHA-256", bundle["sha256"]),
            ("Parity", parity(said)),
            ("Runtime", f"{said['runtime']} on {said['device']}, {said['batch']} views a batch"),
            ("Passed over", "; ".join(map(str, said["passed_over"])) or "none"),
            ("Threshold", f"abnormal is a mean probability strictly above {said['threshold']}"),
            ("Parts of the archive that could not be listed", said["unlisted"]),
            ("Workers lost and replaced", said["workers_lost"]),
            ("Command", said["command"]),
        ]
    )
    times = [(STAGES.get(stage, stage.replace("_", " ")), f"{spent:,.2f}") for stage, spent in said["stage_s"].items()]
    return (
        made
        + '<div class="pair">'
        + table("Seconds by stage; those of the worker overlap", ["stage", "seconds"], times, [1])
        + table("Versions", ["package", "version"], list(said["versions"].items()), [1])
        + "</div>"
    )


def moment(run: ScoredRun) -> str:
    """When the run came to its end, to the minute."""
    return f"{run.written:%Y-%m-%d %H:%M} UTC"


def notes(words: list[str]) -> str:
    """Remarks, one a line; nothing where there are none."""
    return f'<ul class="notes">{"".join(f"<li>{name(word)}</li>" for word in words)}</ul>' if words else ""


def _seconds(count: float) -> str:
    return f"{count:,.1f} s" if count < 120 else f"{count / 60:,.1f} min" if count < 7200 else f"{count / 3600:,.1f} h"

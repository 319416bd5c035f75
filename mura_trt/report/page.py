"""The page: one file with its style, script, data and pictures, that loads nothing and lets nothing else run."""

from __future__ import annotations

from importlib import resources
from string import Template

import mura_trt
from mura_trt.report.data import ScoredRun
from mura_trt.report.evaluation import evaluation
from mura_trt.report.judged import Judged
from mura_trt.report.markup import json_data, name, source_hash, text
from mura_trt.report.sections import failures, moment, notes, parity, particulars, summary
from mura_trt.report.worklist import Worklist


def page(run: ScoredRun, judged: Judged | str, listed: Worklist, remarks: list[str]) -> bytes:
    """The whole file.

    Parameters
    ----------
    run
        What was scored.
    judged
        Against labels; a string says why not.
    listed
        The worklist's data.
    remarks
        On the pictures.
    """
    style, script = _asset("page.css"), _asset("page.js")
    said = run.run
    bundle = said["bundle"]
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src {source_hash(style)}",
            f"script-src {source_hash(script)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    filled = Template(_asset("page.html")).substitute(
        policy=text(policy),
        title=text(f"Scores of {said['archive']}"),
        archive=name(said["archive"]),
        scored=name(
            f"Scored {moment(run)} with {bundle['name']} ({bundle['precision']}), {said['runtime']} on {said['device']}"
        ),
        parity=name(f"The bundle: {parity(said)}"),
        summary=summary(run, judged),
        remarks=notes(remarks),
        truth="" if isinstance(judged, str) else _TRUTH,
        evaluation=evaluation(judged),
        failures=failures(run),
        particulars=particulars(run),
        version=text(mura_trt.__version__),
        style=style,
        script=script,
        rows=json_data(listed.rows),
        pictures=json_data(listed.pictures),
    )
    return filled.encode()


_TRUTH = """<label>Truth <select id="truth">
<option value="">any</option>
<option value="wrong">wrong decisions</option>
<option value="missed">missed: abnormal, decided normal</option>
<option value="alarm">false alarms: normal, decided abnormal</option>
<option value="1">abnormal</option>
<option value="0">normal</option>
</select></label>"""


def _asset(file: str) -> str:
    return (resources.files("mura_trt.report") / file).read_text("utf-8")

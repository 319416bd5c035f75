"""What rounds of measurements come to: three tables and the CPU's reference, as JSON has them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from mura_trt.bench.alone import ModelRate
from mura_trt.bench.options import NULL
from mura_trt.bench.reference import GFLOP_PER_VIEW
from mura_trt.bench.rounds import DECODE_BATCH, Round, Subject
from mura_trt.bench.scoring import Scored
from mura_trt.bench.spread import pairwise, short, spread
from mura_trt.contract import DENSENET169
from mura_trt.cores import usable_cores


def tables(subject: Subject, rounds: Sequence[Round]) -> dict[str, Any]:
    """``model_only``, ``decode_only``, ``end_to_end`` and, where a runtime is on the CPU, ``reference``."""
    sgemm = [statistics.mean(one.sgemm.values()) for one in rounds if one.sgemm]
    decoded = [one.decode for one in rounds]
    null = [one.null for one in rounds]
    end_to_end = {model.runtime: _run(model, rounds) for model in subject.models}
    end_to_end[NULL] = {
        "null_ms": [one.null_ms for one in rounds],
        "batch": DECODE_BATCH,
        **_rates(null),
        "to_decode_only": spread(pairwise([run.rate for run in null], decoded)),
        **_costs(null),
    }
    found = {
        "model_only": {model.runtime: _model(subject, model, rounds) for model in subject.models},
        "decode_only": {"threads": usable_cores(), "batch": DECODE_BATCH, "views_per_s": spread(decoded)},
        "end_to_end": end_to_end,
    }
    if sgemm:
        found["reference"] = {
            "threads": usable_cores(),
            "sgemm_gflop_per_s": spread(sgemm),
            "gflop_per_view": gflop_per_view(subject),
        }
    return found


def gflop_per_view(subject: Subject) -> float:
    """10^9 operations of a view, by each network of an ensemble, for pictures of the bundle's size.

    DenseNet-169's are those of its paper; of another network, those of the bundle's FP32 graph.
    """
    manifest = subject.bundle.manifest
    if manifest.network.partition(" x ")[0] != DENSENET169:
        from mura_trt.graph_facts import graph_facts

        return graph_facts(subject.bundle.path("fp32_onnx")).gflop_per_view
    pixels = subject.size[0] * subject.size[1] / 320**2
    return GFLOP_PER_VIEW * len(manifest.checkpoints_sha256) * pixels


def _model(subject: Subject, model: ModelRate, rounds: Sequence[Round]) -> dict[str, Any]:
    rates = [one.model[model.runtime] for one in rounds]
    found = {"device": model.device, "batch": model.batch, "views_per_s": spread(rates)}
    if model.device == "cpu":
        sgemm = [one.sgemm[model.runtime] for one in rounds]
        found["sgemm_share"] = spread(pairwise([rate * gflop_per_view(subject) for rate in rates], sgemm))
    return found


def _run(model: ModelRate, rounds: Sequence[Round]) -> dict[str, Any]:
    runs = [one.runs[model.runtime] for one in rounds]
    alone = [one.model[model.runtime] for one in rounds]
    return {
        "batch": model.batch,
        **_rates(runs),
        "to_model_only": spread(pairwise([run.rate for run in runs], alone)),
        **_costs(runs),
    }


def _rates(runs: Sequence[Scored]) -> dict[str, Any]:
    """How many views, how fast, and how long from the command to its end."""
    return {
        "views": runs[0].run["scored"],
        "views_per_s": spread([run.rate for run in runs]),
        "wall_s": spread([run.run["wall_s"] for run in runs]),
    }


def _costs(runs: Sequence[Scored]) -> dict[str, Any]:
    """The median of each stage's seconds, and the most memory of all runs."""
    stages = {
        name: short(statistics.median(run.run["stage_s"][name] for run in runs)) for name in runs[0].run["stage_s"]
    }
    peaks = [run.peak_bytes for run in runs if run.peak_bytes is not None]
    return {"stage_s": stages, "peak_memory_bytes": max(peaks, default=None)}

"""``mura-trt bench``: the machine, three tables, and what limits them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mura_trt.archives import NamedArchive
from mura_trt.bench.machine import disturbance, machine, moment
from mura_trt.bench.options import FEWEST_ROUNDS, BenchOptions
from mura_trt.bench.processes import in_fresh_process
from mura_trt.bench.rounds import Subject
from mura_trt.bench.sample import take_sample
from mura_trt.bench.sweeping import sweep
from mura_trt.bench.tables import tables
from mura_trt.bundle import Bundle
from mura_trt.cores import usable_cores


def bench(options: BenchOptions, report: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measures how fast an archive is scored here, and what the parts of that could do by themselves.

    Every measurement runs in a process of its own, on files in the page cache, and all take turns. SPREAD is
    ``median``, ``min``, ``max`` and ``rounds``; what is ``to`` something else is a round's quotient.

    Parameters
    ----------
    options
        What to measure, and how long.
    report
        Told of each measurement that begins.

    Returns
    -------
    JSON types, as ``--json`` prints them:

    - ``machine``: ``cpu``, ``cores``, ``memory_bytes``, ``gpus``, ``driver``, ``cuda``, ``python``, ``mura_trt``,
      ``versions``, ``commit``, ``date``; ``load``, ``clock_mhz``, ``others_share`` and ``warnings`` of
      :func:`mura_trt.bench.machine.disturbance`;
    - ``archive``: ``listed`` views and, of those that were measured with, ``sampled``, ``left_out``, ``mean_bytes``,
      ``unpacked``;
    - ``engine``: the bundle's ``name``, ``precision``, ``sha256`` and ``parity``;
    - ``rounds`` and ``seconds``, as in the options; ``passed_over``, a line for each runtime that does not work here;
    - ``model_only``: by runtime ``device``, ``batch``, ``views_per_s`` SPREAD and, on a CPU, ``sgemm_share`` SPREAD;
    - ``decode_only``: ``threads``, ``batch``, ``views_per_s`` SPREAD;
    - ``end_to_end``: by runtime ``batch``, ``views``, ``views_per_s`` SPREAD, ``wall_s`` SPREAD, ``to_model_only``
      SPREAD, ``stage_s`` (medians), ``peak_memory_bytes``; and ``null``, which takes as long for a batch as decoding
      does, with ``null_ms`` by round and ``to_decode_only`` SPREAD in place of ``to_model_only``;
    - ``reference``, where a runtime is on the CPU: ``threads``, ``sgemm_gflop_per_s`` SPREAD, ``gflop_per_view``;
    - ``sweep``, where asked for: see :func:`mura_trt.bench.sweeping.sweep`.

    Raises
    ------
    UsageError
        The archive or an option cannot be used.
    BundleError, EnvironmentProblem
        The engine cannot be used, or a measurement failed.
    """
    bundle = Bundle.open(options.engine)
    if not options.allow_unproven:
        bundle.require_proof()
    size = bundle.contract.size
    facts, before = machine(), moment()
    with tempfile.TemporaryDirectory() as work:
        report("taking views")
        archive = NamedArchive(options.archive, root=options.root, uid_salt_file=Path(work) / "salt")
        sample = in_fresh_process(take_sample, archive, Path(work) / "sample", size, usable_cores())
        subject = Subject.tried(options, bundle, sample, report)
        found = tables(subject, list(subject.rounds(Path(work), report)))
        if options.sweep:
            found["sweep"] = sweep(subject, report)
    around = disturbance(before, moment())
    if options.rounds < FEWEST_ROUNDS:
        around["warnings"].append(
            f"{options.rounds} rounds tell little of how far figures spread; take {FEWEST_ROUNDS}"
        )
    return {
        "machine": {**facts, **around},
        "archive": sample.told(),
        "engine": {
            "name": bundle.manifest.name,
            "precision": bundle.manifest.precision,
            "sha256": bundle.sha256,
            "parity": bundle.manifest.parity_summary,
        },
        "rounds": options.rounds,
        "seconds": options.seconds,
        "passed_over": subject.passed_over,
        **found,
    }

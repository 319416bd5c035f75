"""The three measurements in turns: a runtime alone, decoding alone, and whole runs of ``mura-trt score``."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from mura_trt.bench.alone import ModelRate, decode_alone, model_rate
from mura_trt.bench.options import ALL, NULL, BenchOptions
from mura_trt.bench.processes import in_fresh_process
from mura_trt.bench.reference import sgemm_rate
from mura_trt.bench.sample import Sample, repeated
from mura_trt.bench.scoring import Scored, scored
from mura_trt.bundle import Bundle
from mura_trt.cores import usable_cores
from mura_trt.errors import EnvironmentProblem, RuntimeUnavailable
from mura_trt.runtimes import RUNTIMES

DECODE_BATCH = 64  # as the null runtime has it
# Of the options' seconds, which are those of a run of score: what a part takes by itself, the trial that warms up and
# tells how many views a run takes, and the CPU's reference.
ALONE, TRIAL, MATRICES = 0.5, 0.25, 0.05

Report = Callable[[str], None]


class Round(NamedTuple):
    """Everything once."""

    model: dict[str, float]
    """Views/s by runtime."""
    runs: dict[str, Scored]
    """By runtime."""
    sgemm: dict[str, float]
    """By runtime on the CPU: 10^9 operations a second, the mean of before and behind its session, for a shared
    machine's speed drifts within seconds."""
    decode: float
    """Views/s, likewise of before and behind the null run."""
    null_ms: float
    """What decoding took for a batch."""
    null: Scored


@dataclass(frozen=True)
class Subject:
    """What is measured."""

    options: BenchOptions
    bundle: Bundle
    sample: Sample
    models: list[ModelRate]
    """Of the trial, by which the number of views is chosen."""
    decoded: float
    """Likewise: views/s of decoding."""
    passed_over: list[str]
    """Of each runtime that was asked for and does not work here, the reason."""

    @classmethod
    def tried(cls, options: BenchOptions, bundle: Bundle, sample: Sample, report: Report) -> Subject:
        """Warms up: each runtime and decoding for a short while.

        Raises
        ------
        RuntimeUnavailable
            The runtime does not work here, or none does.
        """
        seconds = TRIAL * options.seconds
        models, problems = [], []
        names = [name for name in RUNTIMES if name != NULL] if options.runtime == ALL else [options.runtime]
        for name in names:
            report(f"warming up: {name}")
            try:
                models.append(in_fresh_process(model_rate, bundle, name, options.batch, seconds))
            except EnvironmentProblem as error:  # which it may be by its process's death
                problems.append(f"{name}: {error}")
        if not models:
            raise RuntimeUnavailable("; ".join(problems))
        report("warming up: decoding")
        passed_over = [*problems, *(line for model in models for line in model.passed_over)]
        subject = cls(options, bundle, sample, models, 0.0, passed_over)
        return replace(subject, decoded=subject.decode(seconds))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a view's pixels."""
        return self.bundle.contract.size

    def decode(self, seconds: float, threads: int | None = None, batch: int = DECODE_BATCH) -> float:
        """Views/s of reading and decoding with nothing behind it."""
        return in_fresh_process(
            decode_alone,
            self.sample.paths(),
            self.size,
            threads or usable_cores(),
            batch,
            seconds,
            self.sample.converted,
        )

    def model(self, tried: ModelRate, seconds: float, batch: int | None = None, cores: int | None = None) -> float:
        """Views/s of a runtime's session on pixels in memory."""
        found = in_fresh_process(model_rate, self.bundle, tried.runtime, batch or tried.batch, seconds, cores)
        return found.views_per_s

    def sgemm(self) -> float:
        """10^9 operations a second of large matrices on the CPU."""
        return in_fresh_process(sgemm_rate, usable_cores(), MATRICES * self.options.seconds)

    def views(self, rate: float, batch: int) -> int:
        """As many as a run takes to go on for its seconds, in full batches."""
        return batch * max(1, math.ceil(self.options.seconds * rate / batch))

    def rounds(self, work: Path, report: Report) -> Iterator[Round]:
        """Measures everything in turns, each time anew; ``work`` is a scratch folder."""
        with ExitStack() as stack:

            def archive(rate: float, batch: int) -> Path:
                return stack.enter_context(repeated(self.sample.folder, self.views(rate, batch)))

            # A run is as fast as the slower of its parts at the best.
            archives = {
                model.runtime: archive(min(model.views_per_s, self.decoded), model.batch) for model in self.models
            }
            for_null = archive(self.decoded, DECODE_BATCH)
            # Salts are made where they are not, and a user's own is not to be made by a measurement.
            common = [*self.options.score_options, "--uid-salt-file", str(work / "salt")]
            for number in range(1, self.options.rounds + 1):

                def told(what: str, number: int = number) -> None:
                    report(f"round {number} of {self.options.rounds}: {what}")

                yield self._round(archives, for_null, common, told)

    def _round(self, archives: dict[str, Path], for_null: Path, common: list[str], report: Report) -> Round:
        seconds, engine = ALONE * self.options.seconds, self.options.engine
        models, sgemm, runs = {}, {}, {}
        for model in self.models:
            report(f"{model.runtime} alone")
            reference = [self.sgemm()] if model.device == "cpu" else []
            models[model.runtime] = self.model(model, seconds)
            if reference:
                sgemm[model.runtime] = statistics.mean([*reference, self.sgemm()])
            report(f"score with {model.runtime}")
            how = ["--runtime", model.runtime, "--batch", str(model.batch)]
            runs[model.runtime] = scored(archives[model.runtime], engine, *how, *common, memory=True)
        report("decoding alone")
        before = self.decode(seconds)
        null_ms = round(1000 * DECODE_BATCH / before, 2)
        report("score with null")
        how = ["--runtime", NULL, "--batch", str(DECODE_BATCH), "--null-ms", str(null_ms)]
        null = scored(for_null, engine, *how, *common, memory=True)
        report("decoding alone")
        return Round(models, runs, sgemm, statistics.mean([before, self.decode(seconds)]), null_ms, null)

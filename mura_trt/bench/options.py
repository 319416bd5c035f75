"""What to measure, and how long."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mura_trt.errors import UsageError
from mura_trt.runtimes import RUNTIMES

ALL = "all"
NULL = "null"
FEWEST_ROUNDS = 5  # that say something of how far figures spread


@dataclass(frozen=True)
class BenchOptions:
    """The options of ``mura-trt bench``."""

    archive: Path | str
    """Whatever ``score`` takes; a string is a URL."""
    engine: Path
    runtime: str = "auto"
    """As for ``score``, but ``null``, which is measured in any case; or ``all`` that work here."""
    batch: int | None = None
    """Views in a batch of the engine; None takes what suits the runtime."""
    rounds: int = FEWEST_ROUNDS
    """How often everything is measured, in turns."""
    seconds: float = 4.0
    """That a run of ``score`` takes, but for starting; a part by itself takes half of it."""
    sweep: bool = True
    """Whether batches and threads are tried, too."""
    root: Path | None = None
    """For a list: where its relative paths start."""
    allow_unproven: bool = False
    """Take a bundle, too, that missed a bound when it was compared with its reference, or was never compared."""

    def __post_init__(self) -> None:
        runtimes = ("auto", ALL, *(name for name in RUNTIMES if name != NULL))
        if self.runtime not in runtimes:
            why = "is measured in any case; " if self.runtime == NULL else ""
            raise UsageError(f"--runtime {self.runtime}: {why}choose from {', '.join(runtimes)}")
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"--batch {self.batch}: give 1 or more")
        if self.rounds < 1:
            raise UsageError(f"--rounds {self.rounds}: give {FEWEST_ROUNDS} or more, or 1 to try it out")
        if not 0 < self.seconds <= 600:
            raise UsageError(f"--seconds {self.seconds:g}: give some seconds, 600 at the most")

    @property
    def score_options(self) -> list[str]:
        """What ``score`` is told, too."""
        return ["--allow-unproven"] if self.allow_unproven else []

"""What to build: a recipe file under ``engines/``, or its defaults."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mura_trt.builder_options import DEFAULTS, BuilderOptions
from mura_trt.calibrate import METHODS
from mura_trt.contract import PRECISIONS
from mura_trt.errors import UsageError
from mura_trt.parity.bounds import BOUNDS, Bounds, flattened, with_changes
from mura_trt.plan import BUILDERS

AUTO = "auto"


@dataclass(frozen=True)
class Recipe:
    """What to build; the fields are the keys of a recipe file under ``engines/``."""

    name: str = ""
    """Of the bundle; without it, the network's and the precision."""
    precision: str = "fp16"
    """One of ``PRECISIONS``."""
    batch: int | tuple[int, int, int] | str = (1, 64, 256)
    """Views in a batch: one number for a plan that takes batches of that size alone; three for one that takes any from
    the least to the most and is tuned for the second; or ``auto``, the size that is measured to be the best."""
    builder: str = AUTO
    """``auto``, ``tensorrt`` (needs a GPU), ``tensorrt-rtx`` or ``none``."""
    builder_options: BuilderOptions = DEFAULTS
    calibration_method: str = "percentile"
    """Of INT8 and FP8: ``percentile`` or ``max``."""
    calibration_views: int = 64
    """Likewise: how many, as evenly as can be from the archive's body parts."""
    error_budget: float = 2e-3
    """Likewise: root mean square of the probability's error to first order; layers stay in half precision until the
    rest keeps it."""
    check_views: int = 64
    """How many views the bundle is compared with its reference on, and half precision's range is looked at over."""
    parity: Mapping[str, Any] = field(default_factory=dict)
    """Bounds other than the precision's own (see :mod:`mura_trt.parity.bounds`), as tables by level."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise UsageError(f"name {self.name}: text, in quotation marks")
        if self.precision not in PRECISIONS:
            raise UsageError(f"precision {self.precision!r}: choose from {', '.join(PRECISIONS)}")
        if self.builder not in (AUTO, "none", *BUILDERS):
            raise UsageError(f"builder {self.builder!r}: choose from auto, none, {', '.join(BUILDERS)}")
        if self.calibration_method not in METHODS:
            raise UsageError(f"calibration_method {self.calibration_method!r}: choose from {', '.join(METHODS)}")
        for name in ("calibration_views", "check_views"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)}: a whole number, 1 or more")
        if not self.error_budget >= 0:
            raise UsageError(f"error_budget {self.error_budget}: 0 or more")
        _ = self.bounds, self.profile  # raise
        if self.batch == AUTO and self.builder == "none":
            raise UsageError("batch auto: it is measured with the plan, and builder none makes no plan")

    @property
    def profile(self) -> tuple[int, int, int] | None:
        """Views in a batch: least, the number the plan is tuned for, most; None where that is to be measured."""
        if self.batch == AUTO:
            return None
        match self.batch if isinstance(self.batch, tuple) else (self.batch,) * 3:
            case (int(least), int(tuned), int(most)) if 1 <= least <= tuned <= most:
                return least, tuned, most
        raise UsageError(
            f"batch {self.batch}: a number from 1 up, or three with 1 <= least <= tuned for <= most, or auto"
        )

    def in_precision(self, precision: str) -> Recipe:
        """The recipe for another precision, with that one's own bounds, and its name for the old one in the name."""
        name = self.name.replace(self.precision, precision)
        if name and name == self.name:
            name = f"{name}-{precision}"
        return replace(self, precision=precision, parity={}, name=name)

    @property
    def bounds(self) -> Bounds:
        """How far scores may be from the reference's."""
        return with_changes(BOUNDS[self.precision], flattened(self.parity))

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """A recipe file.

        Raises
        ------
        UsageError
            No such file, not TOML, or a key or value that means nothing here.
        """
        try:
            content: dict[str, Any] = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{path}: not a readable recipe: {error}") from error
        unknown = set(content) - set(cls.__dataclass_fields__)
        if unknown:
            known = ", ".join(cls.__dataclass_fields__)
            raise UsageError(f"{path}: unknown key {', '.join(sorted(unknown))}; a recipe has {known}")
        if isinstance(content.get("batch"), list):
            content["batch"] = tuple(content["batch"])
        content.setdefault("name", path.stem)
        try:
            if "builder_options" in content:
                content["builder_options"] = BuilderOptions.of(content["builder_options"])
            return cls(**content)
        except (UsageError, TypeError) as error:
            raise UsageError(f"{path}: {error}") from error

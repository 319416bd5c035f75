"""What TensorRT's builders can be told, and which of it is worth a trial on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mura_trt.errors import EnvironmentProblem, UsageError

TILING = ("none", "fast", "moderate", "full")
# Compute capabilities that TensorRT-RTX can be told to build for; without any, for SM80, SM86, SM89, SM120 and later.
TARGETS = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")


@dataclass(frozen=True)
class BuilderOptions:
    """The keys of a recipe's table ``[builder_options]``. The defaults are the builders' own, but for TF32."""

    optimization_level: int = 3
    """0 to 5: how long kernels are searched for; from 4 on, each is compiled anew."""
    tiling: str = "none"
    """One of ``TILING``: how hard layers are looked at that could share the L2 cache."""
    l2_limit_for_tiling: int = 0
    """Bytes of L2 cache that tiling may count on; 0 leaves it to the builder."""
    max_aux_streams: int = -1
    """Streams beside the main one that layers may run on; -1 leaves it to the builder."""
    tf32: bool = False
    """Let FP32 convolutions round their inputs to 10 bits. Off, because FP32 is the reference among precisions."""
    targets: tuple[str, ...] = ()
    """TensorRT-RTX: compute capabilities out of ``TARGETS``; empty for all but SM75, and those to come."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if type(value) is not kind:
                raise UsageError(f"builder_options.{field.name} {value!r}: not of type {kind.__name__}")
        if not 0 <= self.optimization_level <= 5:
            raise UsageError(f"builder_options.optimization_level {self.optimization_level}: 0 to 5")
        if self.tiling not in TILING:
            raise UsageError(f"builder_options.tiling {self.tiling!r}: choose from {', '.join(TILING)}")
        if self.l2_limit_for_tiling < 0 or self.max_aux_streams < -1:
            raise UsageError("builder_options: l2_limit_for_tiling from 0 up, max_aux_streams from -1 up")
        if unknown := [target for target in self.targets if target not in TARGETS]:
            raise UsageError(f"builder_options.targets {unknown}: choose from {', '.join(TARGETS)}")

    @classmethod
    def of(cls, table: object) -> BuilderOptions:
        """The options of a recipe's table; raises UsageError for a key or value that means nothing here."""
        if not isinstance(table, Mapping):
            raise UsageError("builder_options takes a table")
        if unknown := set(table) - {field.name for field in fields(cls)}:
            known = ", ".join(field.name for field in fields(cls))
            raise UsageError(f"unknown key builder_options.{', '.join(sorted(unknown))}; there are {known}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in table.items()
        }
        return cls(**values)

    def described(self) -> dict[str, Any]:
        """The manifest's entry."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def apply(self, trt: Any, config: Any) -> None:
        """Sets what differs from the builder's defaults, on the builder configuration of a TensorRT module.

        Raises
        ------
        EnvironmentProblem
            This builder, or this version of it, does not know an option.
        """

        def put(attribute: str, value: object) -> None:
            if not hasattr(config, attribute):
                raise EnvironmentProblem(
                    f"{trt.__name__} {trt.__version__} has no {attribute}; leave it at its default"
                )
            setattr(config, attribute, value)

        if self.optimization_level != DEFAULTS.optimization_level:
            put("builder_optimization_level", self.optimization_level)
        if self.tiling != DEFAULTS.tiling:
            levels = getattr(trt, "TilingOptimizationLevel", None)
            put("tiling_optimization_level", getattr(levels, self.tiling.upper(), None))
        if self.l2_limit_for_tiling:
            put("l2_limit_for_tiling", self.l2_limit_for_tiling)
        if self.max_aux_streams != DEFAULTS.max_aux_streams:
            put("max_aux_streams", self.max_aux_streams)
        if not self.tf32:
            config.clear_flag(trt.BuilderFlag.TF32)  # set by default
        if self.targets:
            put("num_compute_capabilities", len(self.targets))
            for number, target in enumerate(self.targets):
                known = getattr(trt.ComputeCapability, target, None)
                if known is None or not config.set_compute_capability(known, number):
                    raise EnvironmentProblem(f"{trt.__name__} {trt.__version__} does not build for {target}")


DEFAULTS = BuilderOptions()

# What may be faster than the defaults on some GPU or other, by name: to be measured there, each against the first.
VARIANTS: dict[str, BuilderOptions] = {
    "defaults": DEFAULTS,
    "level 4": BuilderOptions(optimization_level=4),
    "level 5": BuilderOptions(optimization_level=5),
    "tiling fast": BuilderOptions(tiling="fast"),
    "tiling moderate": BuilderOptions(tiling="moderate"),
    "tiling full": BuilderOptions(tiling="full"),
    "level 5, tiling full": BuilderOptions(optimization_level=5, tiling="full"),
    "one stream": BuilderOptions(max_aux_streams=0),
    "four more streams": BuilderOptions(max_aux_streams=4),
}

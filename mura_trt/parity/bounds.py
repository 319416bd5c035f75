"""How far a bundle's scores may be from the reference's, by precision, where nobody says otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mura_trt.errors import UsageError
from mura_trt.precision import HALF_MAX

Bounds = dict[str, float]

# The same for all precisions, for they speak of pixels and of decisions.
_ALWAYS: Bounds = {
    "pixels.inside": 1.0,  # gray levels from Pillow's, of files that store no color
    "pixels.border": 12.0,  # the same, of the outermost pixels
    "studies.flip_margin": 0.05,  # from 0.5: no study further away than that may be decided otherwise
    "studies.flip_share": 0.01,  # of all studies may be decided otherwise
    "clinical.auroc": 0.005,  # difference, either way
    "clinical.kappa": 0.02,
}
# A quarter of what half precision holds, because views that are not among those measured may give more.
_HALF: Bounds = {"half.largest": HALF_MAX / 4, "half.dp_max": 5e-3}

BOUNDS: dict[str, Bounds] = {
    "fp32": {
        **_ALWAYS,
        "model.dp_mean": 1e-5,
        "model.dp_max": 1e-5,
        "batches.dp_max": 1e-5,
        "studies.dp_mean": 1e-5,
        "studies.dp_max": 1e-5,
    },
    "fp16": {
        **_ALWAYS,
        **_HALF,
        "model.dp_mean": 1e-3,
        "model.dp_max": 5e-3,
        "batches.dp_max": 2e-3,
        "studies.dp_mean": 1e-3,
        "studies.dp_max": 5e-3,
    },
    "int8": {
        **_ALWAYS,
        **_HALF,
        "model.dp_mean": 0.01,
        "model.dp_max": 0.05,
        "batches.dp_max": 0.02,
        "studies.dp_mean": 0.01,
        "studies.dp_max": 0.05,
    },
}
BOUNDS["fp8"] = BOUNDS["int8"]


def with_changes(bounds: Bounds, changes: Mapping[str, float]) -> Bounds:
    """Bounds some of which are others.

    Raises
    ------
    UsageError
        There is no bound of that name, or it is no number from 0 up.
    """
    for name, value in changes.items():
        if name not in bounds:
            raise UsageError(f"bound {name!r}: there is none of that name here; there are {', '.join(sorted(bounds))}")
        if not isinstance(value, int | float) or not value >= 0:
            raise UsageError(f"bound {name}: {value!r} is no number from 0 up")
    return {**bounds, **changes}


def flattened(tables: Mapping[str, Any]) -> dict[str, Any]:
    """``{"model": {"dp_max": 1}}``, as a recipe has it, to ``{"model.dp_max": 1}``."""
    flat: dict[str, Any] = {}
    if not isinstance(tables, Mapping):
        raise UsageError(f"parity = {tables!r}: it takes tables such as [parity.model]")
    for level, content in tables.items():
        if not isinstance(content, Mapping):
            raise UsageError(f"[parity] has {level} = {content!r}; it takes tables such as [parity.model]")
        flat |= {f"{level}.{name}": value for name, value in content.items()}
    return flat


def parsed(changes: Iterable[str]) -> dict[str, float]:
    """``["model.dp_max=0.1"]`` to ``{"model.dp_max": 0.1}``.

    Raises
    ------
    UsageError
        It is not a name, an equals sign and a number.
    """
    found = {}
    for change in changes:
        name, _, value = change.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError as error:
            raise UsageError(f"--bound {change}: not of the form model.dp_max=0.01") from error
    return found

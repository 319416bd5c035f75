"""What decides a run's results, noted in its folder when it begins: a run goes on with the same only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mura_trt.errors import UsageError
from mura_trt.files import write_atomically

RECIPE = "recipe.json"
# What differs, in words, where the values are hashes or would tell a user nothing.
WORDS = {
    "bundle": "another bundle",
    "listing": "other views in the archive (--update scores what is new or changed)",
    "uids": "another --uid-salt-file or --keep-uids",
    "own_decoder": "this package's C code where now there is none, or the other way round",
    "images": "other images or labels in the archive",
}


def note_recipe(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Writes what a run begins with; the values are plain ones of JSON."""
    write_atomically(folder / RECIPE, (json.dumps(recipe, indent=2) + "\n").encode())


def noted_recipe(folder: Path) -> dict[str, Any]:
    """What a run began with; empty where none has.

    Raises
    ------
    UsageError
        The note cannot be read.
    """
    path = folder / RECIPE
    try:
        noted = json.loads(path.read_bytes())
        if not isinstance(noted, dict) or not noted:
            raise ValueError("no JSON object, or an empty one")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: does not tell how the run began ({error}): --overwrite begins anew") from error
    return noted


def check_recipe(folder: Path, now: Mapping[str, Any]) -> None:
    """Raises UsageError where a value differs from what the run in ``folder`` began with."""
    then = noted_recipe(folder)
    other = [
        WORDS.get(name) or f"{name} {then.get(name)}, now {value}"
        for name, value in now.items()
        if then.get(name) != value
    ]
    if other:
        raise UsageError(
            f"{folder}: the run began with {'; '.join(other)}: give it what it began with, or begin anew: --overwrite"
        )

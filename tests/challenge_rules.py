"""The MURA challenge's rules for a predictions file, in plain Python and by nothing of the package."""

from __future__ import annotations

from pathlib import Path


def checked_predictions(paths: Path, predictions: Path) -> dict[str, int]:
    """The studies' predictions in the file's order; AssertionError where the file breaks a rule."""
    studies = set()
    for line in paths.read_text(encoding="utf-8").split("\n"):
        path = line.strip()
        if path:
            studies.add(path[: path.rindex("/") + 1])
    text = predictions.read_bytes().decode("utf-8")
    assert "\r" not in text, "lines end in LF alone"
    found: dict[str, int] = {}
    for line in text.removesuffix("\n").split("\n"):
        study, comma, decision = line.rpartition(",")
        assert comma and decision in ("0", "1"), f"{line!r} is not STUDY/,0 or STUDY/,1"
        assert study in studies, f"{study!r} is no listed study"
        assert study not in found, f"{study!r} is there twice"
        found[study] = int(decision)
    assert not studies - found.keys(), f"no line for {sorted(studies - found.keys())}"
    return found

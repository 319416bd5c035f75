"""The result as a table."""

from __future__ import annotations

from typing import Any

HEAD = ("", "ours to it", "views/s", "whole command, s", "peak, GB", "cold: ours to it")


def _between(found: dict[str, float], digits: int) -> str:
    return f"{found['median']:.{digits}f} ({found['min']:.{digits}f} to {found['max']:.{digits}f})"


def _figures(found: dict[str, Any]) -> tuple[str, str, str]:
    return _between(found["views_per_s"], 2), _between(found["wall_s"], 1), f"{found['peak_gb']:.2f}"


def _row(name: str, found: dict[str, Any], cold: dict[str, Any]) -> tuple[str, ...]:
    told = f"`{name}`: {found['told']}"
    if "not_run" in found:
        return told, "not run", found["not_run"], "", "", ""
    if "failed" in found:
        return told, "no time", " ".join(found["failed"].split())[-200:].replace("|", "\\|"), "", "", ""
    told = f"{told} ({found['options']})" if found["options"] else told
    chilled = cold.get(name, {}).get("ours_to_peer")
    return told, _between(found["ours_to_peer"], 2), *_figures(found), _between(chilled, 2) if chilled else ""


def table(result: dict[str, Any]) -> str:
    """A Markdown table: ours, then the peers that were run, the fastest first, then the others with the reason."""
    cold = (result["cold"] or {}).get("peers", {})
    measured = {name: found for name, found in result["peers"].items() if "views_per_s" in found}
    fastest = sorted(measured, key=lambda name: -measured[name]["views_per_s"]["median"])
    names = fastest + [name for name in result["peers"] if name not in measured]
    ours = ("mura-trt score", "1", *_figures(result["ours"]), "1" if cold else "") if result["ours"] else None
    rows = [HEAD, ("---",) * len(HEAD), *([ours] if ours else [])]
    rows += [_row(name, result["peers"][name], cold) for name in names]
    told = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    if result["cold"]:
        told += (
            f"\n\nCold: {result['cold']['cached_share_before_a_run']:.1%} of the files' pages were cached before a run."
        )
    return told

"""What ``doctor`` found, as text for a terminal."""

from __future__ import annotations

import textwrap
from typing import Any

from mura_trt.doctor import packages
from mura_trt.doctor.finding import ABSENT, PROBLEM, UNKNOWN, WORKS
from mura_trt.doctor.run import GPU_RUNTIMES

_WIDTH = 120


def table(found: dict[str, Any]) -> str:
    """The machine, a line a check, what to mend, and the verdict.

    Parameters
    ----------
    found
        As :func:`mura_trt.doctor.examine` gives it.
    """
    checks: dict[str, dict[str, Any]] = found["checks"]
    lines = [*_machine(found["environment"]), ""]
    widths = max(map(len, checks)), max(len(check["status"]) for check in checks.values())
    for name, check in checks.items():
        head = f"{name:<{widths[0]}}  {check['status']:<{widths[1]}}  "
        seconds = f" ({check['seconds']:.1f} s)" if check["seconds"] else ""
        lines += _wrapped(head, f"{check['found']}{seconds}")
    mends = [(name, check["mend"]) for name, check in checks.items() if check["status"] in (PROBLEM, UNKNOWN)]
    mends = [(name, mend) for name, mend in mends if mend]
    if mends:
        lines += ["", "To mend:"]
        for name, mend in mends:
            lines += _wrapped(f"- {name}: ", mend)
    return "\n".join([*lines, "", *_wrapped("", verdict(found))])


def verdict(found: dict[str, Any]) -> str:
    """One sentence or two: whether scoring works here, with what, and whether it would use the GPU."""
    status = {name: check["status"] for name, check in found["checks"].items()}
    runtimes = found["runtimes"]
    if not found["can_score"]:
        failed = []
        if status.get("decode-png") not in (WORKS, ABSENT):
            failed.append("PNG files are not decoded")
        if status.get("decode-cpu") != WORKS:
            failed.append(f"DALI {'could not be tried' if status.get('decode-cpu') == UNKNOWN else 'does not decode'}")
        if status.get("tables") != WORKS:
            failed.append("tables cannot be written and read")
        if not runtimes:
            failed.append(f"no runtime {'could be tried' if status.get('onnxruntime') == UNKNOWN else 'works'}")
        return f"Scoring does not work here: {' and '.join(failed)}."
    told = f"Scoring works here with {', '.join(runtimes)}"
    if found["environment"]["gpus"] and not set(runtimes) & set(GPU_RUNTIMES):
        return f"{told}; the GPU would stand idle: none of {', '.join(GPU_RUNTIMES)} works."
    return f"{told}."


def _machine(said: dict[str, Any]) -> list[str]:
    cores, memory, disk = said["cores"], said["memory"], said["disk"]
    quota = "no quota" if cores["quota"] is None else f"a quota of {cores['quota']:g}"
    limit = "no limit" if memory["limit_bytes"] is None else f"a limit of {_gigabytes(memory['limit_bytes'])}"
    names = {name: packages.of_library(name, said["versions"]) for name in packages.LIBRARIES}
    there = [
        f"{library} {said['versions'][distribution]}"
        + (f" ({distribution})" if distribution not in library.lower().replace(" ", "") else "")
        for library, distributions in names.items()
        # A package that only brings another of its version is not told twice.
        for distribution in {said["versions"][name]: name for name in reversed(distributions)}.values()
    ]
    missing = [library for library, distributions in names.items() if not distributions]
    rows = [
        ("machine", f"{said['os']}; {said['processor'] or 'unknown processor'}"),
        ("software", f"mura-trt {said['mura_trt']}, Python {said['python']}, {', '.join(there) or 'no library'}"),
        ("not installed", ", ".join(missing) or "nothing"),
        ("cores", f"{cores['usable']} to use: {cores['affinity']} by affinity, {quota}; {cores['online']} in all"),
        (
            "memory",
            f"{_gigabytes(memory['available_bytes'])} free of {_gigabytes(memory['total_bytes'])}; {limit} by cgroup",
        ),
        ("disk free", ", ".join(f"{_gigabytes(disk[name]['free_bytes'])} in {disk[name]['path']}" for name in disk)),
        *(
            (
                f"GPU {number}",
                f"{gpu['name']}, compute capability {gpu['compute_capability']},"
                f" {_gigabytes(gpu['free_bytes'])} free of {_gigabytes(gpu['memory_bytes'])}",
            )
            for number, gpu in enumerate(said["gpus"])
        ),
    ]
    width = max(len(name) for name, _ in rows)
    return [line for name, text in rows for line in _wrapped(f"{name:<{width}}  ", text)]


def _gigabytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e9:.1f} GB"


def _wrapped(head: str, text: str) -> list[str]:
    """Text behind a head, and below itself where it is long."""
    return textwrap.wrap(
        text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
    ) or [head.rstrip()]

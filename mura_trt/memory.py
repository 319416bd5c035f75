"""How much of the host's memory there is for this process."""

from __future__ import annotations

import re
from pathlib import Path


def memory(system: Path = Path("/")) -> dict[str, int | None]:
    """Bytes: ``total_bytes``, ``available_bytes``, ``limit_bytes``; None for what cannot be told.

    Parameters
    ----------
    system
        Where ``proc`` and ``sys`` are.
    """
    said = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _read(system / "proc/meminfo"), re.MULTILINE))
    total, available = (int(said[name]) * 1024 if name in said else None for name in ("MemTotal", "MemAvailable"))
    limit = None
    for folder, names in _memory_cgroups(system):
        most = _number(_read(folder / names[0]))
        if most is None or (total is not None and most >= total):  # none: "max", or version 1's absurd number
            continue
        used = _number(_read(folder / names[1])) or 0
        # File caches count as used, and go when memory is wanted.
        cached = re.search(rf"^{names[2]} (\d+)$", _read(folder / "memory.stat"), re.MULTILINE)
        left = max(0, most - used + (int(cached[1]) if cached else 0))
        limit = most if limit is None else min(limit, most)
        available = left if available is None else min(available, left)
    return {"total_bytes": total, "available_bytes": available, "limit_bytes": limit}


_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")


def _memory_cgroups(system: Path) -> list[tuple[Path, tuple[str, str, str]]]:
    """The cgroup of this process and those around it, any of which may have a limit; with the names of its files."""
    found = []
    for line in _read(system / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        root, names = system / "sys/fs/cgroup", _VERSION_2
        if "memory" in controllers.split(","):
            root, names = root / "memory", _VERSION_1
        elif controllers:
            continue
        # In a container the path may be the host's; its root is then what holds for it.
        own = Path(path.strip("/"))
        found += [(root / part, names) for part in (own, *own.parents)]
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None

"""The machine, and what is installed."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

import mura_trt
from mura_trt.cores import cpu_quota, processor_name, usable_cores
from mura_trt.doctor import packages
from mura_trt.doctor.finding import Finding
from mura_trt.doctor.process import ask
from mura_trt.memory import memory

DRIVER_SECONDS = 60.0  # a machine with many GPUs that keeps no driver state takes some seconds for each
_PROBE = "mura_trt.doctor.probes:driver"


def driver_finding(folder: Path) -> Finding:
    """What the NVIDIA driver says, asked in another process: this one gets no CUDA context; ``folder`` is scratch."""
    return ask(_PROBE, {}, folder, DRIVER_SECONDS, "install the NVIDIA driver anew, and restart")


def described(driver: Finding) -> dict[str, Any]:
    """The environment as ``doctor`` tells it; tries no library.

    Parameters
    ----------
    driver
        As :func:`driver_finding` gives it.

    Returns
    -------
    JSON types, None for what cannot be told:

    - ``mura_trt``, ``python``, ``os``, ``processor``: text;
    - ``cores``: ``usable`` (what the package works with), ``affinity``, ``quota`` (cores' time that the cgroup allows),
      ``online``;
    - ``memory``: ``total_bytes``, ``available_bytes`` (of the machine, or of the cgroup where that is less),
      ``limit_bytes`` (the cgroup's);
    - ``disk``: ``work``, ``temp`` and ``shm``, each ``path`` and ``free_bytes``;
    - ``driver`` (version of the NVIDIA driver), ``cuda`` (the newest that it knows), ``gpus``: a list of ``name``,
      ``compute_capability``, ``memory_bytes``, ``free_bytes``; ``gpu`` and ``compute_capability`` of the first one;
    - ``versions``: by the distribution's name, of those installed.
    """
    gpus: list[dict[str, Any]] = driver.facts.get("gpus", [])
    first = gpus[0] if gpus else {}
    return {
        "mura_trt": mura_trt.__version__,
        "python": platform.python_version(),
        "os": f"{_os_name()}, {platform.system()} {platform.release()}, {platform.machine()}",
        "processor": processor_name() or None,
        "cores": _cores(),
        "memory": memory(),
        "disk": {
            "work": _disk(os.curdir),
            "temp": _disk(tempfile.gettempdir()),
            "shm": _disk("/dev/shm"),
        },
        "driver": driver.facts.get("version"),
        "cuda": driver.facts.get("cuda"),
        "gpu": first.get("name"),
        "compute_capability": first.get("compute_capability"),
        "gpus": gpus,
        "versions": packages.versions(packages.installed()),
    }


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "unknown distribution"


def _cores() -> dict[str, float | None]:
    found: dict[str, float | None] = {"usable": None, "affinity": None, "quota": None, "online": os.cpu_count()}
    with contextlib.suppress(OSError, ValueError, AttributeError):  # strange files; no Linux
        found["affinity"] = len(os.sched_getaffinity(0))
        found["quota"] = cpu_quota()
        found["usable"] = usable_cores()
    return found


def _disk(path: str) -> dict[str, Any]:
    try:
        return {"path": str(Path(path).resolve()), "free_bytes": shutil.disk_usage(path).free}
    except OSError:  # not there, or the working directory was removed
        return {"path": path, "free_bytes": None}

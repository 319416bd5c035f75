"""Wheels as files: what they say of themselves, which of those that the host needs are there, and stubs."""

from __future__ import annotations

import email
import re
import zipfile
from collections.abc import Iterable
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pip._vendor.packaging.requirements import Requirement


def unmet(wheels: Path, roots: Iterable[str], python: str, host: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """What the host's Python needs of ``roots`` and ``wheels`` has not; and what is asked of the host's own packages.

    pip judges by the Python that it runs in what is needed only by some Pythons, and so can miss what the host needs.
    The first is a list of requirements; the second gives version specifiers by package.
    """
    from pip._vendor.packaging.requirements import Requirement

    there = {normal_name(name): (version, needs) for name, version, needs in map(read_wheel, wheels.glob("*.whl"))}
    asked = {normal_name(name): set[str]() for name in host}
    missing: list[str] = []
    seen: set[tuple[str, str]] = set()
    queue = [Requirement(root) for root in roots]
    while queue:
        requirement = queue.pop()
        name = normal_name(requirement.name)
        if name in asked:
            asked[name].update(str(specifier) for specifier in requirement.specifier)
            continue
        version, needs = there.get(name, (None, []))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            missing.append(str(requirement).partition(";")[0].strip())
            continue
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                queue += [need for need in map(Requirement, needs) if _applies(need, python, extra)]
    return sorted(set(missing)), {name: ",".join(sorted(specifiers)) for name, specifiers in asked.items()}


def write_stub_wheel(folder: Path, name: str, version: str) -> None:
    """An empty wheel that stands for a package of the host while pip resolves, so that pip brings none of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    version = f"{version}+host"
    stem = f"{file_name(name)}-{version}"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")


def read_wheel(path: Path) -> tuple[str, str, list[str]]:
    """Name, version and requirements of a wheel."""
    metadata = _metadata(path)
    return metadata["Name"], metadata["Version"], metadata.get_all("Requires-Dist", [])


def wheel_extras(path: Path) -> set[str]:
    """The extras that a wheel knows."""
    return set(_metadata(path).get_all("Provides-Extra", []))


def _metadata(path: Path) -> Message:
    with zipfile.ZipFile(path) as wheel:
        (name,) = (name for name in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        return email.message_from_bytes(wheel.read(name))


def _applies(need: Requirement, python: str, extra: str) -> bool:
    """Whether a requirement holds on the host, whatever its Python's patch release."""
    if need.marker is None:
        return extra == ""
    common = {
        **{"implementation_name": "cpython", "platform_python_implementation": "CPython", "os_name": "posix"},
        **{"platform_machine": "x86_64", "platform_system": "Linux", "sys_platform": "linux"},
        **{"platform_release": "", "platform_version": "", "python_version": python, "extra": extra},
    }
    patches = (f"{python}.0", f"{python}.99")
    return any(
        need.marker.evaluate({**common, "python_full_version": full, "implementation_version": full})
        for full in patches
    )


def normal_name(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def file_name(name: str) -> str:
    """A package's name as it stands in a wheel's file name."""
    return normal_name(name).replace("-", "_")

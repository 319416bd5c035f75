"""Kits for hosts with no internet."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated

import typer

from mura_trt.commands.shared import Overwrite
from mura_trt.commands.streams import say
from mura_trt.errors import UsageError


def offline(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the volumes and what installs them.")],
    python: Annotated[
        str | None, typer.Option(help="The host's Python, such as 3.12.", show_default="this one's")
    ] = None,
    extras: Annotated[str, typer.Option(help="Extras to pack, with commas between; gpu is --pycuda.")] = (
        "build,rtx,dicom"
    ),
    without: Annotated[
        str, typer.Option(help="Packages that the host has: torch,numpy, or with its versions torch==2.11.0.")
    ] = "",
    pycuda: Annotated[
        str, typer.Option(help="wheel (built here: CUDA toolkit, no GPU), sdist (built by the host) or none.")
    ] = "none",
    glibc: Annotated[str, typer.Option(help="The host's glibc, or an older one.")] = "2.28",
    volume_mib: Annotated[int, typer.Option(help="Size of a volume, MiB.")] = 1900,
    source: Annotated[
        Path | None,
        typer.Option(help="Checkout or wheel of mura-trt.", show_default="the checkout that this runs from"),
    ] = None,
    constraints: Annotated[
        Path | None,
        typer.Option(help="Versions, as a file of pip's.", show_default="the checkout's constraints.txt"),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Packs mura-trt and all it needs for a machine with no internet, the host: run here, carry, `sh install.sh`."""
    from mura_trt.offline.make import OfflinePlan, make_kit

    checkout = source or Path(__file__).parents[2]
    if checkout.suffix != ".whl" and not (checkout / "pyproject.toml").is_file():
        raise UsageError(f"{checkout} is no checkout of mura-trt: name one, or its wheel, with --source")
    pinned = checkout / "constraints.txt"
    plan = OfflinePlan(
        folder,
        python or ".".join(platform.python_version_tuple()[:2]),
        checkout,
        constraints or (pinned if pinned.is_file() else None),
        _named(extras),
        _named(without),
        pycuda,
        glibc,
        volume_mib,
    )
    manifest = make_kit(plan, overwrite)
    size = sum(volume["size"] for volume in manifest["volumes"]) / 2**20
    say(
        f"{folder}: {len(manifest['files'])} packages for Python {plan.python}, {size:,.0f} MiB in"
        f" {len(manifest['volumes'])} volumes; carry all of the folder, and there: sh install.sh"
    )


def _named(listed: str) -> tuple[str, ...]:
    return tuple(name for part in listed.split(",") if (name := part.strip()))

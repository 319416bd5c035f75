"""What a run notes of how its rows came about."""

from __future__ import annotations

import dataclasses
from importlib import metadata
from pathlib import Path

import pytest

from mura_trt import gray
from mura_trt.bundle import Bundle
from mura_trt.errors import UsageError
from mura_trt.runtimes import RUNTIMES
from mura_trt.score import score
from mura_trt.score_options import ScoreOptions
from mura_trt.score_recipe import LIBRARIES_OF, installed_versions


@pytest.mark.parametrize("runtime", sorted(set(RUNTIMES) - {"null", "tensorrt"}))  # of which one has no library
def test_every_runtimes_libraries_are_noted_with_their_versions(runtime: str) -> None:
    libraries = LIBRARIES_OF.get(runtime, (runtime,))
    assert installed_versions(libraries) == {library: metadata.version(library) for library in libraries}


def test_a_run_goes_on_only_where_it_is_decoded_as_it_began(
    archive: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ScoreOptions(archive=archive, engine=bundle.folder, out=tmp_path / "out", runtime="null")
    score(options)
    there = gray.available()
    monkeypatch.setattr(gray, "available", lambda: not there)
    with pytest.raises(UsageError, match="began with this package's C code where now there is none"):
        score(dataclasses.replace(options, resume=True))

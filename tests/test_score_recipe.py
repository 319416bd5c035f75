"""What a run notes of how its rows came about."""

from __future__ import annotations

from importlib import metadata

import pytest

from mura_trt.runtimes import RUNTIMES
from mura_trt.score_recipe import LIBRARY_OF, installed_versions


@pytest.mark.parametrize("runtime", sorted(set(RUNTIMES) - {"null", "tensorrt"}))  # of which one has no library
def test_every_runtimes_library_is_noted_with_its_version(runtime: str) -> None:
    library = LIBRARY_OF.get(runtime, runtime)
    assert installed_versions([library]) == {library: metadata.version(library)}

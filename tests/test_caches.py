"""Caches save time or do nothing; they never fail, and never give back what was not saved."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import tensorrt_rtx as trt

from mura_trt.bundle import Bundle
from mura_trt.caches import CacheFile
from mura_trt.timing_cache import load_timings, save_timings, structure_of
from tests.bundles import remade
from tests.graphs import tiny_graph


def test_saved_is_loaded(tmp_path: Path) -> None:
    cache = CacheFile.named(tmp_path / "a" / "b", "timings", "NVIDIA H100 80GB/HBM3", "10.16.1")
    assert cache.load() is None
    cache.save(b"first")
    cache.save(b"second")
    assert cache.load() == b"second"
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["timings-NVIDIA_H100_80GB_HBM3-10.16.1"]


def test_same_content_is_not_written_again(tmp_path: Path) -> None:
    cache = CacheFile(tmp_path / "c")
    cache.save(b"x")
    written = cache.path.stat()
    cache.save(b"x")
    assert cache.path.stat().st_ino == written.st_ino
    cache.save(b"y")
    assert cache.path.stat().st_ino != written.st_ino


@pytest.mark.parametrize("content", [b"", b"garbage", b"0" * 64 + b"\nx"])
def test_damaged_cache_is_none(content: bytes, tmp_path: Path) -> None:
    cache = CacheFile(tmp_path / "c")
    cache.path.write_bytes(content)
    assert cache.load() is None
    cache.save(b"new")
    assert cache.load() == b"new"


def test_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # also for root, who may write everywhere, there is no folder in a file
    cache = CacheFile.named(tmp_path / "file" / "cache", "key")
    cache.save(b"x")
    assert cache.load() is None


def test_bundle_is_the_same_with_a_cache_in_it(bundle: Bundle, tmp_path: Path) -> None:
    copy = remade(bundle, tmp_path / "engine")
    cache = copy.cache("runtime", "1.7.1", "SM90")
    cache.save(b"kernels")
    opened = Bundle.open(copy.folder)
    assert opened.sha256 == copy.sha256
    assert opened.cache("runtime", "1.7.1", "SM90").load() == b"kernels"


def test_structure_is_that_of_the_graph_whatever_its_weights(tmp_path: Path) -> None:
    first = structure_of(tiny_graph(tmp_path / "a.onnx", seed=1))
    assert first == structure_of(tiny_graph(tmp_path / "b.onnx", seed=2))
    assert first != structure_of(tiny_graph(tmp_path / "c.onnx", channels=9))


def test_timings_go_through_the_builder_and_back(tmp_path: Path) -> None:
    """TensorRT-RTX has the calls of TensorRT still, though without effect; it warns of that, and of the absent GPU."""
    cache = CacheFile(tmp_path / "timings")
    builder = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        save_timings(load_timings(builder.create_builder_config(), cache), cache)
        kept = cache.load()
        assert kept
        config = builder.create_builder_config()
        save_timings(load_timings(config, cache), cache)
        assert config.get_timing_cache() is not None
        assert cache.load()
        cache.save(b"of another version")
        save_timings(load_timings(builder.create_builder_config(), cache), cache)
        assert cache.load() == kept

"""What a run costs beside its views: the benchmark runs the whole of it, its tables are right, its limits are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import scale, scale_projection
from benchmarks.feed import make_bundle
from mura_trt.archives.keys import body_part
from mura_trt.bench.processes import in_fresh_process
from mura_trt.demo.anatomy import BODY_PARTS

VIEWS = 10_000
MEGABYTE = 1e6


@pytest.fixture
def work(tmp_path: Path) -> Path:
    make_bundle(tmp_path / "engine")
    return tmp_path


def expected_tables(views: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    """Views that are scored, studies, and the names of views that failed, with nothing of the product's."""
    names = pd.Series([key.decode() for key in scale.keys(views)])
    number = np.arange(views)
    failed = number % scale.FAILED_EVERY == scale.FAILED_EVERY // 2
    logit = scale.logits(number)
    table = pd.DataFrame({"view": names, "study": names.str.rpartition("/")[0], "logit": logit})
    table["probability"] = 1 / (1 + np.exp(-logit))
    table["color"] = (number % scale.COLORED_EVERY == 0).astype(int)
    table.loc[failed, "probability"] = np.nan
    grouped = table.assign(exact=table["probability"].astype(np.float64)).groupby("study", sort=False)
    studies = pd.DataFrame(
        {"views": grouped.size(), "scored": grouped["exact"].count(), "mean": grouped["exact"].mean()}
    )
    return table[~failed].reset_index(drop=True), studies.reset_index(), names[failed].reset_index(drop=True)


def check_tables(out: Path, table_format: str) -> None:
    read = pd.read_csv if table_format == "csv" else pd.read_parquet
    tables = {name: read(out / f"{name}.{table_format}") for name in ("views", "studies", "failures")}
    views, studies, failures = expected_tables(VIEWS)
    for name in ("view", "study", "color"):
        assert tables["views"][name].tolist() == views[name].tolist()
    for name in ("logit", "probability"):
        np.testing.assert_array_equal(tables["views"][name].astype(np.float32), views[name])
    for name in ("study", "views", "scored"):
        assert tables["studies"][name].tolist() == studies[name].tolist()
    np.testing.assert_allclose(tables["studies"]["probability"], studies["mean"], rtol=1e-12)
    assert tables["studies"]["body_part"].tolist() == [body_part(key.encode()) for key in studies["study"]]
    assert tables["failures"]["view"].tolist() == failures.tolist()


def test_names_are_as_many_as_asked_for_and_spread_as_muras() -> None:
    names = list(scale.keys(VIEWS))
    assert len(set(names)) == len(names) == VIEWS
    assert {body_part(name) for name in names} == set(BODY_PARTS)
    studies = {name.rpartition(b"/")[0] for name in names}
    assert len(names) / len(studies) == pytest.approx(scale.VIEWS_PER_STUDY, rel=0.05)


@pytest.mark.parametrize(
    ("case", "most_cpu_s"),
    [
        (scale.Case(VIEWS), 0.1),
        (scale.Case(VIEWS, worker="process", table_format="parquet"), 0.1),
        (scale.Case(VIEWS, shard_views=256, worker="one core"), 0.25),
    ],
)
def test_a_run_of_any_kind_is_whole_and_costs_little(case: scale.Case, most_cpu_s: float, work: Path) -> None:
    """A supervisor took 0.015 s of the processor, and 0.05 s with small shards."""
    found = in_fresh_process(scale.run, case, work / "engine", work / "out", False)
    check_tables(work / "out", case.table_format)
    assert len(list((work / "out" / "shards").iterdir())) == -(-VIEWS // case.shard_views)
    assert found["views_per_s"] > 0 and found["stages"]["supervise"]["cpu_s"] < most_cpu_s
    if case.worker != "played":
        return
    before = {path.name: path.read_bytes() for path in (work / "out").glob(f"*.{case.table_format}")}
    again = in_fresh_process(scale.run, case, work / "engine", work / "out", True)
    assert {path.name: path.read_bytes() for path in (work / "out").glob(f"*.{case.table_format}")} == before
    assert again["views_per_s"] == 0 and again["stages"]["supervise"]["cpu_s"] < 0.01  # nothing was left to do


def test_memory_grows_with_views_by_what_is_said(work: Path) -> None:
    peaks = {}
    for views in (10_000, 90_000):
        found = in_fresh_process(scale.run, scale.Case(views), work / "engine", work / str(views), False)
        peaks[views] = found["stages"]["supervise"]["peak_mb"]
    assert 50 <= (peaks[90_000] - peaks[10_000]) * MEGABYTE / 80_000 <= 150  # the listing, and little else


@pytest.mark.measures
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("table_format", ["csv", "parquet"])
def test_a_million_views(table_format: str, work: Path) -> None:
    """100,000 views/s on one core, the best of three; and at most 200 MB + 120 bytes a view each time."""
    rates = []
    for number in range(3):
        case = scale.Case(1_000_000, table_format=table_format)
        found = in_fresh_process(scale.run, case, work / "engine", work / f"out{number}", False)
        print(found)
        rates.append(found["views_per_s"])
        assert found["peak_mb"] * MEGABYTE <= 200 * MEGABYTE + 120 * case.views
    assert max(rates) >= 100_000, rates


def test_projection_follows_from_what_was_measured() -> None:
    stages = {name: {"s": 1.0, "cpu_s": 0.5, "peak_mb": 100.0} for name in ("list", "tables")}
    small = {"views": 1000, "stages": stages, "shards": 1, "shards_mb": 1.0, "tables_mb": 2.0}
    # A thousand views more take a second more, half of it of the CPU, and 100 bytes each.
    more = {name: {"s": 2.0, "cpu_s": 1.0, "peak_mb": 100.1} for name in stages}
    large = {"views": 2000, "stages": more, "shards": 2, "shards_mb": 2.0, "tables_mb": 4.0}
    costs = scale_projection.costs_per_view(small, large)
    assert costs["list"] == scale_projection.Cost(seconds=1e-3, cpu_seconds=5e-4, peak_bytes=100.0)
    at = scale_projection.projected(large, costs, 1_002_000)
    assert at["list_cpu_s"] == pytest.approx(501) and at["peak_gb"] == pytest.approx(0.2001)
    assert at["shards_gb"] == pytest.approx(1.002)


def test_hours_are_of_the_slower_side() -> None:
    studies = 1_000_000
    hours = scale_projection.hours(studies, views_per_s=10_000, host_views_per_s=35_000, idle=0.0)
    assert hours == pytest.approx(studies * scale.VIEWS_PER_STUDY / 10_000 / 3600)
    limited = scale_projection.hours(studies, views_per_s=50_000, host_views_per_s=35_000, idle=0.0)
    assert limited == pytest.approx(studies * scale.VIEWS_PER_STUDY / 35_000 / 3600)
    with_idle = scale_projection.hours(studies, views_per_s=50_000, host_views_per_s=35_000, idle=1 / 35_000)
    assert with_idle == pytest.approx(2 * limited)
    assert scale_projection.host_rate(1000) == scale_projection.FEED_VIEWS_PER_S > scale_projection.host_rate(8)

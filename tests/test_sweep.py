"""The batch is chosen by measured rates, and the plan of that batch is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mura_trt import sweep as sweep_module
from mura_trt.bundle import Bundle
from mura_trt.cuda_devices import cuda_device_count
from mura_trt.errors import EnvironmentProblem
from mura_trt.plan import build_plan
from mura_trt.runtimes import Pixels, Session, SessionOptions, open_session
from mura_trt.sweep import BATCHES, Rates, busy_seconds, chosen, measured_rates, sweep, timed
from tests.gpu import skip_where_refused
from tests.graphs import tiny_graph


@pytest.mark.parametrize(
    ("rates", "best"),
    [
        ({16: 100.0, 32: 200.0, 64: 300.0}, 64),
        ({16: 100.0, 32: 295.0, 64: 300.0}, 32),  # within 2 %
        ({16: 294.0, 32: 300.0, 64: 299.0}, 16),  # exactly 2 %
        ({16: 293.0, 32: 300.0, 64: 299.0}, 32),
        ({64: 300.0, 32: 300.0}, 32),  # in whatever order
        ({16: 100.0, 32: None}, 16),
        ({16: None, 32: 5.0, 64: None}, 32),
    ],
)
def test_smallest_batch_near_the_best_rate_is_chosen(rates: Rates, best: int) -> None:
    assert chosen(rates) == best


def test_nothing_that_runs_is_an_error() -> None:
    with pytest.raises(EnvironmentProblem, match="batches of 16, 32 runs"):
        chosen({16: None, 32: None})


@pytest.fixture
def built(tmp_path: Path) -> list[tuple[int, Path]]:
    """What the sweep asked to be built."""
    return []


def swept_with(
    rates: dict[int, float | None], bundle: Bundle, folder: Path, built: list[tuple[int, Path]]
) -> tuple[Path, dict[str, Any]]:
    graph = tiny_graph(folder / "g.onnx")

    def build(batch: int, path: Path) -> dict[str, Any]:
        built.append((batch, path))
        return build_plan("tensorrt-rtx", graph, path, (batch, batch, batch))

    def measure(bundles: Sequence[Bundle]) -> Rates:
        for one in bundles:  # each is a plan that a session can be opened on, and says for which batch
            assert one.manifest.builder is not None
            assert one.manifest.builder["batch"][1] in rates
            assert one.path("plan").stat().st_size == one.manifest.builder["plan_bytes"]
            assert one.contract == bundle.contract
        return rates

    return sweep(build, bundle.manifest, folder, measure)


def test_sweep_builds_all_and_keeps_the_plan_of_the_best(
    bundle: Bundle, tmp_path: Path, built: list[tuple[int, Path]]
) -> None:
    rates = {16: 1000.0, 32: 2000.04, 64: 2030.0, 128: 2010.0, 256: None}
    plan, entry = swept_with(rates, bundle, tmp_path, built)
    assert [batch for batch, _ in built] == list(BATCHES)
    assert plan == dict(built)[32]
    assert entry["batch"] == [32, 32, 32]
    assert entry["plan_bytes"] == plan.stat().st_size
    assert entry["sweep"] == {"16": 1000.0, "32": 2000.0, "64": 2030.0, "128": 2010.0, "256": None}


def test_sessions_are_timed_in_turns(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 views in 0.1 s, 16 in 0.1 s, 16 in 0.2 s; but a round that warms up, one disturbed and one too quick."""
    taken = [open_session("null", bundle, SessionOptions(batch=batch))[0] for batch in (4, 16, 16)]
    a_batch, rounds = [0.1, 0.1, 0.2], [50.0, 1.0, 9.0, 0.5]
    turns: list[Session] = []

    def played(session: Session, images: Pixels, batches: int) -> float:
        turns.append(session)
        assert len(images) == session.batch and batches * session.batch == 16
        number, which = divmod(len(turns) - 1, len(taken))
        return rounds[number] * a_batch[which] * batches

    monkeypatch.setattr(sweep_module, "busy_seconds", played)
    assert timed(taken, bundle.contract, rounds=3, views=16) == pytest.approx([40, 160, 80])
    assert turns == taken * 4  # each in every round, the first of which does not count


def test_a_busy_session_is_timed_to_its_last_batch(bundle: Bundle) -> None:
    session = open_session("null", bundle, SessionOptions(batch=2, null_ms=20))[0]
    assert busy_seconds(session, np.zeros((2, 320, 320, 1), np.uint8), 3) >= 0.06
    assert session.pending == 0


@pytest.mark.skipif(cuda_device_count() > 0, reason="a GPU, on which it runs")
def test_plan_that_does_not_run_is_left_out(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    assert measured_rates([bundle]) == {64: None}
    assert "batch of 64 is left out: " in caplog.text


@pytest.mark.gpu
def test_plan_is_measured(bundle: Bundle) -> None:
    skip_where_refused(bundle)
    (rate,) = measured_rates([bundle]).values()
    assert rate is not None
    assert rate > 100

"""What a run says about itself on a terminal and in a log."""

from __future__ import annotations

import io

import pytest

from mura_trt import progress as progress_module
from mura_trt.progress import LOG_SECONDS, TERMINAL_SECONDS, Progress, Reporter, describe


class Clock:
    """Stands in for the ``time`` module, so that a test need not wait."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("nodes", "end"),
    [
        ({}, "0:00:09 to go"),
        ({"10.0.0.1/a": 10}, "0:00:09 to go; 1 node"),
        ({"10.0.0.1/a": 7, "10.0.0.2/b": 3}, "0:00:09 to go; 2 nodes, 3.0 to 7.0 views/s each"),
    ],
)
def test_of_several_machines_the_slowest_and_the_fastest_are_told(
    clock: Clock, nodes: dict[str, int], end: str
) -> None:
    assert describe(Progress(100, 50, scored=10, nodes=nodes, started=clock.now - 1)).endswith(end)


@pytest.mark.parametrize(
    ("views", "studies", "scored", "failed", "seconds", "text"),
    [
        (40_561, 14_822, 1021, 3, 2, "1,024 of 40,561 views, 512.0 views/s, 187.1 studies/s, 3 failed, 0:01:17 to go"),
        (100, 50, 0, 0, 10, "0 of 100 views, 0.0 views/s, 0.0 studies/s, 0 failed, unknown time to go"),
        (100, 50, 90, 10, 10, "100 of 100 views, 10.0 views/s, 5.0 studies/s, 10 failed, 0:00:00 to go"),
        (1_000_000, 1, 100, 0, 10, "100 of 1,000,000 views, 10.0 views/s, 0.0 studies/s, 0 failed, 27:46:30 to go"),
        (11, 11, 0, 1, 1, "1 of 11 views, 1.0 views/s, 1.0 studies/s, 1 failed, 0:00:10 to go"),
    ],
)
def test_a_line_tells_how_far_how_fast_and_how_long(
    clock: Clock, views: int, studies: int, scored: int, failed: int, seconds: float, text: str
) -> None:
    progress = Progress(views, studies, scored, failed, fresh=scored + failed, started=clock.now - seconds)
    assert describe(progress) == text


def test_what_earlier_runs_have_done_makes_a_run_no_faster(clock: Clock) -> None:
    progress = Progress(100, 50, scored=60, before=40, fresh=20, started=clock.now - 10)
    assert describe(progress) == "60 of 100 views, 2.0 views/s, 1.0 studies/s, 0 failed, 0:00:20 to go"
    progress = Progress(100, 50, scored=100, before=100)
    assert describe(progress) == "100 of 100 views, 0.0 views/s, 0.0 studies/s, 0 failed, 0:00:00 to go"


def test_progress_at_the_moment_of_its_start_divides_by_nothing(clock: Clock) -> None:
    assert "0 of 5 views" in describe(Progress(5, 5, started=clock.now))


def run(stream: io.StringIO, clock: Clock, pauses: list[float]) -> None:
    """Reports a view after each pause."""
    progress = Progress(len(pauses), 1, started=clock.now - 1)
    with Reporter(stream) as reporter:
        for pause in pauses:
            clock.now += pause
            progress.scored += 1
            reporter.update(progress)


def test_a_log_gets_whole_lines_now_and_then(clock: Clock) -> None:
    stream = io.StringIO()
    run(stream, clock, [LOG_SECONDS - 1, 1, 1, LOG_SECONDS - 2, 1, 5])
    lines = stream.getvalue().splitlines(keepends=True)
    assert [line[:12] for line in lines] == ["2 of 6 views", "5 of 6 views"]
    assert all(line.endswith(" to go\n") for line in lines)
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_a_short_run_leaves_a_log_empty(clock: Clock) -> None:
    stream = io.StringIO()
    run(stream, clock, [1, 1])
    assert stream.getvalue() == ""


def test_a_terminal_has_its_line_rewritten_and_ends_on_a_line_of_its_own(clock: Clock) -> None:
    stream = Terminal()
    run(stream, clock, [TERMINAL_SECONDS / 2, TERMINAL_SECONDS / 2, TERMINAL_SECONDS, 0.01, 0.01])
    assert stream.getvalue().endswith(" to go\n") and stream.getvalue().count("\n") == 1
    start, *lines = stream.getvalue().split("\r\x1b[2K")
    # The last view's line comes at once, so that a finished run never looks unfinished.
    assert start == "" and [line[:12] for line in lines] == ["2 of 5 views", "3 of 5 views", "5 of 5 views"]


def test_an_error_leaves_a_terminals_cursor_on_a_line_of_its_own(clock: Clock) -> None:
    stream = Terminal()
    with pytest.raises(RuntimeError, match="boom"), Reporter(stream):
        raise RuntimeError("boom")
    assert stream.getvalue() == "\n"


def test_any_line_is_shown_now_and_then_in_a_log(clock: Clock) -> None:
    stream = io.StringIO()
    with Reporter(stream) as reporter:
        for pause, line in ((LOG_SECONDS - 1, "early"), (1, "first"), (LOG_SECONDS - 1, "soon"), (1, "second")):
            clock.now += pause
            reporter.show(line)
        clock.now += 1
        reporter.show("last", final=True)  # a log has it in the summary
    assert stream.getvalue() == "first\nsecond\n"


def test_any_line_is_shown_in_place_on_a_terminal_and_a_final_one_at_once(clock: Clock) -> None:
    stream = Terminal()
    with Reporter(stream) as reporter:
        for pause, line in ((0.0, "early"), (TERMINAL_SECONDS, "first"), (TERMINAL_SECONDS / 2, "soon")):
            clock.now += pause
            reporter.show(line)
        reporter.show("last", final=True)
    assert stream.getvalue() == "\r\x1b[2Kfirst\r\x1b[2Klast\n"

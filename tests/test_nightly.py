"""The nightly run's judge, on histories that are made up, and its history file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.nightly import history
from benchmarks.nightly.judge import FASTER, LEARNING, SLOWER, STEADY, Rule, judged, learn, learnt, summary
from benchmarks.nightly.night import alarms, outcome
from benchmarks.nightly.quick import Measured
from benchmarks.nightly.reference import Pace
from benchmarks.nightly.trial import CLEAN, against_all, plan, rejudged, resampled, result
from mura_trt.errors import UsageError

NOISE = 0.01  # of a night
NAMES = ("decode", "pipeline", "feed")


def a_night(rng: np.random.Generator, slowdown: float = 0.0, machine: float = 1.0, noise: float = NOISE) -> Any:
    """A record of rounds on a machine of that speed, with code that takes so much more CPU time."""
    measured = Measured()
    for name in NAMES:
        tonight = rng.normal(0, noise)
        for _ in range(6):
            here = machine * math.exp(rng.normal(0, 0.1))  # it is faster in one round than in another

            def pace(work: float, here: float = here) -> Pace:
                return Pace(*(here * work * np.exp(rng.normal(0, noise, 2))))

            ours = 3000 * math.exp(tonight) / (1 + slowdown)
            measured.take(name, pace(ours), pace(1000), pace(1000))
    return of_rounds(measured.figures)


def of_rounds(rounds: dict[str, list[float]]) -> Any:
    figures = {}
    for name, ratios in rounds.items():
        value, error = summary(ratios)
        figures[name] = {"rounds": ratios, "value": value, "error": error, "state": LEARNING, "nights": 0}
        figures[name] |= {"level": None, "noise": None, "bound": None, "off": None}
    return {
        "date": "2026-11-26T02:30:00Z",
        "commit": "abc",
        "key": {},
        "figures": figures,
        "failures": [],
        "seconds": 1,
    }


def nights(count: int, seed: int = 0, **changes: Any) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [a_night(rng, **changes) for _ in range(count)]


def states(record: Any, before: list[Any], rule: Rule | None = None) -> dict[str, str]:
    rule = rule or Rule()
    values = {name: (said["value"], said["error"]) for name, said in record["figures"].items()}
    return {name: verdict.state for name, verdict in judged(values, learnt(before, rule), rule).items()}


def test_a_machine_that_drifts_is_no_alarm() -> None:
    rng = np.random.default_rng(1)
    records = [a_night(rng, machine=1 + night / 20) for night in range(30)]  # 2.5 times as fast in the end
    assert rejudged(records, Rule()) == [[]] * 30


def test_a_slowdown_of_ten_percent_is_an_alarm_that_says_what_where_and_since_when() -> None:
    before = nights(20)
    found = against_all(nights(1, seed=5, slowdown=0.1)[0], before, Rule())
    assert {one.split(":")[0] for one in found} == {f"{name} cpu" for name in NAMES}  # wall time is asked once more
    for part in (" % slower than the median of 20 nights", "the noise of a night is", "last good abc of 2026-11-26"):
        assert part in found[0], found[0]


def test_wall_time_is_an_alarm_on_its_second_night() -> None:
    rng = np.random.default_rng(2)
    records = nights(15)
    slow = [a_night(rng), a_night(rng)]
    for record in slow:
        for name in NAMES:
            said = record["figures"][f"{name} wall"]
            said["value"] -= 0.2
    found = rejudged([*records, *slow], Rule())
    assert found[:-1] == [[]] * 16
    assert {one.split(":")[0] for one in found[-1]} == {f"{name} wall" for name in NAMES}


def test_few_nights_are_learnt_from_and_not_judged() -> None:
    before = nights(7)
    assert set(states(nights(1, seed=3, slowdown=0.5)[0], before).values()) == {LEARNING}
    assert set(states(nights(1, seed=3, slowdown=0.5)[0], nights(8)).values()) == {SLOWER}


def test_false_alarms_are_as_few_as_the_rule_says() -> None:
    rule = Rule(floor=0.0)  # which would hide them
    alarming = sum(any(rejudged(nights(13, seed=seed), rule)) for seed in range(200))  # 5 judged nights each
    assert alarming <= 1000 * 0.01


def test_histories_drawn_from_clean_nights_have_no_alarm() -> None:
    found = resampled(nights(20), Rule(), histories=1000)
    assert found["with_an_alarm"] <= 0.01 and found["histories"] == 1000
    assert resampled([*nights(17), *nights(3, slowdown=0.3)], Rule(), histories=50)["with_an_alarm"] > 0.2


def test_less_than_the_floor_is_no_alarm_and_more_noise_allows_more() -> None:
    quiet, noisy = nights(20, noise=0.001), nights(20, noise=0.05)
    assert set(states(nights(1, slowdown=0.03, noise=0.001)[0], quiet).values()) == {STEADY}
    assert SLOWER not in states(nights(1, slowdown=0.1)[0], noisy).values()
    unsure = nights(1, slowdown=0.1)[0]  # this night's own rounds are far apart
    for said in unsure["figures"].values():
        said["error"] = 0.05
    assert set(states(unsure, quiet).values()) == {STEADY}


def test_an_alarm_is_not_learnt_from_until_it_is_accepted() -> None:
    rule = Rule()
    before, slow = nights(12), nights(9, seed=7, slowdown=0.15)
    for record in slow[:4]:
        record["figures"] = {name: {**said, "state": SLOWER} for name, said in record["figures"].items()}
        record["failures"] = ["slower"]
    level = learnt(before, rule)["decode cpu"].levels
    assert learnt([*before, *slow[:4]], rule)["decode cpu"].levels == level
    slow[3]["accepted"] = True
    accepted = [*before, *slow[:4]]
    assert set(states(slow[4], accepted).values()) == {STEADY}  # the noise is known still
    assert set(states(nights(1, seed=8, slowdown=0.4)[0], accepted).values()) == {SLOWER}
    # What is slow now is found for the first time, since the night that was accepted.
    accepted[-1]["commit"] = "new"
    said = nights(1, seed=8, slowdown=0.4)[0]["figures"]
    slower = {name: (said[name]["value"], said[name]["error"]) for name in ("decode cpu", "decode wall")}
    (told,) = alarms(judged(slower, learnt(accepted, rule), rule), accepted, "def")
    assert told.startswith("decode cpu: ") and "last good new of " in told


def test_three_faster_nights_in_a_row_are_the_new_level() -> None:
    known = learnt(nights(12), Rule())
    fast = nights(4, seed=9, slowdown=-0.2)
    for record in fast[:3]:
        record["figures"] = {name: {**said, "state": FASTER} for name, said in record["figures"].items()}
        assert len(known["decode cpu"].levels) == 1
        learn(known, record, Rule())
    assert [len(level) for level in known["decode cpu"].levels] == [12, 3]
    value = fast[3]["figures"]["decode cpu"]
    verdict = judged({"decode cpu": (value["value"], value["error"])}, known, Rule())["decode cpu"]
    assert verdict.state == STEADY and verdict.nights == 15


def test_an_outlying_night_does_not_blind_the_judge() -> None:
    before = nights(20)
    for said in before[5]["figures"].values():
        said["value"] -= 1.0
    assert SLOWER in states(nights(1, seed=4, slowdown=0.15)[0], before).values()


def test_outcome_says_that_it_learns_and_how_many_nights_it_wants() -> None:
    assert outcome(nights(1)[0])[0].startswith("learning: 1 nights are kept; with 8")


def test_outcome_tells_suspicions_noise_and_faster_nights() -> None:
    record = nights(1)[0]
    known = {"nights": 20, "level": 0.0, "noise": 0.02, "bound": 0.08}
    record["figures"]["feed wall"] |= {**known, "state": SLOWER, "off": -0.2}
    record["figures"]["feed cpu"] |= {**known, "state": STEADY, "off": 0.0, "bound": 0.3}
    record["figures"]["decode cpu"] |= {**known, "state": FASTER, "off": 0.2}
    told = "\n".join(outcome(record)[1:])
    assert "suspected, an alarm if the next night finds it, too: feed wall: 22.1 % slower" in told
    assert "feed cpu: so noisy that up to 35 % slower would be no alarm" in told
    assert "decode cpu: 18.1 % less time; three such nights are the new level" in told


def test_records_come_back_as_they_were_added(tmp_path: Path) -> None:
    path = tmp_path / "nights.jsonl"
    assert history.read(path) == ([], [])
    first, second = nights(2)
    history.append(path, first)
    history.append(path, second)
    assert history.read(path) == ([first, second], [])


@pytest.mark.parametrize("cut", [1, 40])
def test_a_line_that_was_cut_off_is_told_and_passed_over(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "nights.jsonl"
    first, second, third = nights(3)
    history.append(path, first)
    history.append(path, second)
    path.write_bytes(path.read_bytes()[: -1 - cut])
    records, told = history.read(path)
    assert records == [first] and len(told) == 1 and "line 2 (the last" in told[0]
    history.append(path, third)
    records, told = history.read(path)
    assert records == [first, third] and "line 2:" in told[0]


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[]", b"7", b'{"date": 1}', b'{"accepts": "never"}', b"{"])
def test_what_is_no_record_is_passed_over(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "nights.jsonl"
    history.append(path, nights(1)[0])
    path.write_bytes(line + b"\n" + path.read_bytes())
    records, told = history.read(path)
    assert len(records) == 1 and len(told) == 1


def test_a_whole_last_line_without_its_end_is_a_record(tmp_path: Path) -> None:
    path = tmp_path / "nights.jsonl"
    record = nights(1)[0]
    history.append(path, record)
    path.write_bytes(path.read_bytes()[:-1])
    history.append(path, record)
    assert history.read(path) == ([record, record], [])


def test_accepting_marks_the_night_and_changes_no_line(tmp_path: Path) -> None:
    path = tmp_path / "nights.jsonl"
    record = nights(1)[0]
    history.append(path, record)
    before = path.read_bytes()
    history.accept(path, record)
    assert path.read_bytes().startswith(before)
    assert history.read(path)[0] == [{**record, "accepted": True}]


def test_a_history_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose another history"):
        history.append(tmp_path / "none" / "nights.jsonl", nights(1)[0])


def test_only_likes_are_compared() -> None:
    one, other = nights(2)
    one["key"], other["key"] = {"cores": 2}, {"cores": 4}
    assert history.alike([one, other], {"cores": 4}) == [other]


def test_alarms_name_no_good_night_where_there_was_none() -> None:
    before = nights(9)
    for record in before:
        record["failures"] = ["soak: it hangs"]
    slow = nights(1, slowdown=0.3)[0]
    verdicts = judged({"feed cpu": (slow["figures"]["feed cpu"]["value"], 0.0)}, learnt(nights(9), Rule()), Rule())
    assert "no good one before" in alarms(verdicts, before, "def")[0]


def test_trial_mixes_its_runs_and_tells_what_was_caught() -> None:
    kinds = plan(20, 10)
    assert [kinds.count(kind) for kind in (CLEAN, "decode", "worker")] == [20, 10, 10]
    assert {CLEAN, "decode", "worker"} == set(kinds[:6])
    found = result({CLEAN: nights(12), "decode": nights(3, seed=6, slowdown=0.1), "worker": nights(2, seed=8)})
    assert (found["slowed_decode"]["caught"], found["slowed_worker"]["caught"]) == (3, 0)
    assert 0.08 < found["slowed_decode"]["slower"]["decode cpu"] < 0.12
    assert found["clean"]["alarms_in_order"] == [] == found["clean"]["alarms_each_against_the_others"]

"""Does the nightly run find what it should, and nothing else? Tried with runs of ``--quick``, clean and slowed by 10 %.

    python -m benchmarks.nightly.trial WORK ARCHIVE --engine BUNDLE [--clean 20] [--slowed 10] [--json FILE]

Each run is a night as a user starts it, in a history in ``WORK``; where it was stopped, it goes on. The slowed ones
have ``planted/sitecustomize.py`` on their path, which burns a tenth more CPU time in the decoder or in the worker's
loop, and are compared with the clean ones. Then histories are drawn from the clean runs, with replacement, and judged
from their first night to their last.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.measuring import finish
from benchmarks.nightly import history
from benchmarks.nightly.judge import STEADY, Figure, Rule, judged, learn, learnt
from benchmarks.nightly.night import alarms

PLANTED = Path(__file__).parent / "planted"
KINDS = ("decode", "worker")
CLEAN = "clean"
HISTORIES = 1000

Records = Sequence[Mapping[str, Any]]


def plan(clean: int, slowed: int) -> list[str]:
    """What each run is, in their order: the slowed ones stand evenly between the clean ones."""
    places = [(at + 0.5) / clean for at in range(clean)]
    kinds = [(place, CLEAN) for place in places]
    for number, kind in enumerate(KINDS):
        kinds += [((at + 0.3 + 0.4 * number) / slowed, kind) for at in range(slowed)]
    return [kind for _, kind in sorted(kinds)]


def run(kind: str, work: Path, archive: Path, engine: Path) -> None:
    """A night, whose record goes to the history of its kind; RuntimeError where it fails in another way."""
    environment = dict(os.environ)
    if kind != CLEAN:
        paths = [str(PLANTED), environment.get("PYTHONPATH", "")]
        environment |= {"MURA_TRT_PLANTED": kind, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "benchmarks.nightly", str(archive), "--engine", str(engine), "--quick"]
    command += ["--history", str(work / f"{kind}.jsonl")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"a {kind} night ended with exit code {done.returncode}: {done.stderr.strip()[-500:]}")


def values(record: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Value and error of each of its figures."""
    return {name: (said["value"], said["error"]) for name, said in record["figures"].items()}


def rejudged(records: Records, rule: Rule) -> list[list[str]]:
    """The alarms of each night, as if they had been judged in this order."""
    known: dict[str, Figure] = {}
    before: list[dict[str, Any]] = []
    found = []
    for record in records:
        verdicts = judged(values(record), known, rule)
        failures = alarms(verdicts, before, "")
        figures = {name: {**record["figures"][name], "state": verdict.state} for name, verdict in verdicts.items()}
        before.append({**record, "figures": figures, "failures": failures, "accepted": False})
        learn(known, before[-1], rule)
        found.append(failures)
    return found


def against_all(record: Mapping[str, Any], clean: Records, rule: Rule) -> list[str]:
    """The alarms of a night after all these, which are taken to be good."""
    steady = [
        {**one, "failures": [], "figures": {name: {**said, "state": STEADY} for name, said in one["figures"].items()}}
        for one in clean
    ]
    return alarms(judged(values(record), learnt(steady, rule), rule), steady, "")


def resampled(clean: Records, rule: Rule, histories: int = HISTORIES, seed: int = 0) -> dict[str, Any]:
    """How many histories, drawn from the clean runs with replacement, have an alarm on any of their nights."""
    rng = np.random.default_rng(seed)
    nights, with_alarm, all_alarms, judged_nights = len(clean), 0, 0, 0
    for _ in range(histories):
        found = rejudged([clean[at] for at in rng.integers(0, nights, nights)], rule)
        count = sum(bool(failures) for failures in found)
        with_alarm += count > 0
        all_alarms += count
        judged_nights += max(0, nights - rule.nights)
    return {
        "histories": histories,
        "nights_each": nights,
        "with_an_alarm": round(with_alarm / histories, 4),
        "alarms_a_judged_night": round(all_alarms / max(judged_nights, 1), 5),
    }


def result(found: Mapping[str, Records], rule: Rule | None = None) -> dict[str, Any]:
    """What the trial shows."""
    rule = rule or Rule()
    clean = found[CLEAN]
    names = list(clean[0]["figures"])

    def typical(records: Records, name: str) -> float:
        return math.exp(statistics.median(record["figures"][name]["value"] for record in records))

    def noise(name: str) -> float:
        return float(statistics.stdev(record["figures"][name]["value"] for record in clean))

    told: dict[str, Any] = {
        "clean": {
            "runs": len(clean),
            "alarms_in_order": [one for failures in rejudged(clean, rule) for one in failures],
            "alarms_each_against_the_others": [
                one
                for at, record in enumerate(clean)
                for one in against_all(record, [*clean[:at], *clean[at + 1 :]], rule)
            ],
            "standard_deviation": {name: round(noise(name), 4) for name in names},
            "rounds": [len(record["figures"][names[0]]["rounds"]) for record in clean],
            "seconds": [record["seconds"] for record in clean],
        }
    }
    for kind in KINDS:
        slowed = found.get(kind, ())
        if slowed:
            caught = [against_all(record, clean, rule) for record in slowed]
            told[f"slowed_{kind}"] = {
                "runs": len(slowed),
                "caught": sum(map(bool, caught)),
                "figures": {name: sum(any(one.startswith(name) for one in each) for each in caught) for name in names},
                "slower": {name: round(typical(clean, name) / typical(slowed, name) - 1, 3) for name in names},
                "seconds": [record["seconds"] for record in slowed],
            }
    told["resampled"] = resampled(clean, rule)
    return told


def main(
    work: Annotated[Path, typer.Argument(help="Folder for the histories; runs that are in them are not done again.")],
    archive: Annotated[Path, typer.Argument(help="Folder of X-rays, as made by mura-trt demo.")],
    engine: Annotated[Path, typer.Option(help="Engine bundle.")],
    clean: Annotated[int, typer.Option(help="Runs of the code as it is.")] = 20,
    slowed: Annotated[int, typer.Option(help="Runs of each kind of slow-down.")] = 10,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the result.")] = None,
) -> None:
    """Does the runs that were not done yet, and tells what they show."""
    work.mkdir(parents=True, exist_ok=True)
    done: dict[str, int] = {kind: len(history.read(work / f"{kind}.jsonl")[0]) for kind in (CLEAN, *KINDS)}
    passed = dict.fromkeys(done, 0)
    kinds = plan(clean, slowed)
    for number, kind in enumerate(kinds, 1):
        passed[kind] += 1
        if passed[kind] > done[kind]:
            began = time.monotonic()
            run(kind, work, archive, engine)
            print(f"{number} of {len(kinds)}, {kind}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    found = {kind: history.read(work / f"{kind}.jsonl")[0] for kind in (CLEAN, *KINDS)}
    finish({"trial": result(found)}, json_file)


if __name__ == "__main__":
    typer.run(main)

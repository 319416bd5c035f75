"""``mura-trt evaluate``: files read and matched, thresholds chosen, and what it prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mura_trt.bundle import Bundle
from mura_trt.cli import app
from mura_trt.errors import UsageError
from mura_trt.evaluation.files import patient, read_labels, study_name
from mura_trt.evaluation.run import EvaluateOptions, evaluate
from mura_trt.evaluation.threshold import choose_threshold, read_threshold
from mura_trt.score import ScoreOptions, score

Write = Callable[[str, str], Path]
STUDIES = [
    f"MURA-v1.1/valid/XR_{part}/patient{n // 2:05d}/study{n % 2 + 1}" for part in ("HAND", "WRIST") for n in range(10)
]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode())
        return path

    return put


def lines(values: dict[str, Any]) -> str:
    return "".join(f"{study}/,{value}\n" for study, value in values.items())


TRUTH = {study: at % 2 for at, study in enumerate(STUDIES)}
# Two of twenty are wrong.
DECIDED = TRUTH | {STUDIES[0]: 1, STUDIES[11]: 0}


def run(write: Write, predictions: str, labels: str, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = evaluate(
        EvaluateOptions(write("predictions.csv", predictions), write("labels.csv", labels), resamples=20, **options)
    )
    return found


def test_the_challenges_files(write: Write) -> None:
    found = run(write, lines(DECIDED), lines(TRUTH))
    assert found["groups"]["all"]["counts"] == {
        "true_positive": 9,
        "false_negative": 1,
        "false_positive": 1,
        "true_negative": 9,
    }
    assert found["groups"]["all"]["patients"] == 5  # a patient's number is the same under every body part
    assert set(found["groups"]) == {"all", "HAND", "WRIST"}
    assert found["groups"]["HAND"]["figures"]["sensitivity"]["value"] == 1.0
    assert "auroc" not in found["groups"]["all"]["figures"]
    assert [note for note in found["notes"] if "decisions only" in note]
    assert found["threshold"] is None
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("spoil", "note"),
    [
        (lambda text: "study,abnormal\n" + text, "line 1 is a header"),
        (lambda text: "study,reader1\n" + text, "line 1 is a header"),
        (lambda text: text.replace("\n", "\r\n"), "CR LF"),
        (lambda text: text.replace("/,", ","), "20 of 20 studies lack the slash"),
        (lambda text: "\ufeff" + text, None),
        (lambda text: text.replace("\n", "\n\n"), None),
        (lambda text: text.replace("MURA-v1.1/", "./MURA-v1.1//"), None),
        (lambda text: text.replace("MURA-v1.1/valid/", "elsewhere/"), "matched from XR_"),
        (lambda text: text.replace("/", "\\"), None),
    ],
)
def test_what_is_unusual_is_taken_as_stated(write: Write, spoil: Callable[[str], str], note: str | None) -> None:
    plain = run(write, lines(DECIDED), lines(TRUTH))
    for ours, theirs in ((spoil(lines(DECIDED)), lines(TRUTH)), (lines(DECIDED), spoil(lines(TRUTH)))):
        found = run(write, ours, theirs)
        assert found["groups"] == plain["groups"]
        new = [text for text in found["notes"] if text not in plain["notes"]]
        assert len(new) == (note is not None), new
        assert note is None or note in new[0]


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        (lines(dict(list(DECIDED.items())[1:])), lines(TRUTH), "1 studies missing from the predictions: .*--partial"),
        (lines(DECIDED), lines(dict(list(TRUTH.items())[3:])), "3 studies without a label"),
        (
            lines(DECIDED) + f"{STUDIES[3]}/,1\n",
            lines(TRUTH),
            r"predictions\.csv: in it more than once: .*00001/study2",
        ),
        (lines(DECIDED), lines(TRUTH) + f"{STUDIES[3]},1\n", r"labels\.csv: in it more than once"),
        (lines(DECIDED).replace("/,1", "/,2", 1), lines(TRUTH), r"predictions\.csv, line 1: .*is not STUDY/,0"),
        (lines(DECIDED) + "study\n", lines(TRUTH), "line 21: 'study' is not STUDY/,0"),
        (lines(DECIDED) + "a/,1,0\n", lines(TRUTH), "line 21: 2 decisions, and another number on line 1"),
        ("", lines(TRUTH), "no study in it"),
        ("study,abnormal\n", lines(TRUTH), "no study in it"),
        ("what/,x\n", lines(TRUTH), "line 1: 'what/,x' is not STUDY/,0"),
        ("what,2\n", lines(TRUTH), "line 1: 'what,2' is not STUDY/,0"),
        (lines({"a": 1}), lines({"b": 0}), "no study is in both: predictions have a, labels b"),
        (lines({"a": 1}), "b/,0,1\n", "2 readers have no majority"),
        ("a/,1,1,1\n", lines({"a": 0}), "3 decisions a line; predictions have one"),
        (
            lines({"x/train/XR_HAND/patient1/study1": 1, "x/valid/XR_HAND/patient1/study1": 1}),
            lines({"y/valid/XR_HAND/patient1/study1": 1}),
            "cannot be told apart by the end of their names",
        ),
        ("study,probability\na,2\n", lines({"a": 0}), "outside 0 to 1"),
        ("study,probability\na,x\n", lines({"a": 0}), "a probability is no number"),
        ("study,probability\na,0.4\n", lines({"a": 0}), "no column abnormal; .*--threshold"),
    ],
)
def test_what_does_not_match_is_an_error(write: Write, predictions: str, labels: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(write, predictions, labels)


def test_partial_leaves_out_and_says_so(write: Write) -> None:
    found = run(write, lines({"a/XR_HAND/x": 1} | dict(list(DECIDED.items())[1:])), lines(TRUTH), partial=True)
    assert found["groups"]["all"]["studies"] == 19
    assert any("1 studies missing from the predictions, left out: " + STUDIES[0] in note for note in found["notes"])
    assert any("1 studies without a label, left out: a/XR_HAND/x" in note for note in found["notes"])


def test_one_class_is_said(write: Write) -> None:
    found = run(write, lines(DECIDED), lines(TRUTH | dict.fromkeys(STUDIES[:10], 0)))
    assert any(note.startswith("HAND: one class only") for note in found["notes"])
    assert found["groups"]["HAND"]["figures"]["sensitivity"]["value"] is None


def test_three_readers_make_the_gold_standard_or_stand_beside_it(write: Write) -> None:
    columns = {study: f"{value},{value},{1 - value}" for study, value in TRUTH.items()}
    found = run(write, lines(DECIDED), lines(columns))
    assert found["groups"] == run(write, lines(DECIDED), lines(TRUTH))["groups"]
    assert [reader["kappa"]["all"]["value"] for reader in found["readers"]] == [1.0, 1.0, -1.0]
    assert any("favours each of them" in note for note in found["notes"])
    readers = write("readers.csv", lines({study: f"{value},0" for study, value in DECIDED.items()}))
    beside = run(write, lines(DECIDED), lines(TRUTH), readers=readers)["readers"]
    assert beside[0]["kappa"]["all"]["value"] == pytest.approx(0.8)
    assert beside[0]["model_less_reader"]["value"] == 0.0
    assert beside[1]["model_less_reader"]["value"] == pytest.approx(0.8)
    more = write("more.csv", lines(DECIDED | {"a/XR_HAND/x": 1}))
    notes = run(write, lines(DECIDED), lines(TRUTH), readers=more)["notes"]
    assert "1 studies of the readers are not among these, left out" in notes
    short = write("short.csv", lines(dict(list(DECIDED.items())[1:])))
    with pytest.raises(UsageError, match="1 studies that the readers have not decided"):
        run(write, lines(DECIDED), lines(TRUTH), readers=short)


@pytest.mark.parametrize(
    ("text", "name"),
    [("a/b/", "a/b"), ("./a//b", "a/b"), ("a\\b\\", "a/b"), ("/a/b/", "/a/b"), (" a/b ", "a/b")],
)
def test_names_of_studies(text: str, name: str) -> None:
    assert study_name(text) == name


def test_patients_are_muras_or_the_study() -> None:
    assert patient("valid/XR_HAND/patient00012/study1_positive") == "patient00012"
    assert patient("patient00012/study1") == "patient00012"
    assert patient("a/b") == "a/b"


def test_majorities() -> None:
    with pytest.raises(UsageError, match="not a readable text file"):
        read_labels(Path("absent.csv"))


@pytest.fixture(scope="module")
def scored(archive: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scored") / "out"
    score(ScoreOptions(archive, bundle.folder, out, runtime="null"))
    return out


def test_an_output_folder_with_the_labels_of_its_names(scored: Path, write: Write) -> None:
    found = evaluate(EvaluateOptions(scored, resamples=20))
    table = pd.read_csv(scored / "studies.csv")
    assert found["groups"]["all"]["studies"] == len(table)
    assert found["threshold"] == 0.5
    assert {part for part in found["groups"] if part != "all"} == set(table["body_part"])
    assert sum(found["groups"]["all"]["counts"][name] for name in ("true_positive", "false_positive")) == int(
        table["abnormal"].sum()
    )
    higher = evaluate(EvaluateOptions(scored, threshold=0.999, resamples=20))
    assert higher["groups"]["all"]["counts"]["true_positive"] <= found["groups"]["all"]["counts"]["true_positive"]
    labels = write("labels.csv", lines({f"MURA/{name}": int(name.endswith("positive")) for name in table["study"]}))
    other = evaluate(EvaluateOptions(scored, labels, resamples=20))
    assert other["groups"] == found["groups"]
    pd.read_csv(scored / "studies.csv").to_parquet(parquet := scored.parent / "studies.parquet")
    assert evaluate(EvaluateOptions(parquet, resamples=20))["groups"] == found["groups"]


def test_studies_without_a_score_are_an_error_or_left_out(scored: Path, tmp_path: Path) -> None:
    table = pd.read_csv(scored / "studies.csv", dtype={"abnormal": "Int64"})
    table.loc[2, "probability"], table.loc[2, "abnormal"] = np.nan, pd.NA
    table.to_csv(tmp_path / "studies.csv", index=False)
    with pytest.raises(UsageError, match="1 studies without a score: "):
        evaluate(EvaluateOptions(tmp_path / "studies.csv", resamples=2))
    found = evaluate(EvaluateOptions(tmp_path / "studies.csv", partial=True, resamples=2))
    assert found["groups"]["all"]["studies"] == len(table) - 1


def test_a_run_that_has_not_ended_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no run\.json"):
        evaluate(EvaluateOptions(tmp_path))
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UsageError, match=r"run\.json: cannot be read"):
        evaluate(EvaluateOptions(tmp_path))


def test_labels_in_names_are_missed_where_there_are_none(write: Write) -> None:
    with pytest.raises(UsageError, match=r"no label in the name.*--labels"):
        evaluate(EvaluateOptions(write("predictions.csv", lines(DECIDED))))
    with pytest.raises(UsageError, match="decisions only, and a threshold needs probabilities"):
        evaluate(EvaluateOptions(write("predictions.csv", lines(DECIDED)), threshold=0.3))
    with pytest.raises(UsageError, match="decisions only, and a threshold needs probabilities"):
        evaluate(EvaluateOptions(write("predictions.csv", lines(DECIDED)), rule="youden"))


def test_thresholds_by_rule() -> None:
    truth = np.array([0, 0, 0, 1, 0, 1, 1])
    probability = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.9])
    youden = choose_threshold(truth, probability, "youden")
    assert youden.threshold == pytest.approx(0.35)  # as good as 0.65, and more sensitive
    assert (youden.sensitivity, youden.specificity) == (1.0, 0.75)
    assert choose_threshold(truth, probability, "sensitivity=0.6").threshold == pytest.approx(0.65)
    assert choose_threshold(truth, probability, "sensitivity=1").threshold == pytest.approx(0.35)
    assert choose_threshold(truth, probability, "specificity=0.9").threshold == pytest.approx(0.65)
    assert choose_threshold(truth, probability, "specificity=0").threshold == pytest.approx(0.05)
    everything = choose_threshold(np.array([1, 0]), np.array([0.5, 0.5]), "specificity=1")
    assert (everything.threshold, everything.sensitivity) == (0.5, 0.0)
    for rule in ("youdn", "sensitivity", "sensitivity=2", "sensitivity=x", "youden=1"):
        with pytest.raises(UsageError, match="give youden"):
            choose_threshold(truth, probability, rule)
    with pytest.raises(UsageError, match="one class only"):
        choose_threshold(truth * 0, probability, "youden")
    with pytest.raises(UsageError, match="probability 0"):
        choose_threshold(np.array([1, 0]), np.array([0.0, 0.5]), "sensitivity=1")


@pytest.mark.parametrize("rule", ["sensitivity", "specificity"])
def test_a_share_is_reached_by_as_few_studies_as_it_takes(rule: str) -> None:
    """Of every number of studies up to 200, and every share in percent: no study more than its definition asks for."""
    for count in range(1, 201):
        # As many of the other class; all have probabilities of their own.
        truth = np.tile([0, 1], count)
        probability = (np.arange(2 * count) + 1) / (2 * count + 1)
        for percent in (1, 7, 29, 50, 57, 58, 70, 93, 95, 99):
            choice = choose_threshold(truth, probability, f"{rule}=0.{percent:02d}")
            least = -(-percent * count // 100)
            assert round(getattr(choice, rule) * count) == least, (count, percent)
            decided = probability > choice.threshold
            right = decided[truth == 1] if rule == "sensitivity" else ~decided[truth == 0]
            assert right.sum() == least


@pytest.mark.parametrize("rule", ["youden", "sensitivity=0.8", "specificity=0.7"])
def test_a_chosen_threshold_does_what_it_says_when_it_is_scored_with(
    rule: str, scored: Path, archive: Path, bundle: Bundle, tmp_path: Path
) -> None:
    file = tmp_path / "threshold.json"
    found = evaluate(EvaluateOptions(scored, rule=rule, threshold_file=file, resamples=2))
    chosen = found["chosen"]
    assert found["groups"]["all"]["figures"]["sensitivity"]["value"] == pytest.approx(chosen["sensitivity"])
    assert found["groups"]["all"]["figures"]["specificity"]["value"] == pytest.approx(chosen["specificity"])
    assert any("flatters" in note for note in found["notes"])
    assert read_threshold(str(file)) == (chosen["threshold"], bundle.sha256)
    out = tmp_path / "out"
    command = ["score", str(archive), "--engine", str(bundle.folder), "-o", str(out), "--runtime", "null"]
    done = CliRunner().invoke(app, [*command, "--threshold", str(file)])
    assert done.exit_code == 0, done.output
    again = evaluate(EvaluateOptions(out, resamples=2))
    assert again["groups"]["all"]["counts"] == found["groups"]["all"]["counts"]


def test_a_threshold_is_a_number_or_such_a_file(tmp_path: Path) -> None:
    assert read_threshold("0.25") == (0.25, None)
    (tmp_path / "list.json").write_text("[1]")
    for given in ("abc", str(tmp_path / "list.json")):
        with pytest.raises(UsageError, match="neither a number nor a file"):
            read_threshold(given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "--threshold 1.5"),
        ({"threshold": 0.5, "rule": "youden"}, "give one"),
        ({"threshold_file": Path("t")}, "--choose-threshold"),
        ({"resamples": 0}, "--resamples 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EvaluateOptions(Path("predictions.csv"), **options)


def test_the_command_prints_tables_or_json(scored: Path, write: Write) -> None:
    done = CliRunner().invoke(app, ["evaluate", str(scored), "--resamples", "20"])
    assert done.exit_code == 0, done.output
    for text in ("Cohen's kappa", "too narrow", "Wilson", "paper's model", "radiologist", "hidden test set", "WRIST"):
        assert text in done.output
    told = CliRunner().invoke(app, ["evaluate", str(scored), "--resamples", "20", "--json"])
    assert json.loads(told.stdout)["groups"]["all"]["studies"] == 24
    wrong = CliRunner().invoke(app, ["evaluate", str(write("a.csv", "")), "--labels", "absent.csv"])
    assert wrong.exit_code == 2

"""``mura-trt evaluate``: files read and matched, thresholds chosen, and what it prints."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from benchmarks.runs import MadeStudy, write_run
from mura_trt.archives.disclosure import Disclosure
from mura_trt.archives.keys import patient
from mura_trt.bundle import Bundle
from mura_trt.cli import app
from mura_trt.errors import UsageError
from mura_trt.evaluation.files import read_labels, study_name
from mura_trt.evaluation.run import EvaluateOptions, evaluate
from mura_trt.evaluation.tell import METHODS, by_body_part, decimals, interval_of, table
from mura_trt.evaluation.threshold import choose_threshold, read_threshold
from mura_trt.recipe import note_recipe
from mura_trt.report.run import ReportOptions, report

Write = Callable[[str, str], Path]
# Said here once more, so that no figure stands under another's name.
NAMES = {
    "kappa": "Cohen's kappa",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "positive predictive value",
    "npv": "negative predictive value",
    "f1": "F1",
    "brier": "Brier score",
    "calibration_error": "calibration error, 10 bins",
}
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


def judged(found: dict[str, Any]) -> tuple[Any, Any]:
    return found["overall"], found["body_parts"]


def test_the_challenges_files(write: Write) -> None:
    found = run(write, lines(DECIDED), lines(TRUTH))
    assert found["overall"]["counts"] == {
        "true_positive": 9,
        "false_negative": 1,
        "false_positive": 1,
        "true_negative": 9,
    }
    assert found["overall"]["patients"] == 5  # a patient's number is the same under every body part
    assert list(found["body_parts"]) == ["HAND", "WRIST"]
    assert found["body_parts"]["HAND"]["figures"]["sensitivity"]["value"] == 1.0
    assert "auroc" not in found["overall"]["figures"]
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
        assert judged(found) == judged(plain)
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
            r"predictions\.csv, line 21: the study of line 4 again; leave one",
        ),
        (lines(DECIDED), lines(TRUTH) + f"{STUDIES[3]},1\n", r"labels\.csv, line 21: the study of line 4 again"),
        (
            lines(DECIDED).replace("/,1", "/,2", 1),
            lines(TRUTH),
            r"predictions\.csv, line 1: '2' behind the study; a line is STUDY/,0",
        ),
        (lines(DECIDED) + "study\n", lines(TRUTH), "line 21: no decision; a line is STUDY/,0"),
        (lines(DECIDED) + "a/,1,0\n", lines(TRUTH), "line 21: 2 decisions, and another number on line 1"),
        ("", lines(TRUTH), "no study in it"),
        ("study,abnormal\n", lines(TRUTH), "no study in it"),
        ("what/,x\n", lines(TRUTH), "line 1: 'x' behind the study; a line is STUDY/,0"),
        ("what,2\n", lines(TRUTH), "line 1: '2' behind the study; a line is STUDY/,0"),
        (lines({"a": 1}), lines({"b": 0}), "no study is in both: predictions have a, labels b"),
        (lines({"a": 1}), "b/,0,1\n", "2 readers have no majority"),
        ("a/,1,1,1\n", lines({"a": 0}), "3 decisions a line; predictions have one"),
        (
            lines({"x/train/XR_HAND/patient1/study1": 1, "x/valid/XR_HAND/patient1/study1": 1}),
            lines({"y/valid/XR_HAND/patient1/study1": 1}),
            "cannot be told apart by the end of their names",
        ),
        ("study,probability\na,2\n", lines({"a": 0}), "outside 0 to 1"),
        ("study,probability\na,x\n", lines({"a": 0}), "in column probability is no number"),
        ("study,probability\na,0.4\n", lines({"a": 0}), "no column abnormal; .*--threshold"),
    ],
)
def test_what_does_not_match_is_an_error(write: Write, predictions: str, labels: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(write, predictions, labels)


def test_partial_leaves_out_and_says_so(write: Write) -> None:
    found = run(write, lines({"a/XR_HAND/x": 1} | dict(list(DECIDED.items())[1:])), lines(TRUTH), partial=True)
    assert found["overall"]["studies"] == 19
    assert any("1 studies missing from the predictions, left out: " + STUDIES[0] in note for note in found["notes"])
    assert any("1 studies without a label, left out: a/XR_HAND/x" in note for note in found["notes"])


def test_one_class_is_said(write: Write) -> None:
    found = run(write, lines(DECIDED), lines(TRUTH | dict.fromkeys(STUDIES[:10], 0)))
    assert any(note.startswith("HAND: one class only") for note in found["notes"])
    assert found["body_parts"]["HAND"]["figures"]["sensitivity"]["value"] is None


def test_three_readers_make_the_gold_standard_or_stand_beside_it(write: Write) -> None:
    columns = {study: f"{value},{value},{1 - value}" for study, value in TRUTH.items()}
    found = run(write, lines(DECIDED), lines(columns))
    assert judged(found) == judged(run(write, lines(DECIDED), lines(TRUTH)))
    assert [reader["overall"]["value"] for reader in found["readers"]] == [1.0, 1.0, -1.0]
    assert any("favours each of them" in note for note in found["notes"])
    readers = write("readers.csv", lines({study: f"{value},0" for study, value in DECIDED.items()}))
    beside = run(write, lines(DECIDED), lines(TRUTH), readers=readers)["readers"]
    assert beside[0]["overall"]["value"] == pytest.approx(0.8)
    assert beside[0]["model_less_reader"]["value"] == 0.0
    assert beside[1]["model_less_reader"]["value"] == pytest.approx(0.8)
    more = write("more.csv", lines(DECIDED | {"a/XR_HAND/x": 1}))
    notes = run(write, lines(DECIDED), lines(TRUTH), readers=more)["notes"]
    assert "1 studies of the readers are not among these, left out" in notes
    short = write("short.csv", lines(dict(list(DECIDED.items())[1:])))
    with pytest.raises(UsageError, match=r"1 studies that the readers have not decided: .*--partial"):
        run(write, lines(DECIDED), lines(TRUTH), readers=short)
    left = run(write, lines(DECIDED), lines(TRUTH), readers=short, partial=True)
    assert left["overall"]["studies"] == 19
    assert any("1 studies that the readers have not decided, left out: " + STUDIES[0] in note for note in left["notes"])
    far = write("far.csv", lines(DECIDED).replace("MURA-v1.1/valid/", "elsewhere/"))
    notes = run(write, lines(DECIDED), lines(TRUTH), readers=far)["notes"]
    assert "names of the readers' studies differ in front; matched from XR_... on" in notes


@pytest.mark.parametrize(
    ("text", "name"),
    [("a/b/", "a/b"), ("./a//b", "a/b"), ("a\\b\\", "a/b"), ("/a/b/", "/a/b"), (" a/b ", "a/b")],
)
def test_names_of_studies(text: str, name: str) -> None:
    assert study_name(text) == name


def test_patients_are_muras_or_the_study() -> None:
    assert patient("valid/XR_HAND/patient00012/study1_positive") == "patient00012"
    assert patient("patient00012/study1") == "patient00012"
    # Folders of patients are none.
    for name in ("a/b", "patients/12/study1", "patient_data/12/study1", "inpatient12/study1", "patient12b/study1"):
        assert patient(name) is None


def test_majorities(write: Write) -> None:
    with pytest.raises(UsageError, match="not a readable text file"):
        read_labels(Path("absent.csv"))
    found = read_labels(write("labels.csv", "a/,1,1,0\nb/,1,0,0\nc/,0,1,0\nd/,0,1,1\ne/,1,1,1\nf/,0,0,0\n"))
    assert found.truth.tolist() == [1, 0, 0, 1, 1, 0]
    assert found.readers is not None and found.readers.shape == (6, 3)
    assert any("majority of 3 readers" in note for note in found.notes)


def test_studies_whose_names_tell_of_no_patient_are_counted(write: Write) -> None:
    some = TRUTH | {"patients/a/XR_HAND/study1": 1, "patients/b/XR_HAND/study1": 0}
    found = run(write, lines(some), lines(some))
    assert found["overall"]["patients"] == 7
    assert "2 of 22 names tell of no patient, each counted as one" in found["notes"]
    none = {f"patient_data/{name[-14:]}": value for name, value in TRUTH.items()}
    apart = {name.replace("/patient0", "/p"): value for name, value in none.items()}
    assert run(write, lines(apart), lines(apart))["overall"]["patients"] == len(apart)
    assert not [note for note in run(write, lines(DECIDED), lines(TRUTH))["notes"] if "no patient" in note]


def test_of_one_patient_there_is_no_bootstrap(write: Write) -> None:
    one = {f"XR_HAND/patient00001/study{at}": at % 2 for at in range(9)}
    decided = one | {"XR_HAND/patient00001/study0": 1}
    found = run(write, lines(decided), lines(one), readers=write("r.csv", lines(one)))
    kappa = found["overall"]["figures"]["kappa"]
    assert kappa["intervals"]["bootstrap"] == [None, None] and kappa["defined_resamples"] == 0
    assert None not in kappa["intervals"]["fleiss_cohen_everitt"]
    assert found["readers"][0]["model_less_reader"]["intervals"]["bootstrap"] == [None, None]
    for name in ("overall", "HAND"):
        assert f"{name}: one patient only; there are none to resample, and no bootstrap intervals" in found["notes"]
    assert "resamples" not in table(found)


def test_intervals_without_width_are_none_and_are_told(write: Write) -> None:
    scores = {study: f"{0.9 - 0.4 * (1 - value):.2f}" for study, value in TRUTH.items()}
    perfect = "study,probability,abnormal\n" + "".join(f"{name},{scores[name]},{TRUTH[name]}\n" for name in TRUTH)
    found = run(write, perfect, lines(TRUTH))
    assert found["overall"]["figures"]["kappa"]["intervals"]["fleiss_cohen_everitt"] == [1.0, 1.0]
    (note,) = [note for note in found["notes"] if note.startswith("overall: ")]
    assert "too few or too much alike for the width of an interval: Cohen's kappa (Fleiss, Cohen and Everitt" in note
    assert "AUROC (DeLong)" in note and "too narrow" not in note and "Wilson" not in note
    assert "no width" in table(found) and "1.000 to 1.000" not in table(found)
    assert not [note for note in run(write, lines(DECIDED), lines(TRUTH))["notes"] if note.startswith("overall")]


def test_resamples_that_do_not_define_a_figure_are_counted(write: Write) -> None:
    """Of six patients one has the only abnormal study: a third of the resamples are without it."""
    truth = {f"patient{at}/study1": int(at == 0) for at in range(6)}
    decided = truth | {"patient1/study1": 1}
    found = run(write, lines(decided), lines(truth))
    kappa = found["overall"]["figures"]["kappa"]
    assert kappa["value"] == pytest.approx(0.571, abs=1e-3)
    assert 8 <= kappa["defined_resamples"] <= 18 and kappa["intervals"]["bootstrap"] == [None, None]
    told = "overall: of 20 resamples too few define a figure for an interval: Cohen's kappa by "
    assert any(note.startswith(f"{told}{kappa['defined_resamples']}") for note in found["notes"])
    truth = {f"patient{at}/study1": int(at < 3) for at in range(12)}
    many = evaluate(
        EvaluateOptions(
            write("p.csv", lines(truth | {"patient0/study1": 0})), write("l.csv", lines(truth)), resamples=2000
        )
    )
    kappa = many["overall"]["figures"]["kappa"]
    assert 1800 < kappa["defined_resamples"] < 2000 and None not in kappa["intervals"]["bootstrap"]
    assert f"bootstrap over patients, {kappa['defined_resamples']:,} of 2,000 resamples" in table(many)


@pytest.mark.parametrize("part", ["all", "overall"])
def test_a_body_part_may_have_any_name(write: Write, part: str) -> None:
    text = "study,body_part,probability,abnormal\n"
    text += "".join(f"{name},{part if at < 5 else 'HAND'},0.5,{DECIDED[name]}\n" for at, name in enumerate(TRUTH))
    found = run(write, text, lines(TRUTH))
    assert found["overall"]["studies"] == 20
    assert {name: group["studies"] for name, group in found["body_parts"].items()} == {"HAND": 15, part: 5}


@pytest.mark.parametrize(
    ("column", "message"),
    [("2", "'2'"), ("yes", "'yes'"), ("0.7", "'0.7'"), ("x" * 200, "'x{80}...'; 0, 1 or nothing is wanted")],
)
def test_a_decision_is_0_or_1(write: Write, column: str, message: str) -> None:
    text = f"study,probability,abnormal\na/,0.5,1\nb/,0.5,{column}\n"
    with pytest.raises(UsageError, match=f"column abnormal is {message}"):
        run(write, text, lines({"a": 1, "b": 0}))


def test_tables_of_other_tools_are_taken_as_what_they_are(write: Write, tmp_path: Path) -> None:
    labels = lines({"7": 1, "8": 0, "9": 0})
    plain = run(write, "study,probability,abnormal\n7,0.9,1\n8,0.2,0\n9,0.5,\n", labels, partial=True)
    assert plain["overall"]["studies"] == 2
    for text in (
        '\ufeff"study", "probability" ,"abnormal"\r\n7,0.9,1.0\r\n8,0.2,0.0\r\n9,0.5,\r\n',
        "study,probability,abnormal\n7,0.9,True\n8,0.2,false\n9,0.5,\n",
    ):
        assert judged(run(write, text, labels, partial=True)) == judged(plain)
    table = pd.DataFrame({"study": [7, 8, 9], "body_part": None, "probability": [0.9, 0.2, 0.5]})
    table["abnormal"] = [1, 0, None]
    table.to_parquet(tmp_path / "studies.parquet")
    found = evaluate(EvaluateOptions(tmp_path / "studies.parquet", write("l.csv", labels), partial=True, resamples=20))
    assert judged(found) == judged(plain)
    for spoil, message in (
        ("study,probability,abnormal\na,b,0.9,1\n", "its lines do not fit its header"),
        ("study,probability,failed\na,0.9,-1\n", "in column failed is what is no count"),
        ("study,probability,abnormal\n,0.9,1\n", "a study has no name"),
    ):
        with pytest.raises(UsageError, match=message):
            run(write, spoil, lines({"a": 1}))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ('a/,1\n"b/,0\nc/,1\n', r"labels\.csv, line 2: not CSV .*quotation mark"),
        ('a/,1\nb"x/,0\n"c"d/,1\n', r"labels\.csv, line 3: not CSV"),
        ("a/,1\n" + "b/," + "x" * 5000, r"line 2: 'x{80}\.\.\.' behind the study"),
        ('a/,1\n"' + "b\n" * 100_000, r"labels\.csv, line 2: not CSV"),
    ],
)
def test_files_that_are_no_csv_are_told_by_line_and_in_few_words(write: Write, labels: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as told:
        run(write, lines({"a": 1}), labels)
    assert len(str(told.value)) < 400


def test_names_may_hold_what_looks_like_the_end_of_a_line(write: Write) -> None:
    names = {"a\u2028b": 1, "c\u0085d": 0, "e\x0cf": 1}
    found = run(write, "".join(f"{name}/,{value}\n" for name, value in names.items()), lines(names))
    assert found["overall"]["studies"] == 3
    quoted = "study;x,abnormal\n" + "".join(f'"{name}/",{value}\n' for name, value in names.items())
    assert run(write, quoted, lines(names))["overall"] == found["overall"]


def made_run(tmp_path: Path, **changes: Any) -> Path:
    studies = [
        MadeStudy(
            name, name[18:22], {f"{name}/1.png": 0.7 if value else 0.2, f"{name}/2.png": None if at == 3 else 0.4}
        )
        for at, (name, value) in enumerate(TRUTH.items())
    ]
    return write_run(tmp_path / "out", studies, **changes)


def test_studies_decided_by_part_of_their_views_are_told(tmp_path: Path, write: Write) -> None:
    found = evaluate(EvaluateOptions(made_run(tmp_path), write("labels.csv", lines(TRUTH)), resamples=2))
    assert "1 studies were decided by part of their views; the others have failed" in found["notes"]


@pytest.mark.parametrize(
    ("changes", "lacks"),
    [
        ({"bundle": None}, "lacks bundle;"),
        ({"bundle": {"name": "x"}}, r"lacks bundle\.precision, bundle\.sha256, bundle\.parity;"),
        ({"threshold": "0.5"}, "lacks threshold;"),
        ({"threshold": None, "stage_s": {"list": "long"}}, "lacks threshold, stage_s;"),
        ({"views_per_s": float("nan")}, "lacks views_per_s;"),
    ],
)
def test_a_run_of_another_version_is_refused_by_evaluate_and_report(
    tmp_path: Path, changes: dict[str, Any], lacks: str
) -> None:
    out = made_run(tmp_path)
    (out / "run.json").write_text(json.dumps(json.loads((out / "run.json").read_text()) | changes))
    message = f"{lacks} it is of another version; score again"
    with pytest.raises(UsageError, match=message):
        evaluate(EvaluateOptions(out, resamples=2))
    with pytest.raises(UsageError, match=message):
        report(ReportOptions(out, resamples=2))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("labels.csv", r"this is, or lies in, .*labels\.csv, which is read; name another file for the threshold"),
        ("out/run.json", "run.json, which is read"),
        ("out/recipe.json", "recipe.json, which is read"),
        ("out/studies.csv", "studies.csv, which is read"),
        ("out/shards/t.json", "shards, which is read"),
        ("out/worker.log", r"worker\.log, which is read"),
        ("out/worker-3.log", r"worker-3\.log, which is read"),
        ("absent/t.json", "absent is no folder that can be written to; make it"),
        ("out", "no regular file"),
    ],
)
def test_a_threshold_does_not_take_the_place_of_what_is_read(
    tmp_path: Path, write: Write, file: str, message: str
) -> None:
    out, labels = made_run(tmp_path), write("labels.csv", lines(TRUTH))
    for log in ("worker.log", "worker-3.log"):
        (out / log).write_text("what a library had to say\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for given in (out, out / "studies.csv"):
        with pytest.raises(UsageError, match=message):
            evaluate(EvaluateOptions(given, labels, rule="youden", threshold_file=tmp_path / file, resamples=2))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    for _ in range(2):  # its own may be replaced
        evaluate(EvaluateOptions(out, labels, rule="youden", threshold_file=out / "t.json", resamples=2))


class TestHashedNames:
    """A run whose studies' names are hashes of UIDs, and labels by UID."""

    UIDS: ClassVar = {f"1.2.840.99.{at}": at % 2 for at in range(8)}

    @pytest.fixture
    def salt(self, tmp_path: Path) -> Path:
        (tmp_path / "salt").write_text("ab" * 32)
        (tmp_path / "salt").chmod(0o600)
        return tmp_path / "salt"

    @pytest.fixture
    def out(self, tmp_path: Path, salt: Path) -> Path:
        shown = Disclosure(salt)
        studies = [
            MadeStudy(shown.uid(uid), "HAND", {shown.digest(uid.encode()): 0.2 + 0.6 * value})
            for uid, value in self.UIDS.items()
        ]
        out = write_run(tmp_path / "out", studies)
        note_recipe(out, {"archive": "/nowhere", "uids": shown.tag, "keep_paths": False})
        return out

    def test_are_found_with_the_salt(self, out: Path, salt: Path, write: Write) -> None:
        labels = write("labels.csv", lines(self.UIDS))
        for given in (out, out / "studies.csv"):
            found = evaluate(EvaluateOptions(given, labels, labels, resamples=2, uid_salt_file=salt))
            assert found["overall"]["studies"] == 8
            assert any("names its studies by hashes; 8 labels were found by theirs" in note for note in found["notes"])
        page = report(ReportOptions(out, labels, resamples=2, thumbnails=0, uid_salt_file=salt))["page"]
        assert "1.2.840.99" not in Path(page).read_text()

    def test_are_told_of_without_it_and_no_uid_is(self, out: Path, salt: Path, write: Write, tmp_path: Path) -> None:
        labels = write("labels.csv", lines(self.UIDS))
        salt.rename(tmp_path / "lost")
        (tmp_path / "other").write_text("cd" * 32)
        (tmp_path / "other").chmod(0o600)
        for given in (salt, tmp_path / "other"):
            for partial in (True, False):
                with pytest.raises(
                    UsageError, match=r"by hashes of their UIDs, and 8 of 8 .*--uid-salt-file.*--keep-uids"
                ) as told:
                    evaluate(EvaluateOptions(out, labels, resamples=2, partial=partial, uid_salt_file=given))
                assert "1.2.840" not in str(told.value)
        by_hash = lines(dict(zip(pd.read_csv(out / "studies.csv")["study"], [0, 1] * 4, strict=True)))
        assert evaluate(EvaluateOptions(out, write("h.csv", by_hash), resamples=2))["overall"]["studies"] == 8

    def test_of_others_only_hashes_are_told(self, out: Path, salt: Path, write: Write) -> None:
        labels = write("labels.csv", lines(self.UIDS | {"1.2.840.99.77": 1}))
        with pytest.raises(UsageError, match=r"1 studies missing from the predictions: [0-9a-f]{32};") as told:
            evaluate(EvaluateOptions(out, labels, resamples=2, uid_salt_file=salt))
        assert "1.2.840" not in str(told.value)
        doubled = write("doubled.csv", lines(self.UIDS) * 2)
        with pytest.raises(UsageError, match="line 9: the study of line 1 again") as told:
            evaluate(EvaluateOptions(out, doubled, resamples=2, uid_salt_file=salt))
        assert "1.2.840" not in str(told.value)


def test_progress_is_told(write: Write) -> None:
    told: list[str] = []
    evaluate(EvaluateOptions(write("p.csv", lines(DECIDED)), write("l.csv", lines(TRUTH)), resamples=20), told.append)
    assert told[0] == "overall: 20 of 20 resamples of 5 patients" and len(told) == 3


def test_an_output_folder_with_the_labels_of_its_names(clean: Path, tmp_path: Path, write: Write) -> None:
    found = evaluate(EvaluateOptions(clean, resamples=20))
    table = pd.read_csv(clean / "studies.csv")
    assert found["overall"]["studies"] == len(table)
    assert found["threshold"] == 0.5
    assert set(found["body_parts"]) == set(table["body_part"])
    assert sum(found["overall"]["counts"][name] for name in ("true_positive", "false_positive")) == int(
        table["abnormal"].sum()
    )
    higher = evaluate(EvaluateOptions(clean, threshold=0.6, resamples=20))
    above, abnormal = table["probability"] > 0.6, table["study"].str.endswith("positive")
    assert higher["threshold"] == 0.6
    assert higher["overall"]["counts"] != found["overall"]["counts"]
    assert higher["overall"]["counts"] == {
        "true_positive": (above & abnormal).sum(),
        "false_negative": (~above & abnormal).sum(),
        "false_positive": (above & ~abnormal).sum(),
        "true_negative": (~above & ~abnormal).sum(),
    }
    labels = write("labels.csv", lines({f"MURA/{name}": int(name.endswith("positive")) for name in table["study"]}))
    other = evaluate(EvaluateOptions(clean, labels, resamples=20))
    assert judged(other) == judged(found)
    pd.read_csv(clean / "studies.csv").to_parquet(parquet := tmp_path / "studies.parquet")
    assert judged(evaluate(EvaluateOptions(parquet, resamples=20))) == judged(found)


def test_studies_without_a_score_are_an_error_or_left_out(clean: Path, tmp_path: Path) -> None:
    table = pd.read_csv(clean / "studies.csv", dtype={"abnormal": "Int64"})
    table.loc[2, "probability"], table.loc[2, "abnormal"] = np.nan, pd.NA
    table.to_csv(tmp_path / "studies.csv", index=False)
    with pytest.raises(UsageError, match="1 studies without a score or decision: "):
        evaluate(EvaluateOptions(tmp_path / "studies.csv", resamples=2))
    found = evaluate(EvaluateOptions(tmp_path / "studies.csv", partial=True, resamples=2))
    assert found["overall"]["studies"] == len(table) - 1


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
    rule: str, clean: Path, archive: Path, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "threshold.json"
    found = evaluate(EvaluateOptions(clean, rule=rule, threshold_file=file, resamples=2))
    chosen = found["chosen"]
    assert found["overall"]["figures"]["sensitivity"]["value"] == pytest.approx(chosen["sensitivity"])
    assert found["overall"]["figures"]["specificity"]["value"] == pytest.approx(chosen["specificity"])
    assert any("flatters" in note for note in found["notes"])
    assert read_threshold(str(file)) == (chosen["threshold"], bundle.sha256)
    out = tmp_path / "out"
    command = ["score", str(archive), "--engine", str(bundle.folder), "-o", str(out), "--runtime", "null"]
    done = CliRunner().invoke(app, [*command, "--threshold", str(file)])
    assert done.exit_code == 0, done.output
    again = evaluate(EvaluateOptions(out, resamples=2))
    assert again["overall"]["counts"] == found["overall"]["counts"]
    assert "chosen for another bundle" not in caplog.text
    file.write_text(file.read_text().replace(bundle.sha256, "0" * 64))
    done = CliRunner().invoke(app, [*command, "--threshold", str(file), "--overwrite"])
    assert done.exit_code == 0
    assert "chosen for another bundle" in caplog.text


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


def test_the_command_prints_tables_or_json(clean: Path, write: Write) -> None:
    done = CliRunner().invoke(app, ["evaluate", str(clean), "--resamples", "20"])
    assert done.exit_code == 0, done.output
    for text in ("Cohen's kappa", "too narrow", "Wilson", "paper's model", "radiologist", "hidden test set", "WRIST"):
        assert text in done.output
    told = CliRunner().invoke(app, ["evaluate", str(clean), "--resamples", "20", "--json"])
    found = json.loads(told.stdout)
    assert found["overall"]["studies"] == 24
    rows = [re.split(" {2,}", line) for line in done.output.splitlines()]
    for key, figure in found["overall"]["figures"].items():
        first = [NAMES[key], decimals(figure["value"])]
        for method, limits in figure["intervals"].items():
            assert [*first, interval_of(limits), METHODS[method]] in rows
            first = [""]
    for part, group, paper in by_body_part(found):
        assert paper is not None
        kappa, area = group["figures"]["kappa"], group["figures"]["auroc"]
        limits = interval_of(kappa["intervals"]["fleiss_cohen_everitt"])
        row = [part, str(group["studies"]), decimals(kappa["value"]), limits, decimals(area["value"])]
        row += [decimals(paper["model"]), decimals(paper["best_radiologist"])]
        assert [cell for cell in row if cell] in rows
    wrong = CliRunner().invoke(app, ["evaluate", str(write("a.csv", "")), "--labels", "absent.csv"])
    assert wrong.exit_code == 2

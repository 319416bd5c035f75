"""The MURA challenge: predictions by its rules, and a submission that runs on its own."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import mura_trt
from mura_trt import submission
from mura_trt.bundle import Bundle
from mura_trt.challenge import Prediction, PredictOptions, predict
from mura_trt.errors import BundleError, EnvironmentProblem, UsageError
from mura_trt.progress import Progress
from mura_trt.score import score
from mura_trt.score_options import ScoreOptions
from mura_trt.submission import requirements, write_submission
from tests.bundles import remade
from tests.challenge_rules import checked_predictions

LIST = Path("valid_image_paths.csv")
PREDICTIONS = Path("predictions.csv")


def write_paths(paths: list[str]) -> None:
    LIST.write_text("".join(f"{path}\n" for path in paths))


@pytest.fixture
def hidden(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The working directory holds an archive as the hidden test set is, and its list; gives the list's paths."""
    for study in archive.glob("valid/*/*/*/"):
        patient = study.parent.relative_to(archive)
        shutil.copytree(study, tmp_path / "MURA-v1.1" / patient / study.name.partition("_")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MURA_TRT_ENGINE", raising=False)
    paths = [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*.png"))]
    write_paths(paths)
    return paths


@pytest.fixture
def options(bundle: Bundle) -> PredictOptions:
    return PredictOptions(LIST, PREDICTIONS, bundle.folder, runtime="null")


def study_of(path: str) -> str:
    return path.rpartition("/")[0] + "/"


def by_study(paths: list[str]) -> dict[str, list[str]]:
    studies: dict[str, list[str]] = {}
    for path in paths:
        studies.setdefault(study_of(path), []).append(path)
    return studies


def run(*arguments: object, program: tuple[str, ...] = ("-m", "mura_trt")) -> subprocess.CompletedProcess[str]:
    """A command in the working directory, on the package that is tested."""
    source = str(Path(mura_trt.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": source}
    command = [sys.executable, *program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_every_study_has_a_line_in_order_by_the_mean_that_score_finds(
    hidden: list[str], options: PredictOptions, tmp_path: Path
) -> None:
    studies = by_study(hidden)
    assert min(map(len, studies.values())) == 1 and not any("_" in Path(study).name for study in studies)
    predict(options)
    found = checked_predictions(LIST, PREDICTIONS)
    assert list(found) == list(studies)
    assert sorted(set(found.values())) == [0, 1]
    score(ScoreOptions(tmp_path / "MURA-v1.1", options.engine, tmp_path / "out", runtime="null"))
    with (tmp_path / "out" / "studies.csv").open(newline="") as file:
        scored = {f"MURA-v1.1/{row['study']}/": int(row["abnormal"]) for row in csv.DictReader(file)}
    assert found == scored


def test_a_mean_at_the_threshold_is_normal(hidden: list[str], options: PredictOptions, tmp_path: Path) -> None:
    write_paths(hidden[:1])
    score(ScoreOptions(LIST, options.engine, tmp_path / "out", runtime="null"))
    with (tmp_path / "out" / "studies.csv").open(newline="") as file:
        mean = float(next(csv.DictReader(file))["probability"])
    assert [one.abnormal for one in predict(replace(options, threshold=mean))] == [0]
    assert [one.abnormal for one in predict(replace(options, threshold=math.nextafter(mean, 0)))] == [1]
    with pytest.raises(UsageError, match="--threshold 2"):
        predict(replace(options, threshold=2.0))


def test_a_list_in_any_order_with_cr_lf_blanks_and_doubles_gives_the_same(
    hidden: list[str], options: PredictOptions
) -> None:
    predict(options)
    straight = checked_predictions(LIST, PREDICTIONS)
    shuffled = hidden[::2] + hidden[1::2][::-1]
    assert [study_of(path) for path in shuffled] != sorted(study_of(path) for path in shuffled)
    lines = ["", *(f" {path}\t" for path in shuffled), "   ", shuffled[0], ""]
    LIST.write_bytes("\r\n".join(lines).encode("utf-8"))
    predict(options)
    found = checked_predictions(LIST, PREDICTIONS)
    assert found == straight
    assert list(found) == list(by_study(shuffled))
    LIST.write_bytes(b"\xef\xbb\xbf" + "\n".join(shuffled).encode("utf-8"))  # and no line end behind the last
    predict(options)
    assert PREDICTIONS.read_text().splitlines() == [f"{study},{found[study]}" for study in found]


def test_studies_are_spelled_as_in_the_list_and_have_one_line_however_spelled(
    hidden: list[str], options: PredictOptions, tmp_path: Path
) -> None:
    (one, several), (other, _) = [(s, p) for s, p in by_study(hidden).items() if len(p) > 1][:2]
    odd = Path("my studies") / os.fsdecode(b"\xfe")
    odd.mkdir(parents=True)
    shutil.copy(hidden[0], odd / "1.png")
    absolute = f"{tmp_path}/{study_of(hidden[-1])}"
    write_paths([f"./{several[0]}", *(f".//{path}" for path in several)])
    with LIST.open("ab") as file:
        file.write(os.fsencode(f"{odd}/1.png\n{absolute}image1.png\n{other}image1.png"))
    predictions = predict(options)
    assert [os.fsdecode(prediction.study) for prediction in predictions] == [f"./{one}", f"{odd}/", absolute, other]
    assert PREDICTIONS.read_bytes() == b"".join(b"%s,%d\n" % (p.study, p.abnormal) for p in predictions)
    assert [len(several), 1, 1, 1] == [prediction.views for prediction in predictions]


def test_studies_that_fail_get_one_and_those_that_partly_fail_the_others_mean(
    hidden: list[str], options: PredictOptions, bundle: Bundle
) -> None:
    before = {os.fsdecode(p.study): p.abnormal for p in predict(options)}
    studies = by_study(hidden)
    # Studies that were normal, so that a 1 is not theirs by chance; and one by its last view alone.
    gone = next(study for study, paths in studies.items() if before[study] == 0 and len(paths) > 1)
    last = list(studies)[-1]
    partly, alone = next(
        (study, paths[-1]) for study, paths in studies.items() if study not in (gone, last) and len(paths) > 1
    )
    for path in (*studies[gone], *studies[last]):
        Path(path).write_bytes(b"no image")
    for path in studies[partly][:-1]:
        Path(path).unlink()
    done = run("predict", LIST, PREDICTIONS, "--engine", bundle.folder, "--runtime", "null")
    assert done.returncode == 3, done.stderr
    found = checked_predictions(LIST, PREDICTIONS)
    assert found[gone] == found[last] == 1
    write_paths([alone])
    assert [p.abnormal for p in predict(options)] == [found[partly]]
    spoiled = (gone, last, partly)
    assert {s: d for s, d in found.items() if s not in spoiled} == {s: d for s, d in before.items() if s not in spoiled}
    told = [line for line in done.stderr.splitlines() if line.startswith("mura-trt:")]
    assert len(told) == 3
    for study, scored in ((gone, 0), (last, 0), (partly, 1)):
        (line,) = [line for line in told if line.startswith(f"mura-trt: {study}: ")]
        assert f"{scored} of {len(studies[study])} views could be scored" in line
        assert ("says 1" in line) == (scored == 0)
        assert ("NOT_AN_IMAGE" in line, "ENOENT" in line) == (study != partly, study == partly)
        assert line.count(".png: ") == len(studies[study]) - scored


def test_what_is_listed_and_no_png_or_jpeg_fails_as_any_other(
    hidden: list[str],
    options: PredictOptions,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    Path("a").mkdir()
    Path("a/notes.txt").write_text("no image")
    write_paths([hidden[0], "a/notes.txt", "b/gone.dcm", "c/gone"])
    with caplog.at_level("INFO"):
        predictions = predict(options)
    assert "4 views in 4 studies" in caplog.text and "salt" not in caplog.text
    assert not (tmp_path / "config").exists()
    assert [one.abnormal for one in predictions[1:]] == [1, 1, 1]
    assert [len(one.failures) for one in predictions] == [0, 1, 1, 1]
    assert predictions[1].failures[0].startswith("notes.txt: ")
    assert predictions[2].failures[0].startswith("gone.dcm: ")


def test_nothing_is_written_before_all_is_scored_and_nobody_is_told_to_go_on(
    hidden: list[str], options: PredictOptions, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(Path("tmp").absolute()))
    PREDICTIONS.write_text("older ones")

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    before = sorted(path.name for path in Path().iterdir())
    with pytest.raises(KeyboardInterrupt):
        predict(options, interrupt)
    assert "--resume" not in caplog.text

    def full(_: Progress) -> None:
        raise EnvironmentProblem("disk full")

    with pytest.raises(EnvironmentProblem, match=r"disk full; predictions\.csv was not written, and .* anew"):
        predict(options, full)
    assert PREDICTIONS.read_text() == "older ones"
    assert sorted(path.name for path in Path().iterdir()) == before
    assert not any(Path("tmp").iterdir())


WRONG_LISTS = {
    "no list": (None, "cannot be read .No such file"),
    "empty": ("", "names no image"),
    "blank": ("\n  \r\n", "names no image"),
    "MURA's study list": ("\nx/study1_positive/,1\n", "line 2: a comma or a quotation mark"),
    "quoted": ('"x/study1/image1.png"\n', "line 1: a comma or a quotation mark"),
    "header": ("view\nx/study1/image1.png\n", "line 1: no image in a study's folder.* no header"),
    "folders": ("x/study1/\n", "line 1: no image in a study's folder"),
    "elsewhere": ("x/study1/image1.png\ny/study1/image1.png\n", "none of its 2 images is there.* working directory"),
}


@pytest.mark.parametrize("case", WRONG_LISTS)
def test_a_list_that_is_none_is_refused_with_file_reason_and_way_out(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text, message = WRONG_LISTS[case]
    if text is not None:
        LIST.write_text(text, newline="")
    with pytest.raises(UsageError, match=f"^{LIST}.*{message}"):
        predict(PredictOptions(LIST, PREDICTIONS, Path("engine")))
    assert not PREDICTIONS.exists()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (str(LIST), f"lies in, {LIST}, which is read; name another file for the predictions"),
        ("x/1.png", r"lies in, x/1\.png, which is read"),
        ("nowhere/p.csv", "nowhere is no folder that can be written to"),
        (".", "no regular file"),
        ("/dev/null", "no regular file"),
    ],
)
def test_a_place_for_no_file_is_refused_before_the_work(
    out: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    LIST.write_text("x/1.png\n")
    Path("x").mkdir()
    Path("x/1.png").write_bytes(b"an X-ray")
    with pytest.raises(UsageError, match=message):
        predict(PredictOptions(LIST, Path(out), Path("engine")))
    assert Path("x/1.png").read_bytes() == b"an X-ray"
    assert LIST.read_text() == "x/1.png\n"


def test_a_link_to_the_predictions_stays_one(hidden: list[str], options: PredictOptions) -> None:
    PREDICTIONS.symlink_to("real.csv")
    write_paths(hidden[:2])
    predict(options)
    assert PREDICTIONS.is_symlink()
    checked_predictions(LIST, Path("real.csv"))


def test_the_engine_comes_from_the_option_or_the_variable(
    hidden: list[str], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_paths(hidden[:2])
    done = run("predict", LIST, PREDICTIONS, "--runtime", "null")
    assert done.returncode == 2
    assert "--engine" in done.stderr and "MURA_TRT_ENGINE" in done.stderr and "Traceback" not in done.stderr
    monkeypatch.setenv("MURA_TRT_ENGINE", "nowhere")
    done = run("predict", LIST, PREDICTIONS, "--runtime", "null")
    assert (done.returncode, PREDICTIONS.exists()) == (5, False)
    assert "nowhere: no engine bundle there" in done.stderr
    done = run("predict", LIST, PREDICTIONS, "--runtime", "null", "--engine", bundle.folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 studies, ") and done.stdout.endswith("predictions in predictions.csv\n")
    checked_predictions(LIST, PREDICTIONS)


def test_a_bundle_without_a_proof_is_refused_unless_allowed(
    hidden: list[str], options: PredictOptions, bundle: Bundle, tmp_path: Path
) -> None:
    unproven = remade(bundle, tmp_path / "unproven", parity=None)
    with pytest.raises(BundleError, match="--allow-unproven"):
        predict(replace(options, engine=unproven.folder))
    with pytest.raises(BundleError, match="never compared"):
        write_submission(tmp_path / "sub", unproven.folder)
    assert not PREDICTIONS.exists() and not (tmp_path / "sub").exists()
    predict(replace(options, engine=unproven.folder, allow_unproven=True))
    checked_predictions(LIST, PREDICTIONS)


# The rules themselves


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ("a/s1/,1\nb/s1/,0\n", None),
        ("b/s1/,0\na/s1/,1", None),
        ("a/s1/,1\n", "no line for"),
        ("a/s1/,1\nb/s1/,0\na/s1/,1\n", "twice"),
        ("a/s1/,1\nb/s1/,0\nc/s1/,1\n", "no listed study"),
        ("a/s1,1\nb/s1,0\n", "no listed study"),
        ("study,abnormal\na/s1/,1\nb/s1/,0\n", "is not STUDY"),
        ("a/s1/,1\nb/s1/,0.5\n", "is not STUDY"),
        ("a/s1/,1\nb/s1/,\n", "is not STUDY"),
        ("a/s1/,1\n\nb/s1/,0\n", "is not STUDY"),
        ("", "is not STUDY"),
        ("a/s1/,1\r\nb/s1/,0\r\n", "lines end in LF"),
    ],
)
def test_the_checker_finds_what_breaks_a_rule(predictions: str, message: str | None, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a/s1/1.png\nb/s1/1.png\r\na/s1/2.png\n", newline="")
    (tmp_path / "predictions").write_text(predictions, newline="")
    if message is None:
        assert checked_predictions(tmp_path / "list", tmp_path / "predictions") == {"a/s1/": 1, "b/s1/": 0}
        return
    with pytest.raises(AssertionError, match=message):
        checked_predictions(tmp_path / "list", tmp_path / "predictions")


def test_a_prediction_is_a_line() -> None:
    assert Prediction(b"a/s1/", 1, 2, []).line == b"a/s1/,1\n"


# The submission


@pytest.fixture(scope="module")
def handed_in(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A submission as the command writes it; not to be changed, but for what running it leaves."""
    folder = tmp_path_factory.mktemp("challenge") / "submission"
    done = run("submission", folder, "--engine", bundle.folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_submission_holds_program_engine_package_and_requirements(handed_in: Path, bundle: Bundle) -> None:
    source = handed_in / "src"
    assert sorted(path.name for path in handed_in.iterdir()) == ["README.md", "src"]
    assert sorted(path.name for path in source.iterdir()) == [
        "engine", "mura_trt", "predict.py", "requirements.txt", "submission.json",
    ]  # fmt: skip
    assert Bundle.open(source / "engine").sha256 == bundle.sha256
    package = Path(mura_trt.__file__).parent
    ours = {path.relative_to(package) for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    theirs = {path.relative_to(source / "mura_trt") for path in (source / "mura_trt").rglob("*") if path.is_file()}
    assert ours == {path for path in theirs if path.suffix != ".pyc"}
    assert "__pycache__" not in (source / "submission.json").read_text()
    assert bundle.sha256 in (handed_in / "README.md").read_text()


def test_the_requirements_are_those_of_the_project_as_installed(handed_in: Path) -> None:
    names = [line.partition("==")[0] for line in requirements()]
    assert names == ["isal", "numpy", "nvidia-dali-cuda130", "onnxruntime", "pandas", "pillow", "pyarrow", "typer"]
    # pip, too, finds just these installed.
    pip = (sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-deps", "-r")
    done = subprocess.run([*pip, handed_in / "src" / "requirements.txt"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("already satisfied") == len(names)


def test_requirements_that_are_not_known_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "_DISTRIBUTION", "mura-trt-of-another-name")
    with pytest.raises(EnvironmentProblem, match="mura-trt-of-another-name is not installed"):
        requirements()


def run_handed_in(folder: Path, *flags: str, runtime: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The program in the folder, in the working directory, with nothing that leads to the package that is tested."""
    # Coverage's variables would have the copy of the package measured.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
    program = str(folder / "src" / "predict.py")
    command = [sys.executable, *flags, program, str(LIST), str(PREDICTIONS), "--runtime", runtime]
    return subprocess.run(command, capture_output=True, text=True, env={**kept, **variables}, check=False)


@pytest.mark.parametrize(("flag", "runtime"), [("-P", "onnxruntime"), ("-I", "null"), ("-B", "null")])
def test_a_submission_runs_on_its_own(
    flag: str,
    runtime: str,
    handed_in: Path,
    hidden: list[str],
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "elsewhere" / "submission"
    shutil.copytree(handed_in, folder)
    (tmp_path / "MURA-v1.1").rename(folder / "MURA-v1.1")
    monkeypatch.chdir(folder)
    write_paths(hidden[:6])
    # -v has the interpreter, and the worker's, tell what file each module comes from.
    done = run_handed_in(folder, flag, "-v", runtime=runtime, PYTHONPATH=str(tmp_path / "elsewhere"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith("predictions in predictions.csv\n")
    found = checked_predictions(LIST, PREDICTIONS)
    assert set(re.findall(r"(/[^' ]*)/mura_trt/[a-z_/]+\.py", done.stderr)) == {str(folder / "src")}
    assert (
        len(re.findall("^import 'mura_trt' #", done.stderr, re.MULTILINE)) >= 2
    )  # the program's process, the worker's
    score(ScoreOptions(LIST, bundle.folder, tmp_path / "out", runtime=runtime))
    with (tmp_path / "out" / "studies.csv").open(newline="") as file:
        assert found == {f"{row['study']}/": int(row["abnormal"]) for row in csv.DictReader(file)}


def test_the_variable_goes_before_the_engine_of_a_submission(handed_in: Path, hidden: list[str]) -> None:
    done = run_handed_in(handed_in, runtime="null", MURA_TRT_ENGINE="nowhere")
    assert done.returncode == 5
    assert "nowhere: no engine bundle there" in done.stderr
    done = run_handed_in(handed_in, runtime="null", MURA_TRT_ENGINE="")
    assert done.returncode == 0, done.stderr
    checked_predictions(LIST, PREDICTIONS)


def test_a_submission_is_whole_or_not_there(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(submission, "_write_mark", fail)
        with pytest.raises(OSError, match="No space"):
            write_submission(tmp_path / "sub", bundle.folder)
    assert not any(tmp_path.iterdir())
    with pytest.raises(BundleError, match="no engine bundle there"):
        write_submission(tmp_path / "sub", tmp_path / "nowhere")
    assert not any(tmp_path.iterdir())


def test_a_submission_is_not_written_into_the_bundle_that_it_holds(bundle: Bundle, tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    shutil.copytree(bundle.folder, engine)
    for folder in (engine / "sub", engine):
        with pytest.raises(UsageError, match="lies in the bundle that it is to hold"):
            write_submission(folder, engine, overwrite=True)
    assert Bundle.open(engine) and not (engine / "sub").exists()


def test_only_a_submission_is_replaced_and_only_when_asked(handed_in: Path, bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "sub"
    shutil.copytree(handed_in, folder)
    with pytest.raises(UsageError, match="--overwrite"):
        write_submission(folder, bundle.folder)
    (folder / "src" / "mura_trt" / "__pycache__").mkdir(exist_ok=True)
    (folder / "src" / "mura_trt" / "__pycache__" / "cli.cpython-311.pyc").touch()
    before = folder.stat().st_ino
    # Its own engine will do: it is copied before the old folder goes.
    write_submission(folder, folder / "src" / "engine", overwrite=True)
    assert folder.stat().st_ino != before
    assert not list(folder.rglob("__pycache__"))
    assert [path.name for path in tmp_path.iterdir()] == ["sub"]


@pytest.mark.parametrize("foreign", ["MURA-v1.1/image1.png", "src/mura_trt/mine.py", "predictions.csv", "link"])
def test_a_submission_with_anything_else_in_it_stays(
    foreign: str, handed_in: Path, bundle: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "sub"
    shutil.copytree(handed_in, folder)
    path = folder / foreign
    path.parent.mkdir(exist_ok=True)
    if foreign == "link":
        path.symlink_to(tmp_path)
    else:
        path.write_text("mine")
    with pytest.raises(UsageError, match=f"holds {foreign}, which mura-trt did not write"):
        write_submission(folder, bundle.folder, overwrite=True)
    assert path.exists()


def test_a_changed_program_stays(handed_in: Path, bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "sub"
    shutil.copytree(handed_in, folder)
    with (folder / "src" / "predict.py").open("a") as file:
        file.write("# mine\n")
    with pytest.raises(UsageError, match=r"holds src/predict\.py, .* changed since"):
        write_submission(folder, bundle.folder, overwrite=True)
    assert (folder / "src" / "predict.py").read_text().endswith("# mine\n")


@pytest.mark.parametrize("mark", [None, "no JSON", "[]", "{}", '{"files": 1}'])
def test_another_folder_is_never_replaced(mark: str | None, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "sub" / "src").mkdir(parents=True)
    (tmp_path / "sub" / "src" / "predict.py").write_text("mine")
    if mark is not None:
        (tmp_path / "sub" / "src" / "submission.json").write_text(mark)
    with pytest.raises(UsageError, match="is no submission"):
        write_submission(tmp_path / "sub", bundle.folder, overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is no folder"):
        write_submission(tmp_path / "file", bundle.folder, overwrite=True)
    assert (tmp_path / "sub" / "src" / "predict.py").read_text() == "mine"


def test_an_empty_folder_will_do(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write_submission(tmp_path / "sub", bundle.folder)
    assert json.loads((tmp_path / "sub" / "src" / "submission.json").read_text())["files"]

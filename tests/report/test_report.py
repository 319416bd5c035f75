"""``mura-trt report``: what the page says and holds, and that no name in it is markup."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks.runs import MadeStudy, made_of, write_run
from mura_trt.archives import list_archive
from mura_trt.bundle import Bundle
from mura_trt.cli import app
from mura_trt.errors import EnvironmentProblem, UsageError
from mura_trt.evaluation.tell import METHODS, by_body_part, interval_of
from mura_trt.report.run import ReportOptions, report
from mura_trt.score import score
from mura_trt.score_options import ScoreOptions
from tests.evaluation.test_evaluate import NAMES
from tests.report.pages import Page, read_page

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><script>alert(2)</script>",
    "<!--<script>",
    "' onmouseover='alert(3)",
    "&lt;b&gt;\u2028\u2029\u202ex",
)


def written(out: Path, **options: Any) -> Page:
    options = {"resamples": 20, "thumbnails": 0, **options}
    return read_page(Path(report(ReportOptions(out, **options))["page"]))


def labelled(count: int = 12) -> list[MadeStudy]:
    """Studies with labels in their names, every fifth of them decided wrongly."""
    studies = []
    for number in range(count):
        abnormal = number % 2 == 1
        body_part = "HAND" if number % 3 else "WRIST"
        name = f"valid/XR_{body_part}/patient{number:05d}/study1_{'positive' if abnormal else 'negative'}"
        value = 0.3 + 0.02 * number if abnormal == (number % 5 == 0) else 0.7 + 0.02 * number
        studies.append(MadeStudy(name, body_part, {f"{name}/image1.png": value, f"{name}/image2.png": value}))
    return studies


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "out", labelled())


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return written(run)


def test_a_page_is_one_file_that_loads_nothing(page: Page) -> None:
    links = [found.get("href") for _, found in page.elements if "href" in found]
    assert links and all(link and link.startswith("#") for link in links)
    assert not [found for _, found in page.elements if "src" in found or "srcset" in found]
    assert not page.named("link") and not page.named("iframe")
    (policy,) = [found["content"] for found in page.named("meta") if "http-equiv" in found]
    assert policy
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.scripts[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'; img-src data:;" in policy and "unsafe" not in policy
    assert "url(" not in page.scripts["style"] and "@import" not in page.scripts["style"]
    assert "innerHTML" not in page.scripts["script"] and "eval" not in page.scripts["script"]


def test_a_page_is_made_of_what_screen_readers_know(page: Page) -> None:
    assert page.named("html") == [{"lang": "en"}]
    assert page.headings[:2] == [1, 2] and page.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    keys = [found["id"] for _, found in page.elements if found.get("id")]
    assert len(keys) == len(set(keys))
    for _, found in page.elements:
        for name in ("aria-labelledby", "for"):
            assert set((found.get(name) or "").split()) <= set(keys)
    charts = page.named("svg")
    assert len(charts) == 5 and all(chart["role"] == "img" for chart in charts)
    assert len(page.named("title")) == 6 and len(page.named("desc")) == 5
    assert {"main", "header", "nav", "section", "footer", "dialog", "caption"} <= {name for name, _ in page.elements}


def test_a_page_says_what_was_scored_and_with_what(page: Page) -> None:
    said = page.texts["run"]
    for words in ("/nowhere", "made (fp16)", "on 64 views (emulated)", "onnxruntime on cpu", "strictly above 0.5"):
        assert words in said
    for words in ("tensorrt: no NVIDIA GPU", "mura-trt score /nowhere", "UTC", "engine", "2.34", "3.11.7", "0" * 64):
        assert words in said
    assert "All views were scored." in page.texts["failures"]


def test_the_worklist_begins_with_the_highest_probability(page: Page, run: Path) -> None:
    rows = page.rows["studies"]
    assert rows["probability"] == sorted(rows["probability"], reverse=True)
    for at, name in enumerate(rows["name"]):
        assert rows["truth"][at] == int(name.endswith("positive"))
        assert rows["abnormal"][at] == int(rows["probability"][at] > 0.5)
        assert page.rows["parts"][rows["part"][at]] in name
        first = rows["first"][at]
        assert page.rows["views"]["name"][first : first + 2] == ["image1.png", "image2.png"]
    assert page.rows["labels"] is True and page.pictures == []


def test_the_evaluation_is_that_of_evaluate(page: Page, run: Path) -> None:
    told = json.loads(CliRunner().invoke(app, ["evaluate", str(run), "--resamples", "20", "--json"]).stdout)
    said = page.texts["evaluation"]
    for key, figure in told["overall"]["figures"].items():
        for method, (low, high) in figure["intervals"].items():
            assert f"{NAMES[key]}{figure['value']:.3f}{low:.3f} to {high:.3f}{METHODS[method]}" in said
    for part, group, paper in by_body_part(told):
        assert paper is not None
        kappa, area = group["figures"]["kappa"], group["figures"]["auroc"]
        limits = interval_of(kappa["intervals"]["fleiss_cohen_everitt"])
        row = f"{part}{group['studies']}{kappa['value']:.3f}{limits}{area['value']:.3f}"
        assert f"{row}{paper['model']:.3f}{paper['best_radiologist']:.3f}" in said
    counts = told["overall"]["counts"]
    assert f"{counts['false_negative']}missed" in said and f"{counts['false_positive']}false alarms" in said
    for words in ("hidden test set of 207 studies", "paper's model", "best radiologist", "DeLong", "0.778", "WRIST"):
        assert words in said
    assert page.texts["kappas-description"].startswith(f"overall {told['overall']['figures']['kappa']['value']:.3f}")
    assert [option for option in page.named("option") if option.get("value") == "wrong"]


def test_hostile_names_are_text_everywhere(tmp_path: Path, run: Path) -> None:
    studies = [
        MadeStudy(f"{words}/{at}", words, {f"{words}/{at}/{words}.png": 0.9, f"{words}/{at}/b.png": None}, words)
        for at, words in enumerate(HOSTILE)
    ]
    labels = tmp_path / "labels.csv"
    rows = [f'"{study.name.replace(chr(34), chr(34) * 2)}/",{at % 2}\n' for at, study in enumerate(studies)]
    labels.write_text("".join(rows))
    hostile: dict[str, Any] = {
        "archive": "/data/" + "".join(HOSTILE),
        "command": "".join(HOSTILE),
        "passed_over": list(HOSTILE),
    }
    out = write_run(tmp_path / "out", studies, **hostile)
    heatmaps = [f"{studies[0].name}/{HOSTILE[0]}.png,{studies[0].name},0.9,javascript:alert(1)"]
    (out / "heatmaps.csv").write_text("view,study,probability,file\n" + "\n".join(heatmaps) + "\n")
    path = Path(report(ReportOptions(out, labels, resamples=2, thumbnails=3))["page"])
    source, found = path.read_text(), read_page(path)
    clean = read_page(write_page(run))
    assert len(found.named("script")) == len(clean.named("script")) == 3
    assert {name for name, _ in found.elements} <= {name for name, _ in clean.elements}
    assert not [name for _, held in found.elements for name in held if name.startswith("on")]
    assert found.scripts["script"] == clean.scripts["script"]
    for words in HOSTILE:
        assert words in found.texts["failures"] and words in found.texts["run"]
        # In the chart of body parts, in their table and in notes.
        assert found.texts["evaluation"].count(words) >= 3 and words in found.texts["kappas-description"]
    assert sorted(found.rows["studies"]["name"]) == sorted(study.name for study in studies)
    for key in ("rows", "pictures"):
        (raw,) = re.findall(rf'<script type="application/json" id="{key}">(.*?)</script>', source, re.DOTALL)
        assert not re.search("[<>&\u2028\u2029]", raw)
    assert "javascript:" not in source


def write_page(run: Path) -> Path:
    return Path(report(ReportOptions(run, resamples=2, thumbnails=0))["page"])


def test_names_that_utf8_cannot_say_are_written(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out", labelled(4), archive="/data/\udcff\0")
    assert "/data/\\udcff\N{REPLACEMENT CHARACTER}" in written(out).texts["run"]


def test_without_labels_the_evaluation_says_why(tmp_path: Path) -> None:
    studies = [*labelled(4), MadeStudy("plain", "", {"plain/a.png": 0.4})]
    out = write_run(tmp_path / "out", studies)
    found = written(out)
    assert "plain: no label in the name" in found.texts["evaluation"] and "--labels" in found.texts["evaluation"]
    assert found.rows["labels"] is False and set(found.rows["studies"]["truth"]) == {-1}
    assert "truth" not in {held.get("id") for held in found.named("select")}
    assert len(found.named("svg")) == 1  # the histogram


def test_labels_of_a_file_may_be_partial_where_that_is_said(tmp_path: Path) -> None:
    studies = labelled()
    out = write_run(tmp_path / "out", studies)
    labels = tmp_path / "labels.csv"
    labels.write_text("".join(f"elsewhere/{study.name[6:]}/,{at % 2}\n" for at, study in enumerate(studies[:8])))
    with pytest.raises(UsageError, match=r"4 studies without a label.*--partial"):
        report(ReportOptions(out, labels))
    assert not (out / "report.html").exists()
    found = written(out, labels=labels, partial=True)
    rows = found.rows["studies"]
    truth = dict(zip(rows["name"], rows["truth"], strict=True))
    assert [truth[study.name] for study in studies] == [0, 1] * 4 + [-1] * 4
    assert "8 studies of" in found.texts["evaluation"] and "left out" in found.texts["evaluation"]
    readers = tmp_path / "readers.csv"
    readers.write_text("".join(f"{study.name}/,{at % 2},0\n" for at, study in enumerate(studies)))
    assert "this run less the reader" in written(out, readers=readers).texts["evaluation"]
    with pytest.raises(UsageError, match=r"absent\.csv"):
        report(ReportOptions(out, readers=Path("absent.csv")))


def test_a_name_may_begin_with_a_blank(tmp_path: Path) -> None:
    studies = [MadeStudy(name, "", {f"{name}/a.png": 0.9, f"{name}/b.png": None}) for name in (" a", "b")]
    found = written(write_run(tmp_path / "out", studies))
    assert found.rows["studies"]["name"] == [" a", "b"]
    assert len(found.rows["views"]["name"]) == 4


def test_one_class_has_no_curves(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out", [study for study in labelled() if study.name.endswith("positive")])
    found = written(out)
    assert "one class only" in found.texts["evaluation"] and "not defined" in found.texts["evaluation"]
    assert "roc-title" not in found.texts and "kappas-title" in found.texts


def test_failures_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    studies = [MadeStudy(f"s{at:03d}", "", {f"s{at:03d}/a.png": None, f"s{at:03d}/b.png": 0.5}) for at in range(130)]
    studies.append(MadeStudy("lost", "", {"lost/a.png": None}))
    found = written(write_run(tmp_path / "out", studies))
    said = found.texts["failures"]
    assert "UNDECODABLE131" in said and "31 more are in" in said
    assert "s099/a.png" in said and "s100/a.png" not in said
    rows = found.rows["studies"]
    assert rows["name"][-1] == "lost" and rows["probability"][-1] is None and rows["abnormal"][-1] == -1
    assert found.rows["codes"][found.rows["views"]["code"][-1]] == "UNDECODABLE"


def test_tables_may_be_parquet(tmp_path: Path, page: Page) -> None:
    found = written(write_run(tmp_path / "out", labelled(), table_format="parquet"))
    assert found.rows == page.rows


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda out: (out / "run.json").unlink(), r"no run\.json"),
        (lambda out: (out / "run.json").write_text("[]"), "does not tell of a run"),
        (lambda out: (out / "views.csv").unlink(), r"no views\.csv or views\.parquet"),
        (
            lambda out: (out / "studies.csv").write_text("a,b\n1,2\n"),
            r"studies\.csv: not a table of studies; it lacks study",
        ),
    ],
)
def test_what_is_no_finished_run_is_refused(spoil: Any, message: str, tmp_path: Path) -> None:
    out = write_run(tmp_path / "out", labelled(4))
    spoil(out)
    with pytest.raises(UsageError, match=message):
        report(ReportOptions(out))


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    out = write_run(tmp_path / "out", labelled(4))
    (out / "report.html").write_text("old")
    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(EnvironmentProblem, match=r"report\.html: cannot be written \(No space left.*--out"):
        report(ReportOptions(out, thumbnails=0, resamples=2))
    assert (out / "report.html").read_text() == "old"
    with pytest.raises(UsageError, match="--thumbnails -1"):
        ReportOptions(out, thumbnails=-1)


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("out/run.json", "a page is a .html file"),
        ("out/hashes.dat", "a page is a .html file"),
        ("out/recipe.html", r"recipe\.html: this is, or lies in, .*recipe\.json, which is read"),
        ("out/shards/page.html", "lies in, .*shards, which is read"),
        ("labels.html", "labels.html, which is read; name another file for the page"),
        ("absent/page.html", "absent is no folder that can be written to; make it"),
    ],
)
def test_a_page_does_not_take_the_place_of_what_is_read(tmp_path: Path, page: str, message: str) -> None:
    out = write_run(tmp_path / "out", labelled(4))
    (out / "recipe.html").hardlink_to(out / "recipe.json")
    labels = tmp_path / "labels.html"
    labels.write_text("".join(f"{study.name}/,{at % 2}\n" for at, study in enumerate(labelled(4))))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=message):
        report(ReportOptions(out, labels, page=tmp_path / page, resamples=2))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_worklist_has_the_first_studies_and_the_rest_of_the_page_has_all(tmp_path: Path, page: Page) -> None:
    studies = [*labelled(), MadeStudy("valid/XR_HAND/patient9/study1_negative", "HAND", {"lost.png": None})]
    out = write_run(tmp_path / "out", studies)
    found = written(out, partial=True, studies=5)
    for column in ("name", "probability", "truth", "abnormal"):
        assert found.rows["studies"][column] == page.rows["studies"][column][:5]
    assert found.rows["views"] == {key: values[:10] for key, values in page.rows["views"].items()}
    assert "The first 5 of 13 studies; the rest is in the run's table of studies" in found.texts["worklist"]
    assert "12 studies of 12 patients" in found.texts["evaluation"] and "lost.png" in found.texts["failures"]
    assert "12 scored studies" in found.texts["histogram-description"]
    assert "The first" not in written(out, partial=True).texts["worklist"]
    with pytest.raises(UsageError, match="--studies 0"):
        ReportOptions(out, studies=0)


def test_the_command_writes_the_page_of_a_true_run(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(ScoreOptions(archive, bundle.folder, out, runtime="null"))
    done = CliRunner().invoke(app, ["report", str(out), "--out", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    assert "24 studies" in done.output and "with evaluation" in done.output
    found = read_page(tmp_path / "page.html")
    assert len(found.pictures) == len(list(archive.rglob("*.png")))
    assert "null on cpu" in found.texts["run"] and bundle.sha256 in found.texts["run"]
    wrong = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert wrong.exit_code == 2


def test_pictures_are_of_the_first_studies(archive: Path, tmp_path: Path) -> None:
    listing = list_archive(archive)
    out = write_run(tmp_path / "out", made_of(listing), listing)
    found = written(out, thumbnails=5)
    rows, views = found.rows["studies"], found.rows["views"]
    after = rows["first"][5]
    assert [at for at, number in enumerate(views["picture"]) if number >= 0] == list(range(after))
    assert len(found.pictures) == after and "first 5 studies" in found.texts["worklist"]
    with Image.open(io.BytesIO(base64.b64decode(found.pictures[0]))) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (112, 112), "L")

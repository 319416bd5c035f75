"""The page in a headless Chromium: it opens without an error, works by mouse and keyboard, and runs no name."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.browser import FOUND, Browser
from benchmarks.report import add_heatmaps, measure_page, synthetic_studies
from benchmarks.runs import MadeStudy, write_run
from mura_trt.report.data import read_run
from mura_trt.report.run import ReportOptions, report
from mura_trt.report.thumbnails import chosen_views
from tests.report.test_report import HOSTILE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOUND is None, reason="no Chromium here: apt-get install chromium"),
]
NAMES = "[...document.querySelectorAll('#studies .open')].map((button) => button.textContent)"
CHOOSE = """((id, value) => {
  const control = document.getElementById(id);
  control.value = value;
  control.dispatchEvent(new Event("input", { bubbles: true }));
  return document.getElementById("count").textContent;
})"""
STUDIES = 400


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 studies with labels; of the first 40, heatmaps."""
    out = write_run(tmp_path_factory.mktemp("run") / "out", synthetic_studies(STUDIES))
    add_heatmaps(out, chosen_views(read_run(out), 40))
    return Path(report(ReportOptions(out, partial=True, resamples=20))["page"])


@pytest.fixture
def opened(browser: Browser, page: Path) -> Browser:
    browser.look()
    browser.open(page)
    return browser


def focused(browser: Browser) -> str:
    found: str = browser.value("document.activeElement.textContent")
    return found


def test_it_opens_without_an_error_and_shows_pictures(opened: Browser) -> None:
    names = opened.value(NAMES)
    assert len(names) == 25 and len(set(names)) == 25
    opened.wait("[...document.querySelectorAll('.thumbs img')].every((image) => image.complete)")
    sizes = opened.value("[...document.querySelectorAll('.thumbs img')].map((image) => image.naturalWidth)")
    assert len(sizes) >= 25 and set(sizes) == {112}
    assert opened.value("document.getElementById('count').textContent") == f"{STUDIES} of {STUDIES} studies"
    assert not opened.trouble


def test_filters_search_and_sorting_choose_rows(opened: Browser) -> None:
    total = 0
    for option in opened.value("[...document.getElementById('part').options].map((option) => option.value)")[1:]:
        total += int(opened.value(f"{CHOOSE}('part', '{option}')").split()[0])
        word = opened.value("document.getElementById('part').selectedOptions[0].textContent")
        assert all(f"XR_{word}/" in name for name in opened.value(NAMES))
    assert total == STUDIES
    opened.value(f"{CHOOSE}('part', '')")
    assert opened.value(f"{CHOOSE}('truth', 'missed')") != f"{STUDIES} of {STUDIES} studies"
    assert all(name.endswith("positive") for name in opened.value(NAMES))
    cells = opened.value("[...document.querySelectorAll('#studies .tag')].map((tag) => tag.textContent)")
    assert set(cells) == {"normal"}
    opened.value("document.getElementById('clear').click()")
    assert opened.value(f"{CHOOSE}('search', 'PATIENT00017 study2')").startswith("1 of")
    assert opened.value(f"{CHOOSE}('search', 'no such name')").startswith("0 of")
    assert opened.value("document.querySelector('#studies .empty').textContent") == "No study is like that."
    opened.value("document.getElementById('clear').click()")
    opened.value("document.querySelector('#studies thead button').click()")
    assert opened.value("document.querySelector('#studies thead th').getAttribute('aria-sort')") == "ascending"
    names = opened.value(NAMES)
    assert names == sorted(names) and "XR_ELBOW" in names[0]
    opened.value("document.getElementById('after').click()")
    assert opened.value("document.getElementById('where').textContent") == "Page 2 of 16"
    assert opened.value(NAMES)[0] > names[-1]
    assert not opened.trouble


def test_it_works_by_keyboard(opened: Browser) -> None:
    names = opened.value(NAMES)
    for _ in range(80):  # by Tab alone, from the top of the page
        opened.key("Tab")
        if focused(opened) == names[0]:
            break
    assert focused(opened) == names[0]
    assert opened.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    opened.key("ArrowDown")
    opened.key("ArrowDown")
    opened.key("ArrowUp")
    assert focused(opened) == names[1]
    opened.key("Enter")
    assert opened.value("document.getElementById('study').open")
    assert opened.value("document.getElementById('study-name').textContent") == names[1]
    assert opened.value("document.querySelectorAll('#study-views li').length") >= 1
    link = opened.value("document.querySelector('#study-views a').getAttribute('href')")
    assert link.startswith("heatmaps/00000000/")
    opened.key("ArrowRight")
    assert opened.value("document.getElementById('study-name').textContent") == names[2]
    opened.key("Escape")
    opened.wait(f"document.activeElement.textContent === {json.dumps(names[2])}")
    for _ in range(30):
        opened.key("ArrowDown")
    assert opened.value("document.getElementById('where').textContent") == "Page 2 of 16"
    opened.key("Enter")
    for _ in range(9):  # back over the page's border
        opened.key("ArrowLeft")
    last = opened.value("document.getElementById('study-name').textContent")
    assert last in names
    opened.key("Escape")
    opened.wait(f"document.activeElement.textContent === {json.dumps(last)}")
    assert not opened.trouble


def test_hostile_names_are_shown_and_do_not_run(browser: Browser, tmp_path: Path) -> None:
    studies = [
        MadeStudy(f"{words}/{at}", words, {f"{words}/{at}/{words}.png": 0.9 - 0.1 * at, f"{words}/b": None}, words)
        for at, words in enumerate(HOSTILE)
    ]
    out = write_run(tmp_path / "out", studies, archive=HOSTILE[1], command=HOSTILE[2])
    browser.open(Path(report(ReportOptions(out))["page"]))
    assert browser.value(NAMES) == [study.name for study in studies]
    for at, study in enumerate(studies):
        browser.value(f"document.querySelectorAll('#studies .open')[{at}].click()")
        assert browser.value("document.getElementById('study-name').textContent") == study.name
        browser.key("Escape")
        browser.wait("!document.getElementById('study').open")
    assert browser.value("document.querySelectorAll('img').length") == 0
    assert browser.value("document.querySelectorAll('script').length") == 2  # that of the pictures is read and gone
    assert browser.value("document.querySelectorAll('[onerror], [onmouseover]').length") == 0
    assert not browser.trouble


def test_the_policy_stops_what_would_run(browser: Browser, page: Path) -> None:
    """Were a name to become markup all the same, it would not run."""
    browser.open(page)
    browser.value("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')")
    browser.value(
        "(() => { const made = document.createElement('script'); made.textContent = 'window.ran = 1';"
        " document.body.append(made); })()"
    )
    browser.wait("new Promise((done) => setTimeout(() => done(true), 200))")
    assert browser.value("typeof window.ran") == "undefined"
    assert len([words for words in browser.trouble if "Content Security Policy" in words]) >= 2
    browser.trouble.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_every_width_in_light_and_dark(
    width: int, scheme: str, browser: Browser, page: Path, tmp_path: Path
) -> None:
    browser.look(width, 800, scheme)
    browser.open(page)
    assert browser.value("document.documentElement.scrollWidth") == width
    browser.wait("[...document.querySelectorAll('.thumbs img')].every((image) => image.complete)")
    with Image.open(io.BytesIO(browser.screenshot(tmp_path / f"{width}-{scheme}.png", whole=True))) as image:
        assert image.width == width and image.height > 2000
        corner = image.convert("L").getpixel((2, 2))
    assert isinstance(corner, int) and (corner > 230) == (scheme == "light")
    browser.value("document.querySelector('#studies .open').click()")
    box = browser.value(
        "(({ left, right }) => [left, right])(document.getElementById('study').getBoundingClientRect())"
    )
    assert 0 <= box[0] < box[1] <= width
    browser.screenshot(tmp_path / f"{width}-{scheme}-study.png")
    print(tmp_path)
    assert not browser.trouble


@pytest.mark.measures
def test_a_page_of_ten_thousand_studies_answers_at_once(tmp_path: Path) -> None:
    """Its size, too, is bounded, though it has heatmaps of 2,000 studies."""
    out = write_run(tmp_path / "out", synthetic_studies(10_000))
    add_heatmaps(out, chosen_views(read_run(out), 2000))
    found = report(ReportOptions(out, partial=True, resamples=2))
    measured = measure_page(Path(found["page"]))
    print(measured)
    assert found["pictures"] > 4000 and measured["bytes"] <= 25e6
    assert min(measured["opened_s"]) <= 3
    assert all(kind["frame_ms_median"] <= 200 for kind in measured["changes"].values())
    assert not measured["trouble"]

"""How long a report takes to open in Chromium, and how fast its worklist answers.

    python -m benchmarks.report REPORT.html [--json FILE]
    python -m benchmarks.report --studies 10000 [--json FILE]

The first opens a page that is there; the second makes a run of synthetic studies, of which the first 2,000 have
heatmaps, and its page. Each page is opened five times; then every value of every filter is set, words are typed, every
column is sorted, and the next pages are turned to: how long each takes is measured in the page, from the event to the
second frame after it, which is 33 ms at the least.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.browser import Browser
from benchmarks.measuring import finish
from benchmarks.runs import MadeStudy, write_run
from mura_trt.demo.anatomy import BODY_PARTS

OPENED = 5
OVERLAYS = 16  # different ones
WITH_HEATMAPS = 2000  # studies
# Every control in turn; of each change the milliseconds of script, and those to the second frame behind it.
CHANGES = """(async () => {
  const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const found = { filter: [], search: [], sort: [], turn: [] };
  const timed = async (kind, change) => {
    await frame();
    const from = performance.now();
    change();
    const script = performance.now() - from;
    await frame();
    found[kind].push([script, performance.now() - from]);
  };
  const set = (control, value) => () => {
    control.value = value;
    control.dispatchEvent(new Event("input", { bubbles: true }));
  };
  for (const control of document.querySelectorAll(".tools select")) {
    for (const option of control.options) await timed("filter", set(control, option.value));
    set(control, "")();
  }
  const search = document.getElementById("search");
  for (const words of ["p", "pa", "patient0", "patient00 wrist", "patient0001", ""]) {
    await timed("search", set(search, words));
  }
  for (const button of document.querySelectorAll("#studies thead button")) {
    await timed("sort", () => button.click());
    await timed("sort", () => button.click());
  }
  for (let turned = 0; turned < 5; turned++) await timed("turn", () => document.getElementById("after").click());
  return found;
})()"""


def synthetic_studies(count: int, seed: int = 0) -> list[MadeStudy]:
    """Studies named as MURA's, with labels in their names and probabilities that tell of them."""
    rng = np.random.default_rng(seed)
    studies = []
    for number in range(count):
        part, abnormal = BODY_PARTS[int(rng.integers(len(BODY_PARTS)))], rng.random() < 0.4
        label = "positive" if abnormal else "negative"
        name = f"valid/XR_{part}/patient{number // 2:05d}/study{number % 2 + 1}_{label}"
        center = 1.2 if abnormal else -1.2
        values = 1 / (1 + np.exp(-rng.normal(center, 1.5, int(rng.integers(1, 5)))))
        views: dict[str, float | None] = {
            f"{name}/image{at}.png": round(float(value), 7) for at, value in enumerate(values, 1)
        }
        if number % 400 == 7:
            views[next(iter(views))] = None
        studies.append(MadeStudy(name, part, views))
    return studies


def add_heatmaps(out: Path, views: list[str], seed: int = 0) -> None:
    """The table and JPEG files that ``score --heatmaps`` leaves; a few overlays stand for all."""
    import pandas as pd
    from PIL import Image

    rng = np.random.default_rng(seed)
    files = []
    (out / "heatmaps" / "00000000").mkdir(parents=True)
    for number in range(OVERLAYS):
        bone = np.asarray(
            Image.fromarray(rng.integers(0, 256, (40, 40), np.uint8)).resize((320, 320), Image.Resampling.BICUBIC)
        ).astype(float)
        map_ = np.asarray(
            Image.fromarray(rng.random((10, 10), np.float32)).resize((320, 320), Image.Resampling.BICUBIC)
        )
        warm = np.stack([255 * map_, 255 * (1 - np.abs(2 * map_ - 1)), 255 * (1 - map_)], -1)
        overlay = 0.6 * bone[..., None] + 0.4 * warm + rng.normal(0, 4, (320, 320, 1))
        file = f"heatmaps/00000000/{number:012d}.jpg"
        Image.fromarray(np.clip(overlay, 0, 255).astype(np.uint8)).save(out / file, quality=85)
        files.append(file)
    maps = {f"m{at}": np.zeros(len(views), np.float32) for at in range(100)}
    table = {"view": views, "study": "", "probability": 0.9, "file": [files[at % OVERLAYS] for at in range(len(views))]}
    pd.DataFrame({**table, **maps}).to_csv(out / "heatmaps.csv", index=False)


def measure_page(page: Path) -> dict[str, Any]:
    """Size, seconds to open, and milliseconds of changes."""
    with Browser() as browser:
        browser.look()
        opened = [browser.open(page) for _ in range(OPENED)]
        rows = browser.value("document.querySelectorAll('#studies tbody tr').length")
        changes = browser.value(CHANGES)
        trouble = browser.trouble
    told = {
        kind: {
            "count": len(found),
            "script_ms_median": round(statistics.median(script for script, _ in found), 1),
            "frame_ms_median": round(statistics.median(frame for _, frame in found), 1),
            "frame_ms_max": round(max(frame for _, frame in found), 1),
        }
        for kind, found in changes.items()
    }
    return {
        "bytes": page.stat().st_size,
        "opened_s": [round(seconds, 3) for seconds in opened],
        "rows": rows,
        "changes": told,
        "trouble": trouble,
    }


def measure_synthetic(studies: int) -> dict[str, Any]:
    """The same of a page that is made for it."""
    from mura_trt.report.data import read_run
    from mura_trt.report.run import ReportOptions, report
    from mura_trt.report.thumbnails import chosen_views

    with tempfile.TemporaryDirectory() as folder:
        out = write_run(Path(folder) / "out", synthetic_studies(studies))
        add_heatmaps(out, chosen_views(read_run(out), WITH_HEATMAPS))
        began = time.monotonic()
        found = report(ReportOptions(out, partial=True))
        seconds = time.monotonic() - began
        told = {key: found[key] for key in ("studies", "pictures", "overlays", "evaluated")}
        return {**told, "report_s": round(seconds, 1), **measure_page(Path(found["page"]))}


def main(
    page: Annotated[Path | None, typer.Argument(help="A page that mura-trt report wrote.")] = None,
    studies: Annotated[int | None, typer.Option(help="Make a page of so many studies instead.")] = None,
    file: Annotated[Path | None, typer.Option("--json", help="File to keep the result in.")] = None,
) -> None:
    """Opens a page and works with it."""
    if (page is None) == (studies is None):
        raise typer.BadParameter("a page or --studies")
    result = measure_page(page) if page else measure_synthetic(studies or 0)
    finish({"page" if page else "synthetic": result}, file)


if __name__ == "__main__":
    typer.run(main)

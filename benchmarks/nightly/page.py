"""The history as one HTML file that loads nothing: last night's outcome, figures over the nights, a table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from benchmarks.nightly.judge import SLOWER
from benchmarks.nightly.night import outcome
from benchmarks.nightly.picture import draw
from benchmarks.nightly.series import SHOWN, Point, figures, series
from mura_trt.errors import UsageError
from mura_trt.files import write_atomically
from mura_trt.report.markup import facts, source_hash, table, text
from mura_trt.report.svg import Plot, diamond, dot, drawing, line

_OWN_STYLE = """
.chart .band { fill: var(--calm-soft); }
.outcome { border-left: 6px solid var(--calm); background: var(--card); padding: .8rem 1rem; margin: 1.5rem 0; }
.outcome.bad { border-color: var(--alarm); background: var(--alarm-soft); }
.outcome p { margin: 0 0 .5rem; } .outcome p:first-child { font-weight: 650; font-size: 1.15rem; }
"""


def write(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes the page, and its picture beside it.

    Parameters
    ----------
    path
        The page; the picture's name ends in ``.png`` instead.
    records
        Nights that are alike, oldest first; at least one.

    Raises
    ------
    UsageError
        The folder cannot be written to, or matplotlib is not installed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page(records).encode())
        draw(records, path.with_suffix(".png"))
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); choose another place for --html") from error
    except ImportError as error:
        raise UsageError(f"no picture without matplotlib: pip install matplotlib ({error})") from error


def page(records: Sequence[Mapping[str, Any]]) -> str:
    """The page's source."""
    last = records[-1]
    style = (resources.files("mura_trt.report") / "page.css").read_text("utf-8") + _OWN_STYLE
    policy = f"default-src 'none'; style-src {source_hash(style)}; base-uri 'none'; form-action 'none'"
    lines = outcome(last)
    bad = " bad" if last["failures"] else ""
    key = last["key"]
    on = f"{key['cpu'] or 'unknown processor'}, {key['cores']} cores" + (f", {key['gpu']}" if key["gpu"] else "")
    charts = "".join(
        f"<figure><figcaption>{text(name)}</figcaption>{chart(number, name, series(records, name))}</figure>"
        for number, name in enumerate(figures(records))
        if series(records, name)
    )
    title = f"Nightly run, {key['mode']}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta http-equiv="Content-Security-Policy" content="{text(policy)}"/>
<title>{text(title)}</title>
<style>{style}</style>
</head>
<body>
<header class="head">
<p class="product">mura-trt <span>nightly run</span></p>
<h1>{text(title)}, {text(_moment(last["date"]))}</h1>
<div class="outcome{bad}" role="status">{"".join(f"<p>{text(one)}</p>" for one in lines)}</div>
</header>
<main>
<section aria-labelledby="of-figures">
<h2 id="of-figures">Figures</h2>
<p>Each night against the level that the last one is compared with, in percent; up is faster. The band is what noise
allows, and a night that lies below it is an alarm (a diamond); of wall time, a second one in a row.</p>
<div class="charts">{charts}</div>
</section>
<section aria-labelledby="of-last">
<h2 id="of-last">Last night</h2>
{_figures_table(last)}
{facts(_facts(last, on))}
</section>
<section aria-labelledby="of-nights">
<h2 id="of-nights">Nights</h2>
{_nights_table(records)}
</section>
</main>
</body>
</html>
"""


def chart(number: int, name: str, points: Sequence[Point]) -> str:
    """One figure over the nights, as an image with a description."""
    shares = [100 * one for point in points for one in (point.value, *(point.band or ()))]
    low, high = min(-5.0, *shares), max(5.0, *shares)
    margin = 0.08 * (high - low)
    last = points[-1].night
    plot = Plot(height=200, top=10, x_range=(0.5, last + 0.5), y_range=(low - margin, high + margin))
    step = next(one for one in (2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000) if (high - low) / one <= 6)
    ticks = [
        step * at for at in range(int(low // step), int(high // step) + 2) if low - margin <= step * at <= high + margin
    ]
    across = sorted({1, last, (1 + last) // 2})
    band = [(point.night, *(100 * one for one in point.band)) for point in points if point.band]
    parts = []
    if band:
        around = [(night - 0.5 + side, top) for night, _, top in band for side in (0, 1)]
        around += [(night + 0.5 - side, bottom) for night, bottom, _ in reversed(band) for side in (0, 1)]
        parts.append(f'{plot.curve("band", around)[:-3]}Z"/>')
    parts += plot.axes("night", "%", across, ticks)
    parts.append(line("axis", plot.left, plot.y(0), plot.width - plot.right, plot.y(0)))
    parts.append(plot.curve("ours thin", [(point.night, 100 * point.value) for point in points]))
    for point in points:
        mark = diamond if point.alarm else dot
        looks = "alarm" if point.alarm or point.state == SLOWER else "point"
        parts.append(mark(looks, plot.x(point.night), plot.y(100 * point.value), 6 if point.alarm else 3))
    alarms = sum(point.alarm for point in points)
    said = f"{len(points)} nights, the last {100 * points[-1].value:+.1f} % from its level; {alarms} alarms."
    return drawing(f"figure{number}", name, said, plot, parts)


def _figures_table(record: Mapping[str, Any]) -> str:
    rows = []
    for name, said in record["figures"].items():
        rate = record["rates"].get(name)
        off, noise, bound = ("" if said[one] is None else _percent(said[one]) for one in ("off", "noise", "bound"))
        rows.append((name, said["state"], off, noise.lstrip("+"), bound.lstrip("+"), rate or ""))
    columns = ("figure", "is", "off its level", "noise", "allowed", "views/s")
    return table("Figures of the last night", columns, rows, numbers=(2, 3, 4, 5))


def _percent(logarithm: float) -> str:
    return f"{100 * math.expm1(logarithm):+.1f} %"


def _moment(date: str) -> str:
    return date.replace("T", " ").removesuffix("Z") + " UTC"


def _facts(record: Mapping[str, Any], on: str) -> list[tuple[str, object]]:
    said: list[tuple[str, object]] = [
        ("machine", on),
        ("Python, numpy, zlib", ", ".join(record["key"][name] for name in ("python", "numpy", "zlib"))),
        ("bundle", record["key"]["bundle"]),
        ("took", f"{record['seconds']} s"),
    ]
    for name, part in record["parts"].items():
        kept = {one: value for one, value in part.items() if one not in ("seconds", "failure")}
        said.append((name, f"{part['failure'] or 'good'}, {part['seconds']} s"))
        if kept:
            said.append((f"{name} told", json.dumps(kept)))
    return said


def _nights_table(records: Sequence[Mapping[str, Any]]) -> str:
    shown = list(reversed(records[-SHOWN:]))
    rows = [
        (
            _moment(record["date"]),
            record["commit"],
            ("accepted: " if record.get("accepted") else "") + outcome(record)[0].partition(":")[0],
            "; ".join(failure.partition(";")[0] for failure in record["failures"]),
        )
        for record in shown
    ]
    return table(f"The last {len(shown)} nights, the last one first", ("night", "commit", "outcome", "found"), rows)

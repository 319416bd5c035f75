"""Colors that can be read, and charts that say in words what they show."""

from __future__ import annotations

import re
from importlib import resources
from itertools import product

import numpy as np
import pytest

from mura_trt.report import charts
from mura_trt.report.judged import CURVE_POINTS, _thinned
from mura_trt.report.markup import json_data, text
from tests.report.pages import Page

STYLE = (resources.files("mura_trt.report") / "page.css").read_text()
LIGHT, DARK = (
    dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block))
    for block in re.findall(r":root \{(.*?)\}", STYLE, re.S)[:2]
)
# Text, and what lies behind it.
PAIRS = [
    *product(("ink", "muted", "accent", "alarm"), ("paper", "card", "soft")),
    *product(("ink",), ("alarm-soft", "calm-soft", "shade0", "shade1", "shade2", "shade3", "shade4")),
    ("alarm", "alarm-soft"),
]


def luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_text_stands_out(colors: dict[str, str]) -> None:
    for front, back in PAIRS:
        low, high = sorted((luminance(colors[front]), luminance(colors[back])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (front, back)


def test_curves_are_thinned_with_both_ends() -> None:
    many = np.linspace(0, 1, 5000)
    points = _thinned(many, many**2)
    assert len(points) == CURVE_POINTS and points[0] == (0, 0) and points[-1] == (1, 1)
    assert len(_thinned(many[:3], many[:3])) == 3


def test_charts_have_words_and_keep_inside() -> None:
    rows = [("all", 0.5, (-0.31, 0.7), {"model": 0.7, "best_radiologist": 0.8}), ("<b>", None, (None, None), None)]
    for drawn, words in (
        (
            charts.histogram(np.array([0.1, 0.5, 0.51, 1.0]), 0.5),
            "4 scored studies, 2 of them above the threshold of 0.5",
        ),
        (charts.kappas(rows), "all 0.500; <b> not defined."),
        (charts.roc([(0, 0), (0.2, 0.9), (1, 1)], "0.9", (0.2, 0.9)), "sensitivity 0.900, specificity 0.800"),
        (charts.precision_recall([(0, 1), (1, 0.5)], "0.8", 0.5, None), "chance has 0.500"),
        (charts.calibration([{"studies": 3, "probability": 0.2, "abnormal": 1.0}], "0.1"), "1 bins that hold a study"),
    ):
        page = Page(f'<div id="all">{drawn}</div>')
        assert words in page.texts["all"]
        (chart,) = page.named("svg")
        width, height = map(float, str(chart["viewbox"]).split()[2:])
        for _, found in page.elements:
            for names, most in ((("x", "x1", "x2", "cx"), width), (("y", "y1", "y2", "cy"), height)):
                assert all(0 <= float(str(found[name])) <= most for name in names if name in found)


def test_text_and_data_are_safe_where_they_stand() -> None:
    assert text("<a href=\"'&") == "&lt;a href=&quot;&#x27;&amp;"
    assert json_data(["</script>&\u2028\u2029\ud800"]) == '["\\u003c/script\\u003e\\u0026\\u2028\\u2029\\ud800"]'
    with pytest.raises(ValueError, match="JSON compliant"):
        json_data(float("nan"))

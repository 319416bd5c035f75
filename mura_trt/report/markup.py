"""Text and data as HTML: whatever comes from an archive or a table goes through here, so that none of it is markup."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

# In a script element these could end it, or begin a comment that hides its end.
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def text(value: object) -> str:
    """Anything as text that is safe in elements and in quoted attributes; what UTF-8 cannot say shows as escapes."""
    plain = str(value).encode("utf-8", "backslashreplace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    return html.escape(plain)


def name(value: object) -> str:
    """A name that is not ours: as text, and set apart, so that right-to-left marks in it turn nothing around it."""
    return f"<bdi>{text(value)}</bdi>"


def json_data(value: Any) -> str:
    """JSON that is safe inside a script element: ASCII alone, without ``<``, ``>`` and ``&``."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).translate(_ESCAPES)


def source_hash(script: str) -> str:
    """What a content security policy names an inline script or style by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]], numbers: Iterable[int] = (), label: str = ""
) -> str:
    """A table whose first column heads its rows.

    Parameters
    ----------
    caption
        What it shows; plain text, as all else here.
    columns
        Their heads.
    rows
        A cell for each column.
    numbers
        Columns that are set to the right.
    label
        Another class for its looks.
    """
    right = set(numbers)

    def cell(element: str, at: int, value: object, scope: str = "") -> str:
        looks = ' class="number"' if at in right else ""
        return f"<{element}{scope}{looks}>{name(value)}</{element}>"

    head = "".join(cell("th", at, column, ' scope="col"') for at, column in enumerate(columns))
    body = "".join(
        "<tr>"
        + cell("th", 0, row[0], ' scope="row"')
        + "".join(cell("td", at, value) for at, value in enumerate(row[1:], 1))
        + "</tr>"
        for row in rows
    )
    # Wide ones scroll by themselves, and by keyboard, too.
    return (
        f'<div class="scrolls" tabindex="0" role="region" aria-label="{text(caption)}">'
        f'<table class="plain {text(label)}"><caption>{text(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Terms and what is said of each."""
    return (
        '<dl class="facts">'
        + "".join(f"<div><dt>{text(term)}</dt><dd>{name(said)}</dd></div>" for term, said in pairs)
        + "</dl>"
    )

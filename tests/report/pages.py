"""Pages as the tests read them: elements, text and data, by the standard library's parser."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

VOID = {"meta", "input", "br", "wbr", "img"}


class Page(HTMLParser):
    """What a page holds.

    Attributes
    ----------
    elements
        Name and attributes of each, in order.
    texts
        The words of each element by its id, those of the elements inside it included.
    scripts
        Content of script and style elements, by id or, without one, by name.
    headings
        Their levels in order.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.scripts: dict[str, str] = {}
        self.headings: list[int] = []
        self._open: list[tuple[str, str | None]] = []
        self.feed(source)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        if tag[0] == "h" and tag[1:].isdigit():
            self.headings.append(int(tag[1:]))
        if tag not in VOID:
            self._open.append((tag, found.get("id")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1][0] == tag, f"</{tag}> in {self._open}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if not self._open:
            return
        tag, key = self._open[-1]
        if tag in ("script", "style"):
            self.scripts[key or tag] = self.scripts.get(key or tag, "") + data
            return
        for _, above in self._open:
            if above:
                self.texts[above] = self.texts.get(above, "") + data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of all elements of that name."""
        return [found for name, found in self.elements if name == tag]

    @property
    def rows(self) -> dict[str, Any]:
        """The worklist's data."""
        found: dict[str, Any] = json.loads(self.scripts["rows"])
        return found

    @property
    def pictures(self) -> list[str]:
        """JPEG files in base64."""
        found: list[str] = json.loads(self.scripts["pictures"])
        return found


def read_page(path: Path) -> Page:
    """A page that was written."""
    return Page(path.read_text("utf-8"))

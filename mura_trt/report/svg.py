"""The parts that charts are drawn from; colors and type are the page's, by class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mura_trt.report.markup import text

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Plot:
    """A plot's area within a drawing of ``width`` by ``height``, and the values at its edges."""

    width: float = 360
    height: float = 300
    left: float = 46
    right: float = 14
    top: float = 12
    bottom: float = 44
    x_range: tuple[float, float] = (0, 1)
    y_range: tuple[float, float] = (0, 1)

    def x(self, value: float) -> float:
        """Where a value lies from left to right."""
        low, high = self.x_range
        return round(self.left + (value - low) / (high - low) * (self.width - self.left - self.right), 2)

    def y(self, value: float) -> float:
        """Where a value lies from the top down."""
        low, high = self.y_range
        return round(
            self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom), 2
        )

    def axes(self, across: str, up: str, x_ticks: Iterable[float], y_ticks: Iterable[float]) -> list[str]:
        """Grid, numbers and names of both axes."""
        left, right, top, bottom = self.left, self.width - self.right, self.top, self.height - self.bottom
        parts = []
        for value in x_ticks:
            parts.append(line("grid", self.x(value), top, self.x(value), bottom))
            parts.append(label(f"{value:g}", self.x(value), bottom + 16, "middle"))
        for value in y_ticks:
            parts.append(line("grid", left, self.y(value), right, self.y(value)))
            parts.append(label(f"{value:g}", left - 7, self.y(value) + 4, "end"))
        parts.append(label(across, (left + right) / 2, self.height - 8, "middle", "name"))
        if up:
            middle = (top + bottom) / 2
            parts.append(
                f'<text class="name" text-anchor="middle" transform="translate(12 {middle:g}) rotate(-90)">'
                f"{text(up)}</text>"
            )
        return parts

    def curve(self, looks: str, points: Points, steps: bool = False) -> str:
        """A line through the points; in steps, each point's height holds up to the one before it."""
        path: list[str] = []
        before = None
        for across, up in points:
            if steps and before is not None:
                path.append(f"V{self.y(up):g}")
                path.append(f"H{self.x(across):g}")
            else:
                path.append(f"{'L' if path else 'M'}{self.x(across):g} {self.y(up):g}")
            before = up
        return f'<path class="{looks}" d="{"".join(path)}"/>'


def drawing(key: str, title: str, description: str, plot: Plot, parts: Iterable[str]) -> str:
    """An image with a name and a description for those who do not see it; ``key`` is its own on the page."""
    return (
        f'<svg class="chart" viewBox="0 0 {plot.width:g} {plot.height:g}" role="img"'
        f' aria-labelledby="{key}-title {key}-description">'
        f'<title id="{key}-title">{text(title)}</title><desc id="{key}-description">{text(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def line(looks: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """A straight line."""
    return f'<line class="{looks}" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>'


def label(words: str, x: float, y: float, anchor: str = "start", looks: str = "tick") -> str:
    """Words in a drawing."""
    return f'<text class="{looks}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{text(words)}</text>'


def dot(looks: str, x: float, y: float, radius: float = 4.5) -> str:
    """A filled circle."""
    return f'<circle class="{looks}" cx="{x:g}" cy="{y:g}" r="{radius:g}"/>'


def diamond(looks: str, x: float, y: float, radius: float = 5) -> str:
    """A square that stands on a corner."""
    side = f"{radius:g}"
    return f'<path class="{looks}" d="M{x:g} {y - radius:g}l{side} {side}l-{side} {side}l-{side} -{side}z"/>'


def bar(looks: str, x: float, y: float, width: float, height: float) -> str:
    """A filled rectangle."""
    return f'<rect class="{looks}" x="{x:g}" y="{y:g}" width="{max(width, 0):g}" height="{max(height, 0):g}"/>'

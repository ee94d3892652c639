"""Draw lines, boxes, text and charts as SVG, the same file each time; for the docs/draw_*.py.

Coordinates are pixels from the top left. Everything stands on white, so that it can be read on any
page.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

Point: TypeAlias = tuple[float, float]

INK, GREY, PALE = "#263238", "#78909c", "#eceff1"
BLUE, GREEN, RED, ORANGE = "#1565c0", "#00897b", "#c62828", "#ef6c00"
IMAGES = Path(__file__).parent / "images"
_LETTER = 0.56  # of the size: about how wide a letter is


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


class Drawing:
    """Collect shapes; `text` is the description for readers who cannot see the drawing."""

    def __init__(self, width: float, height: float, text: str) -> None:
        self.width, self.height = width, height
        self._title = text
        self._parts: list[str] = []

    def line(
        self, points: Iterable[Point], colour: str = INK, width: float = 1.5, dash: str = ""
    ) -> None:
        """Draw a line through all points."""
        path = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"'
            f' stroke-linejoin="round"{dashed}/>'
        )

    def box(
        self, x: float, y: float, width: float, height: float, fill: str = PALE, edge: str = GREY
    ) -> None:
        """Draw a box."""
        self._parts.append(
            f'<rect x="{_number(x)}" y="{_number(y)}" width="{_number(width)}" '
            f'height="{_number(height)}" rx="6" fill="{fill}" stroke="{edge}" stroke-width="1.5"/>'
        )

    def dot(self, x: float, y: float, colour: str = BLUE, radius: float = 3) -> None:
        """Draw a dot."""
        self._parts.append(
            f'<circle cx="{_number(x)}" cy="{_number(y)}" r="{radius}" fill="{colour}"/>'
        )

    def cross(self, x: float, y: float, colour: str = RED, size: float = 3.5) -> None:
        """Draw a cross."""
        self.line([(x - size, y - size), (x + size, y + size)], colour)
        self.line([(x - size, y + size), (x + size, y - size)], colour)

    def arrow(self, *points: Point, colour: str = INK) -> None:
        """Draw a line that ends in a head; its last part is level or upright."""
        self.line(points, colour)
        (x, y), (from_x, from_y) = points[-1], points[-2]
        step_x = (x > from_x) - (x < from_x)
        step_y = (y > from_y) - (y < from_y)
        sides = [
            (x - 8 * step_x + side * 4 * abs(step_y), y - 8 * step_y + side * 4 * abs(step_x))
            for side in (-1, 1)
        ]
        corners = " ".join(f"{_number(a)},{_number(b)}" for a, b in [points[-1], *sides])
        self._parts.append(f'<polygon points="{corners}" fill="{colour}"/>')

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "middle",
        size: float = 14,
        colour: str = INK,
        bold: bool = False,
        turned: bool = False,
    ) -> None:
        """Write one line; (x, y) is on its base line."""
        weight = ' font-weight="bold"' if bold else ""
        turn = f' transform="rotate(-90 {_number(x)} {_number(y)})"' if turned else ""
        self._parts.append(
            f'<text x="{_number(x)}" y="{_number(y)}" font-size="{_number(size)}" fill="{colour}" '
            f'text-anchor="{anchor}"{weight}{turn}>{html.escape(text, quote=False)}</text>'
        )

    def label(self, x: float, y: float, width: float, lines: Sequence[str]) -> None:
        """Draw a box with lines of text, the first in bold; (x, y) is its top left."""
        self.box(x, y, width, 18 + 20 * len(lines))
        for row, text in enumerate(lines):
            size = 14 if row == 0 else 12.5
            assert len(text) * size * _LETTER < width, f"too wide for its box: {text!r}"
            self.text(x + width / 2, y + 24 + 20 * row, text, size=size, bold=row == 0)

    def __str__(self) -> str:
        width, height = _number(self.width), _number(self.height)
        title = html.escape(self._title, quote=True)
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                f'viewBox="0 0 {width} {height}" role="img" aria-label="{title}" '
                'font-family="system-ui, Helvetica, Arial, sans-serif">',
                f'<rect width="{width}" height="{height}" fill="#fff"/>',
                *self._parts,
                "</svg>\n",
            ]
        )


class Chart(Drawing):
    """A drawing with axes.

    Args:
        text: what the chart shows, in words.
        x, y: labels of the axes, and their first and last values.
        x_step, y_step: between ticks.
        x_names: what stands at the ticks of the x axis, instead of their values.
    """

    LEFT, RIGHT, TOP, BOTTOM = 58, 16, 14, 46

    def __init__(
        self,
        text: str,
        x: tuple[str, float, float],
        y: tuple[str, float, float],
        *,
        x_step: float,
        y_step: float,
        x_names: Sequence[str] = (),
        width: float = 720,
        height: float = 360,
    ) -> None:
        super().__init__(width, height, text)
        (x_name, *self._x_range), (y_name, *self._y_range) = x, y
        for number, value in enumerate(_ticks(*self._x_range, x_step)):
            name = x_names[number] if x_names else _number(value)
            self._tick([self.at(value, self._y_range[0]), self.at(value, self._y_range[1])])
            self.text(self.at(value, 0)[0], height - 28, name, size=12, colour=GREY)
        for value in _ticks(*self._y_range, y_step):
            place = self.at(self._x_range[0], value)
            self._tick([place, self.at(self._x_range[1], value)])
            name = _number(value)
            self.text(place[0] - 8, place[1] + 4, name, anchor="end", size=12, colour=GREY)
        self.text((self.LEFT + width - self.RIGHT) / 2, height - 8, x_name, size=13)
        middle = (self.TOP + height - self.BOTTOM) / 2
        self.text(18, middle, y_name, size=13, turned=True)

    def _tick(self, points: Iterable[Point]) -> None:
        self.line(points, "#cfd8dc", 1)

    def at(self, x: float, y: float) -> Point:
        """Return where values are on the drawing."""
        (x0, x1), (y0, y1) = self._x_range, self._y_range
        wide = self.width - self.LEFT - self.RIGHT
        high = self.height - self.TOP - self.BOTTOM
        return (
            self.LEFT + wide * (x - x0) / (x1 - x0),
            self.height - self.BOTTOM - high * (y - y0) / (y1 - y0),
        )

    def curve(
        self, points: Iterable[Point], colour: str = BLUE, width: float = 2, dash: str = ""
    ) -> None:
        """Draw a line through values."""
        self.line([self.at(*point) for point in points], colour, width, dash)

    def legend(self, rows: Sequence[tuple[str, str]], *, left: float = 12, top: float = 8) -> None:
        """Draw the legend at the top left."""
        wide = 40 + max(len(name) for _, name in rows) * 12 * _LETTER
        x, y = self.LEFT + left, self.TOP + top
        self.box(x, y, wide, 10 + 19 * len(rows), fill="#fff", edge="#cfd8dc")
        for row, (colour, name) in enumerate(rows):
            middle = y + 15 + 19 * row
            self.line([(x + 8, middle), (x + 26, middle)], colour, 3)
            self.text(x + 32, middle + 4, name, anchor="start", size=12)


def _ticks(first: float, last: float, step: float) -> list[float]:
    return [first + step * number for number in range(int((last - first) / step) + 1)]

"""Draw benchmarks/results/web.json as docs/images/rivals-*.svg: `python benchmarks/chart.py`.

Write the figures with `python benchmarks/web.py --json benchmarks/results/web.json` first.
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "benchmarks" / "results" / "web.json"
IMAGES = ROOT / "docs" / "images"
OURS = "rate-limiter-c"
BARS = {
    "ASGI middleware": {"ASGI, plain": OURS, "asgi-ratelimit": "asgi-ratelimit"},
    "FastAPI route": {
        "FastAPI, dependency": OURS,
        "throttled-py, hand-written dependency": "throttled-py",
        "fastapi-limiter, dependency": "fastapi-limiter",
        "slowapi, decorator": "slowapi",
    },
    "Flask view": {"Flask, decorator": OURS, "Flask-Limiter, decorator": "Flask-Limiter"},
}
THEMES = {
    "light": {"ink": "#1f2328", "grey": "#59636e", "ours": "#00897b", "other": "#b0bec5"},
    "dark": {"ink": "#f0f6fc", "grey": "#9198a1", "ours": "#26a69a", "other": "#546e7a"},
}
THEMES["page"] = THEMES["light"]
TITLE = "CPU time that a limiter adds to an allowed request, in µs"
NOTE = "Median and quartiles. Each group has its own scale. Shorter is better."
WIDTH, ROW, LEFT, SPAN = 720, 24, 150, 400


def bars(title: str, groups: dict[str, dict[str, Any]], note: str, theme: str) -> str:
    """Return a bar chart as SVG: on a transparent ground, on white with the theme "page".

    Args:
        title: what is measured, with the unit.
        groups: by heading, the spread of each bar by its label.
        note: the last line.
        theme: a key of THEMES.
    """
    colours = THEMES[theme]
    parts: list[str] = []

    def text(x: float, y: float, words: str, colour: str = "ink", more: str = "") -> None:
        parts.append(
            f'<text x="{x:g}" y="{y:g}" fill="{colours[colour]}" {more}>{html.escape(words)}</text>'
        )

    text(0, 16, title, more='font-weight="bold"')
    y = 26
    for group, spreads in groups.items():
        largest = max(spread["median"] for spread in spreads.values())
        y += 22
        text(0, y, group, "grey")
        for label, spread in spreads.items():
            y += ROW
            median, low, high = spread.values()
            colour = colours["ours" if label.startswith(OURS) else "other"]
            wide = SPAN * median / largest
            text(LEFT - 10, y, label, more='text-anchor="end"')
            parts.append(
                f'<rect x="{LEFT}" y="{y - 13}" width="{wide:.1f}" height="17" fill="{colour}"/>'
            )
            quartiles = f"  ({number(low)} to {number(high)})" if low < high else ""
            text(LEFT + wide + 8, y, f"{number(median)}{quartiles}")
    y += 26
    text(0, y, note, "grey")
    ground = f'<rect width="{WIDTH}" height="{y + 10}" fill="#fff"/>\n' if theme == "page" else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 10}" width="{WIDTH}" '
        f'height="{y + 10}" role="img" aria-label="{html.escape(title)}" '
        'font-family="system-ui, Helvetica, Arial, sans-serif" font-size="13">\n'
        + ground
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def number(value: float) -> str:
    """Return a figure with thousands separators, and one decimal if it is small."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def chart(figures: dict[str, Any], theme: str) -> str:
    """Return the chart of the time that each limiter adds to a request."""
    added = {row["name"]: row["added_us"] for row in figures["cases"] if row["base"]}
    groups = {
        group: {label: added[name] for name, label in labels.items()}
        for group, labels in BARS.items()
    }
    return bars(TITLE, groups, NOTE, theme)


def charts() -> dict[str, str]:
    """Return the content of each file, by its name."""
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    return {f"rivals-{theme}.svg": chart(figures, theme) for theme in ("light", "dark")}


if __name__ == "__main__":
    for name, content in charts().items():
        (IMAGES / name).write_text(content, encoding="utf-8")

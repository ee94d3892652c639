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
WIDTH, ROW, LEFT, SPAN = 720, 24, 150, 400


def chart(figures: dict[str, Any], theme: str) -> str:
    """Return the chart of the time that each limiter adds, as SVG on a transparent ground."""
    colours = THEMES[theme]
    added = {row["name"]: row["added_us"] for row in figures["cases"] if row["base"]}
    parts: list[str] = []

    def text(x: float, y: float, words: str, colour: str = "ink", more: str = "") -> None:
        parts.append(
            f'<text x="{x:g}" y="{y:g}" fill="{colours[colour]}" {more}>{html.escape(words)}</text>'
        )

    text(
        0,
        16,
        "CPU time that a limiter adds to an allowed request, in µs",
        more='font-weight="bold"',
    )
    y = 26
    for group, bars in BARS.items():
        largest = max(added[name]["median"] for name in bars)
        y += 22
        text(0, y, group, "grey")
        for name, label in bars.items():
            y += ROW
            median, low, high = added[name].values()
            colour = colours["ours" if label == OURS else "other"]
            wide = SPAN * median / largest
            text(LEFT - 10, y, label, more='text-anchor="end"')
            parts.append(
                f'<rect x="{LEFT}" y="{y - 13}" width="{wide:.1f}" height="17" fill="{colour}"/>'
            )
            text(LEFT + wide + 8, y, f"{median:.1f}  ({low:.1f} to {high:.1f})")
    y += 26
    text(0, y, "Median and quartiles. Each group has its own scale. Shorter is better.", "grey")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 10}" width="{WIDTH}" '
        f'height="{y + 10}" role="img" aria-label="Time that limiters add to a request" '
        'font-family="system-ui, Helvetica, Arial, sans-serif" font-size="13">\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def charts() -> dict[str, str]:
    """Return the content of each file, by its name."""
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    return {f"rivals-{theme}.svg": chart(figures, theme) for theme in THEMES}


if __name__ == "__main__":
    for name, content in charts().items():
        (IMAGES / name).write_text(content, encoding="utf-8")

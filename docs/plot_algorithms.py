"""Draw docs/images/algorithms.svg: what each algorithm admits at a window's edge.

    python docs/plot_algorithms.py

A client sends a request every tenth of a second, from 30 s before the edge of a minute to 100 s
after it; its limit is 60 a minute in every case. The engine decides, at the times of a ManualClock.
"""

from __future__ import annotations

from rate_limiter import Limit, ManualClock, RateLimiter
from svg import BLUE, GREEN, GREY, IMAGES, ORANGE, RED, Chart

COUNT, WINDOW_S = 60, 60
BEFORE_S, AFTER_S, STEP_S = 30, 100, 0.1
LIMITS = {
    "token bucket, 60/minute": Limit(COUNT, COUNT / WINDOW_S),
    "token bucket, 60/minute; burst=10": Limit(10, COUNT / WINDOW_S),
    "fixed window": Limit.fixed_window(COUNT, WINDOW_S),
    "sliding window": Limit.sliding_window(COUNT, WINDOW_S),
}
COLOURS = (BLUE, ORANGE, GREEN, RED)


def admitted(limit: Limit) -> list[float]:
    """Return the times of the requests that pass, in seconds from the edge."""
    clock = ManualClock(10 * WINDOW_S * 10**9 - BEFORE_S * 10**9)
    limiter = RateLimiter(limit, clock=clock)
    times = []
    for step in range(round((BEFORE_S + AFTER_S) / STEP_S)):
        if limiter.allow("client"):
            times.append(round(step * STEP_S - BEFORE_S, 6))
        clock.advance(STEP_S)
    return times


def most_in(times: list[float], stretch_s: float) -> int:
    """Return how many pass in the busiest stretch of such a length."""
    return max(sum(start <= time < start + stretch_s for time in times) for start in times)


def drawings() -> dict[str, str]:
    """Return the files of docs/images by name."""
    chart = Chart(
        "Requests that pass over time, for four limits, around the edge of a window",
        ("seconds from the edge of a window; ten requests come each second", -BEFORE_S, AFTER_S),
        ("requests that have passed", 0, 240),
        x_step=10,
        y_step=20,
        height=400,
    )
    for edge_s in (0, WINDOW_S):
        chart.curve([(edge_s, 0), (edge_s, 240)], GREY, 1, "4 4")
    rows = []
    for colour, (name, limit) in zip(COLOURS, LIMITS.items(), strict=True):
        times = admitted(limit)
        steps = [(time, count + rise) for count, time in enumerate(times) for rise in (0, 1)]
        chart.curve([*steps, (AFTER_S, len(times))], colour)
        rows.append((colour, f"{name}: {most_in(times, 60)} in the busiest minute"))
    chart.legend(rows)
    return {"algorithms.svg": str(chart)}


if __name__ == "__main__":
    for file, text in drawings().items():
        (IMAGES / file).write_text(text, encoding="utf-8")

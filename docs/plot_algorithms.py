"""Draw docs/images/algorithms.svg and sliding.svg: what each algorithm admits.

    python docs/plot_algorithms.py

algorithms.svg: a client sends a request every tenth of a second, from 30 s before the edge of a
minute to 100 s after it; its limit is 60 a minute in every case. sliding.svg: the share of its
limit that a steady client gets, for limits of 1 to 10,000 a minute. The engine decides, at the
times of a ManualClock.
"""

from __future__ import annotations

import math
from typing import Protocol

from rate_limiter import Limit, ManualClock, RateLimiter
from svg import BLUE, GREEN, GREY, IMAGES, ORANGE, RED, Chart

COUNT, WINDOW_S = 60, 60
COUNTS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
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


class Allows(Protocol):
    """What decides about a client at the times of a clock."""

    def allow(self, key: str, /) -> bool: ...


class TwoCounters:
    """A sliding window by two counters, the older one weighted by its overlap and rounded up."""

    def __init__(self, count: int, clock: ManualClock) -> None:
        self._count, self._clock = count, clock
        self._number, self._current, self._previous = 0, 0, 0

    def allow(self, _: str, /) -> bool:
        number, into_ns = divmod(self._clock.now_ns, WINDOW_S * 10**9)
        if number != self._number:
            self._previous = self._current if number == self._number + 1 else 0
            self._number, self._current = number, 0
        left_ns = WINDOW_S * 10**9 - into_ns
        used = self._current - (-self._previous * left_ns // (WINDOW_S * 10**9))
        self._current += used < self._count
        return used < self._count


def share(limiter: Allows, clock: ManualClock, count: int) -> float:
    """Return the share of its count that a client gets which tries twice as often, or each second.

    The first windows are not counted.
    """
    tries = max(WINDOW_S, 2 * count)
    admitted = 0
    for number in range(12 * tries):
        admitted += limiter.allow("client") and number >= 4 * tries
        clock.advance_ns(WINDOW_S * 10**9 // tries)
    return admitted / (8 * count)


def shares() -> dict[int, tuple[float, float]]:
    """Return for counts the shares by the sliding window of the engine and by two counters."""
    found = {}
    for count in COUNTS:
        clocks = [ManualClock(10**12 + 17 * 10**9) for _ in range(2)]
        engine = RateLimiter(Limit.sliding_window(count, WINDOW_S), clock=clocks[0])
        counters = TwoCounters(count, clocks[1])
        found[count] = (share(engine, clocks[0], count), share(counters, clocks[1], count))
    return found


def sliding_chart() -> Chart:
    """Draw what a steady client gets of sliding windows."""
    chart = Chart(
        "The share of its limit that a steady client gets, for counts from 1 to 10,000",
        ("count of the limit, a minute", 0, 4),
        ("share of the count that passes", 0, 1.2),
        x_step=1,
        y_step=0.2,
        x_names=("1", "10", "100", "1,000", "10,000"),
        height=320,
    )
    chart.curve([(0, 0.98), (4, 0.98)], GREY, 1, "4 4")
    found = shares()
    for which, colour in ((1, RED), (0, BLUE)):
        points = [(math.log10(count), both[which]) for count, both in found.items()]
        chart.curve(points, colour)
        for point in points:
            chart.dot(*chart.at(*point), colour)
    rows = [(BLUE, "sliding window"), (RED, "two weighted counters"), (GREY, "0.98")]
    chart.legend(rows, left=420, top=130)
    return chart


def edge_chart() -> Chart:
    """Draw what passes around the edge of a window."""
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
    return chart


def drawings() -> dict[str, str]:
    """Return the files of docs/images by name."""
    return {"algorithms.svg": str(edge_chart()), "sliding.svg": str(sliding_chart())}


if __name__ == "__main__":
    for file, text in drawings().items():
        (IMAGES / file).write_text(text, encoding="utf-8")

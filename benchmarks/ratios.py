"""Ratios of times that are taken in one run, with alternating cases."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def ratios(cases: dict[str, Callable[[], None]], base: str, rounds: int) -> None:
    """Run the cases alternately, a thousand calls each; print their times relative to one case.

    Prints the median of the ratios, their quartiles, and the fewest microseconds per call.
    """
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, run in cases.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    for name, taken in times.items():
        shares = [mine / theirs for mine, theirs in zip(taken, times[base], strict=True)]
        low, median, high = statistics.quantiles(shares, n=4)
        best_us = min(taken) * 1e3
        print(f"{name:40} {median:6.2f}  ({low:.2f}..{high:.2f})   {best_us:.2f} us at best")

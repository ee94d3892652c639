"""Ratios of times that are taken in one run, with alternating cases."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

WIDTH = 60  # of names
HEADING = f"{'figure':<{WIDTH}} {'median':>7}  {'quartiles':>16}  {'target':>8}"


class Ratio(NamedTuple):
    """A figure with its target."""

    name: str
    median: float
    low: float  # quartiles
    high: float
    target: float
    at_least: bool  # else at most

    @property
    def is_met(self) -> bool:
        return self.median >= self.target if self.at_least else self.median <= self.target

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        verdict = "met" if self.is_met else "MISSED"
        spread = f"{self.low:.2f} .. {self.high:.2f}"
        target = f"{sign} {self.target:5.2f}  {verdict}"
        return f"{self.name:<{WIDTH}} {self.median:7.2f}  {spread:>16}  {target}"


def quartiles(name: str, ratios: list[float], target: float, *, at_least: bool = False) -> Ratio:
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(name, median, low, high, target, at_least)


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

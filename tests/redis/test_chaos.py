"""The chaos run for half a minute, and its checker of bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.chaos import Damage, excess_of, run
from support.chaos_stores import CAPACITY, RATE

SLACK = 2  # tokens, for the time that a call takes


def at(times: list[float]) -> list[tuple[float, float]]:
    return [(time_s, time_s + 0.001) for time_s in times]


def test_what_a_bucket_grants_is_within_the_bound() -> None:
    full = [100.0] * CAPACITY
    refilled = [100 + (i + 1) / RATE for i in range(50)]
    assert excess_of(at(full + refilled), []) == 0


@pytest.mark.parametrize("late_s", [0.0, 30.0])
def test_more_than_a_bucket_grants_is_found(late_s: float) -> None:
    """Also where the whole run is within the bound, because of a time without requests."""
    full = [100.0] * CAPACITY
    again = [100.1 + late_s] * (CAPACITY + SLACK) + [100.2 + late_s] * 3
    assert excess_of(at(full + again), []) > 0


def test_a_lost_store_may_grant_a_capacity_once() -> None:
    full, again = [100.0] * CAPACITY, [100.1] * CAPACITY
    lost = Damage("alone", "kill", 100.05, 100.1, CAPACITY)
    assert excess_of(at(full + again), [lost]) == 0
    assert excess_of(at(full + again + [100.2] * (SLACK + 2)), [lost]) > 0
    assert excess_of(at(full + again), [Damage("alone", "kill", 101, 102, CAPACITY)]) > 0


def test_memories_of_processes_grant_the_limit_again() -> None:
    assert excess_of(at([100.0] * 3 * CAPACITY), [], memories=2) == 0
    assert excess_of(at([100.0] * (3 * CAPACITY + SLACK)), [], memories=2) > 0


@pytest.mark.unsanitized("eight processes and fifteen servers are enough for a machine")
def test_chaos(tmp_path: Path) -> None:
    """By hand: `python -m support.chaos`, which is less patient."""
    report = run(1, 15, tmp_path, margin_s=20, healthy_s=30, quiet_s=10)
    print(report)
    assert not report.wrong, report
    assert {one.store for one in report.damages} == {"alone", "watched", "cluster"}
    assert report.calls > 500
    assert report.grants > CAPACITY

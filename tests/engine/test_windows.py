"""Windows in memory: values, texts, guarantees."""

from __future__ import annotations

import contextlib
import math
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rate_limiter import AsyncRateLimiter, Limit, ManualClock, RateLimiter

NS = 10**9

# --- The value ---


def test_values() -> None:
    fixed = Limit.fixed_window(20, 60)
    assert (fixed.capacity, fixed.window_s, fixed.algorithm) == (20, 60, "fixed_window")
    assert repr(fixed) == "Limit.fixed_window(20, 60)"
    assert str(fixed) == "20/minute; window=fixed"
    assert str(Limit.sliding_window(5, 90)) == "5/90 seconds; window=sliding"
    assert Limit.sliding_window(5, 90).algorithm == "sliding_window"
    assert fixed != Limit.sliding_window(20, 60) != Limit(20, 20 / 60)
    assert len({fixed, Limit.fixed_window(20, 60)}) == 1
    assert pickle.loads(pickle.dumps(fixed)) == fixed
    assert Limit(3, 1.5).period_s == 2
    assert Limit(3, 0).period_s == math.inf
    assert fixed.period_s == 60
    with pytest.raises(AttributeError):
        fixed.capacity = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("20/minute; window=fixed", Limit.fixed_window(20, 60)),
        ("20 per minute ;window = Sliding", Limit.sliding_window(20, 60)),
        ("5 per 30 seconds; window=sliding", Limit.sliding_window(5, 30)),
        ("5/0.5 minutes; window=fixed", Limit.fixed_window(5, 30)),
        ("1000/day; window=fixed", Limit.fixed_window(1000, 86400)),
    ],
)
def test_texts(text: str, limit: Limit) -> None:
    assert Limit.parse(text) == limit
    assert Limit.parse(str(limit)) == limit
    assert Limit.parse(str(limit).replace(" ", "")) == limit


def test_several() -> None:
    limiter = RateLimiter("5/second; 20/minute; window=sliding; 100/hour; burst=30")
    assert [one.algorithm for one in limiter.limits] == [
        "token_bucket",
        "sliding_window",
        "token_bucket",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20/minute; window=", "'fixed' or 'sliding' at position 18"),
        ("20/minute; window=tumbling", "'fixed' or 'sliding' at position 18"),
        ("20/minute; window=fixed x", "';' or the end at position 24"),
        ("2.5/minute; window=fixed", "count must be a whole number"),
        ("20/0.5 seconds; window=fixed", "window_s must be a whole number"),
        ("3e9/minute; window=fixed", "count must be a whole number from 0 to 2,000,000,000"),
        ("0.2/minute; window=fixed", "count must be a whole number"),
        ("20/minute; window=fixed; burst=3", "a number of requests"),
    ],
)
def test_bad_texts(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match="invalid limit") as caught:
        Limit.parse(text)
    assert expected in str(caught.value)


@pytest.mark.parametrize("make", [Limit.fixed_window, Limit.sliding_window])
@pytest.mark.parametrize(
    ("count", "window_s"), [(1.5, 60), (-1, 60), (5, 0), (5, 0.5), (5, math.inf)]
)
def test_bad_values(make: object, count: float, window_s: float) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=r"must be a whole number from [01] to"):
        make(count, window_s)


# --- Behaviour ---


def test_fixed_window_edges() -> None:
    clock = ManualClock(119 * NS)
    limiter = RateLimiter(Limit.fixed_window(3, 60), clock=clock)
    assert [limiter.allow("k") for _ in range(4)] == [True, True, True, False]
    assert limiter.hit("k").retry_after == limiter.hit("k").reset_after == 1
    clock.advance_ns(NS - 1)
    assert not limiter.allow("k")
    clock.advance_ns(1)
    assert [limiter.allow("k") for _ in range(4)] == [True, True, True, False]
    assert limiter.peek("new").reset_after == 60


def test_windows_are_aligned_to_the_wall_clock() -> None:
    for clock in ("monotonic", "coarse"):
        limiter = RateLimiter(Limit.fixed_window(3, 3600), clock=clock)
        left_s = limiter.peek("k").reset_after
        assert left_s == pytest.approx(3600 - time.time() % 3600, abs=1) or left_s > 3599


@given(
    count=st.integers(1, 30),
    window_s=st.integers(1, 100),
    steps=st.lists(st.floats(0, 1.5), min_size=1, max_size=150),
    start_ns=st.integers(0, 10**18),
)
def test_sliding_window_keeps_its_bound(
    count: int, window_s: int, steps: list[float], start_ns: int
) -> None:
    """In any stretch t at most count * (1 + t / window) pass."""
    clock = ManualClock(start_ns)
    limiter = RateLimiter(Limit.sliding_window(count, window_s), clock=clock)
    admitted: list[int] = []
    for step in steps:
        clock.advance_ns(int(step * window_s * NS / count))
        while limiter.allow("k"):
            admitted.append(clock.now_ns)
    window_ns = window_s * NS
    for i, first in enumerate(admitted):
        for j in range(i, len(admitted)):
            t_ns = admitted[j] - first
            assert (j - i + 1) * window_ns <= count * (window_ns + t_ns)


@given(
    count=st.integers(1, 30),
    window_s=st.integers(1, 100),
    steps=st.lists(st.integers(0, 200 * NS), min_size=1, max_size=60),
)
def test_fixed_window_is_exact(count: int, window_s: int, steps: list[int]) -> None:
    clock = ManualClock()
    limiter = RateLimiter(Limit.fixed_window(count, window_s), clock=clock)
    used: dict[int, int] = {}
    for step in steps:
        clock.advance_ns(step)
        window = clock.now_ns // (window_s * NS)
        expected = used.get(window, 0) < count
        assert limiter.allow("k") == expected
        used[window] = used.get(window, 0) + expected


@given(
    limit=st.sampled_from([Limit(7, 0.5), Limit.fixed_window(7, 13), Limit.sliding_window(7, 13)]),
    steps=st.lists(
        st.tuples(st.sampled_from(["hit", "charge", "refund"]), st.integers(0, 9), st.floats(0, 9)),
        max_size=40,
    ),
)
def test_waiting_is_exact(limit: Limit, steps: list[tuple[str, int, float]]) -> None:
    """Waiting retry_after passes; a nanosecond less does not."""
    clock = ManualClock(NS)
    limiter = RateLimiter(limit, clock=clock)
    for method, cost, pause_s in steps:
        getattr(limiter, method)("k", cost)
        clock.advance(pause_s)
        denied = limiter.peek("k", cost)
        if not denied and math.isfinite(denied.retry_after):
            clock.advance_ns(denied.retry_after_ns - 1)
            assert not limiter.peek("k", cost)
            clock.advance_ns(1)
            assert limiter.peek("k", cost)


def test_a_part_of_a_request_counts_as_one() -> None:
    limiter = RateLimiter(Limit.fixed_window(3, 60), clock=ManualClock())
    assert limiter.hit("k", 0.25).remaining == 2


def test_a_configured_cost_must_be_whole() -> None:
    from rate_limiter.limit import check_cost

    with pytest.raises(ValueError, match="cost must be whole for the window '3/minute"):
        check_cost(0.5, (Limit.fixed_window(3, 60),))


# --- Charges, and all limits at once ---


def test_charge() -> None:
    clock = ManualClock()
    limiter = RateLimiter(Limit(10, 1), clock=clock)
    charged = limiter.charge("k", 15)
    assert (charged.allowed, charged.remaining, charged.reset_after) == (True, 0, 15)
    denied = limiter.hit("k")
    assert (denied.allowed, denied.retry_after) == (False, 6)
    limiter.charge("k", cost=1e300)
    assert limiter.peek("k", 1).retry_after == 11  # a debt is one capacity at most
    limiter.refund("k", 100)
    assert limiter.peek("k").remaining == 10
    with pytest.raises(ValueError, match="cost"):
        limiter.charge("k", -1)
    with pytest.raises(TypeError, match="key"):
        limiter.charge(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["10/hour", "10/hour; window=fixed", "10/hour; window=sliding"])
def test_a_refund_gives_back_what_it_says(text: str) -> None:
    limiter = RateLimiter(text, clock=ManualClock(NS))
    limiter.charge("k", 20)
    limiter.refund("k", 11)  # of a debt too
    assert limiter.peek("k").remaining == 1
    limiter.refund("k", 1e300)
    assert limiter.peek("k").remaining == 10


@pytest.mark.parametrize("kind", ["fixed", "sliding"])
def test_parts_of_a_request_are_not_given_back(kind: str) -> None:
    limiter = RateLimiter(f"10/hour; window={kind}", clock=ManualClock(NS))
    admitted = 0
    for _ in range(50):
        if limiter.allow("k"):
            admitted += 1
            limiter.refund("k", 0.1)
    assert admitted == 10


def test_a_debt_survives_a_step_of_the_clock() -> None:
    clock = ManualClock(NS)
    limiter = RateLimiter(Limit(2.0**50 - 2, 5e8), clock=clock)
    limiter.charge("k", 2.0**52)
    clock.set_ns(NS - 20)
    assert not limiter.peek("k")


@pytest.mark.parametrize("store", ["memory", "shared"])
@pytest.mark.parametrize("make", [Limit.fixed_window, Limit.sliding_window])
@pytest.mark.parametrize("count", [3, 20])
@pytest.mark.parametrize("back_s", [50, 60, 7 * 86400])
def test_a_clock_that_is_set_back_locks_out_for_one_window(
    tmp_path: Path, store: str, make: Callable[[int, int], Limit], count: int, back_s: int
) -> None:
    if store == "shared" and sys.platform != "linux":
        pytest.skip("shared memory needs Linux")
    clock = ManualClock(1_800_000_055 * NS)  # 55 s into a minute
    where: dict[str, Any] = {"store": f"shared://{tmp_path}/file"} if store == "shared" else {}
    limiter = RateLimiter(make(count, 60), clock=clock, max_keys=100, **where)
    assert limiter.hit("k", count)
    clock.set_ns(clock.now_ns - back_s * NS)
    first = limiter.hit("k")
    assert not first
    assert first.retry_after <= 60
    for step_s in (1.0, first.retry_after / 2):
        clock.advance(step_s)
        assert not limiter.hit("k")
    clock.advance(first.retry_after - 1 - first.retry_after / 2)
    assert limiter.hit("k", count)


def test_counts_are_plain_numbers() -> None:
    from decimal import Decimal
    from fractions import Fraction

    for five in (Decimal(5), Fraction(5), 5.0):
        assert Limit.fixed_window(five, 60) == Limit.fixed_window(5, 60)  # type: ignore[arg-type]


def test_each() -> None:
    limiter = RateLimiter("10/second; 15/minute; window=fixed", clock=ManualClock(0))
    overall, *each = limiter.hit_each("k", 4)
    assert overall == each[0]
    assert [(one.limit, one.remaining) for one in each] == [(10, 6), (15, 11)]
    overall, *each = limiter.hit_each("k", 11.5)
    assert not overall
    assert [one.allowed for one in each] == [False, False]
    assert limiter.peek_each("k", 0)[1:] == tuple(limiter.hit_each("k", 0)[1:])
    overall, *each = limiter.hit_each("k", 8)
    assert [one.allowed for one in each] == [False, True]
    assert overall == each[0]


async def test_awaited() -> None:
    limiter = AsyncRateLimiter("10/second; 15/minute; window=fixed", clock=ManualClock(0))
    assert (await limiter.charge("k", 12)).remaining == 0
    assert [one.remaining for one in await limiter.peek_each("k", 0)] == [0, 0, 3]
    assert [one.allowed for one in await limiter.hit_each("k", 2)] == [False, False, True]


def test_inspect() -> None:
    limiter = RateLimiter("10/second; 15/minute; window=fixed", clock=ManualClock(0))
    limiter.hit("k", 2)
    assert [one.tokens for one in limiter.inspect("k")] == [8, 13]


# --- Other limits for the same keys ---


def test_keep() -> None:
    from rate_limiter._core import Limiter

    clock = ManualClock(NS)
    before = Limiter([(10, 1), (20, 60, True)], clock=clock)
    before.hit("k", 6)
    after = Limiter([(100, 5), (40, 60, True)], clock=clock, keep=before)
    assert [one.remaining for one in after._peek_each("k", 0)[1:]] == [70, 34]
    assert after.stats()["allowed"] == 1
    for limits in ([(10, 1)], [(10, 1), (20, 60, False)], [(20, 60, True), (10, 1)]):
        with pytest.raises(ValueError, match="limits of the same kinds"):
            Limiter(limits, clock=clock, keep=before)  # type: ignore[arg-type]
    import sys

    count = sys.getrefcount(clock)
    failing = Limiter.__new__(Limiter)
    for _ in range(50):
        with pytest.raises(ValueError, match="limits of the same kinds"):
            failing.__init__([(10, 1)], clock=clock, keep=before)  # type: ignore[misc]
    del failing
    assert sys.getrefcount(clock) == count
    with pytest.raises(ValueError, match="the same clock"):
        Limiter([(10, 1), (20, 60, True)], keep=before)
    with pytest.raises(TypeError, match="keep must be a Limiter or None, not int"):
        Limiter([(10, 1)], keep=3)  # type: ignore[arg-type]


def test_no_text_is_slow() -> None:
    for text in ("9" * 500, " " * 500, ";" * 500, "1/s;" * 125, "1 per " + "9" * 490, "a" * 10**6):
        began_s = time.perf_counter()
        with contextlib.suppress(ValueError):
            Limit.parse(text)
        assert time.perf_counter() - began_s < 20

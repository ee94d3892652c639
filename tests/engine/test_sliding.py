"""Sliding windows in memory and shared memory: steady callers, and a reference with exact times."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rate_limiter import Limit, ManualClock, RateLimiter

NS = 10**9
WINDOW_S = 60
COUNTS = [1, 3, 5, 10, 20, 50, 100, 1000, 10000]


def limiter_in(store: str, limit: Limit, clock: ManualClock, folder: Path) -> RateLimiter:
    if store == "memory":
        return RateLimiter(limit, clock=clock)
    return RateLimiter(limit, store=f"shared://{folder}/table", clock=clock, max_keys=100)


# --- Steady callers ---


@pytest.mark.parametrize("store", ["memory", "shared"])
@pytest.mark.parametrize("count", COUNTS)
def test_a_steady_caller_gets_the_count(store: str, count: int, tmp_path: Path) -> None:
    """Tries at the limit, somewhat above it and far above it; from the edge and from elsewhere."""
    for number, tries in enumerate((count, count * 3 // 2, max(60, 2 * count))):
        if WINDOW_S * NS % tries:
            continue
        clock = ManualClock(1000 * WINDOW_S * NS + number * 17_654_321_987)
        limiter = limiter_in(store, Limit.sliding_window(count, WINDOW_S), clock, tmp_path)
        key = f"client {number}"
        windows = 3 if count > 1000 else 12
        admitted = 0
        for _ in range(windows * tries):
            admitted += limiter.allow(key)
            clock.advance_ns(WINDOW_S * NS // tries)
        assert 0.98 * windows * count <= admitted <= (windows + 1) * count


@pytest.mark.parametrize(
    ("count", "cost", "tries"), [(10, 5, 2), (10, 5, 60), (10, 2, 12), (100, 25, 5), (1000, 90, 20)]
)
def test_a_steady_caller_of_a_higher_cost(count: int, cost: int, tries: int) -> None:
    clock = ManualClock(1000 * WINDOW_S * NS + 7 * NS)
    limiter = RateLimiter(Limit.sliding_window(count, WINDOW_S), clock=clock)
    admitted = 0
    for _ in range(30 * tries):
        admitted += cost * limiter.allow("k", cost)
        clock.advance_ns(WINDOW_S * NS // tries)
    most = count // cost * cost
    assert 0.98 * 30 * most <= admitted <= 30 * count + count


def test_one_a_minute_for_ten_hours() -> None:
    clock = ManualClock(10**18)
    limiter = RateLimiter("1/minute; window=sliding", clock=clock)
    admitted = 0
    for _ in range(36_000):
        admitted += limiter.allow("k")
        clock.advance(1)
    assert admitted == 600


# --- A reference with exact times ---


class Exact:
    """A log of all times, asked in their order."""

    def __init__(self, count: int, window_ns: int) -> None:
        self.count, self.window_ns = count, window_ns
        self.times: deque[int] = deque()

    def used(self, now_ns: int) -> int:
        while self.times and self.times[0] <= now_ns - self.window_ns:
            self.times.popleft()
        return len(self.times)

    def wait_ns(self, now_ns: int, cost: int) -> int:
        """Return the time until a cost passes; 0: now."""
        excess = self.used(now_ns) + cost - self.count
        return self.times[excess - 1] + self.window_ns - now_ns if excess > 0 else 0

    def add(self, now_ns: int, cost: int) -> None:
        self.times.extend([now_ns] * cost)


@settings(max_examples=30)
@given(
    count=st.integers(1, 40),
    tries=st.sampled_from([1, 1.2, 1.5, 2, 3.7]),
    start_ns=st.integers(0, 10**18),
)
def test_odd_intervals_lose_little_beside_exact_times(
    count: int, tries: float, start_ns: int
) -> None:
    """Also where no limiter with times of requests admits the whole count."""
    clock = ManualClock(start_ns)
    limiter = RateLimiter(Limit.sliding_window(count, WINDOW_S), clock=clock)
    reference = Exact(count, WINDOW_S * NS)
    step_ns = int(WINDOW_S * NS / (count * tries))
    admitted = exact = 0
    for _ in range(int(20 * count * tries)):
        admitted += limiter.allow("k")
        if reference.wait_ns(clock.now_ns, 1) == 0:
            reference.add(clock.now_ns, 1)
            exact += 1
        clock.advance_ns(step_ns)
    assert admitted >= 0.98 * exact - 1


@given(
    count=st.integers(1, 8),
    window_s=st.integers(1, 100),
    tries=st.lists(
        st.tuples(st.floats(0, 1.5) | st.just(1.0), st.integers(1, 9) | st.just(1)),
        min_size=1,
        max_size=80,
    ),
    start_ns=st.integers(0, 10**18),
)
def test_counts_up_to_eight_are_exact(
    count: int, window_s: int, tries: list[tuple[float, int]], start_ns: int
) -> None:
    """At any cost: allowed, remaining and retry_after are those of a log of all times."""
    clock = ManualClock(start_ns)
    limiter = RateLimiter(Limit.sliding_window(count, window_s), clock=clock)
    reference = Exact(count, window_s * NS)
    for step, cost in tries:
        clock.advance_ns(int(step * window_s * NS / count))
        now_ns = clock.now_ns
        decision = limiter.hit("k", cost)
        if cost > count:
            assert decision.retry_after == math.inf
            continue
        assert decision.retry_after_ns == reference.wait_ns(now_ns, cost)
        if decision:
            reference.add(now_ns, cost)
        assert decision.remaining == count - reference.used(now_ns)


Tries = list[tuple[float, int]]


@given(
    count=st.integers(3, 40),
    window_s=st.integers(1, 100),
    tries=st.lists(st.tuples(st.floats(0, 1.1), st.integers(1, 9)), min_size=1, max_size=150),
    start_ns=st.integers(0, 10**18),
)
def test_any_costs_keep_the_bound(count: int, window_s: int, tries: Tries, start_ns: int) -> None:
    """In any stretch t at most count * (1 + t / window), t to the next nanosecond."""
    clock = ManualClock(start_ns)
    limiter = RateLimiter(Limit.sliding_window(count, window_s), clock=clock)
    window_ns = window_s * NS
    admitted: list[tuple[int, int]] = []
    for step, cost in tries:
        clock.advance_ns(int(step**3 * window_ns))
        while limiter.allow("k", cost):
            admitted.append((clock.now_ns, cost))
    for i, (first_ns, _) in enumerate(admitted):
        units = 0
        for time_ns, cost in admitted[i:]:
            units += cost
            assert units * window_ns <= count * (window_ns + time_ns - first_ns + 1)


@given(
    count=st.integers(1, 40),
    cost=st.integers(1, 5),
    burst=st.integers(1, 40),
    start_ns=st.integers(0, 10**18),
)
def test_a_burst_leaves_at_once(count: int, cost: int, burst: int, start_ns: int) -> None:
    """Requests at one time all count for one window, wherever its edge is."""
    clock = ManualClock(start_ns)
    limiter = RateLimiter(Limit.sliding_window(count, WINDOW_S), clock=clock)
    admitted = sum(limiter.allow("k", cost) for _ in range(burst))
    assert admitted == min(burst, count // cost)
    for passed_ns, used in ((0, admitted * cost), (WINDOW_S * NS - 1, admitted * cost)):
        clock.set_ns(start_ns + passed_ns)
        assert limiter.peek("k").remaining == count - used
    clock.advance_ns(1)
    assert limiter.peek("k").remaining == count


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["hit", "charge", "refund", "peek"]),
            st.integers(0, 9),
            st.floats(0, 20) | st.just(0.0),
        ),
        max_size=60,
    )
)
def test_a_refund_gives_back_what_it_says_at_any_time(
    steps: list[tuple[str, int, float]],
) -> None:
    clock = ManualClock(NS)
    limiter = RateLimiter(Limit.sliding_window(7, 13), clock=clock)
    for method, cost, pause_s in steps:
        clock.advance(pause_s)
        before = limiter.peek("k", 0).remaining
        result = getattr(limiter, method)("k", cost)
        after = limiter.peek("k", 0).remaining
        if method == "hit":
            assert after == (before - cost if result else before)
        elif method == "charge":
            assert after == max(0, before - cost)
        elif method == "refund":
            assert before <= after <= before + cost
            assert after == before + cost or before == 0 or after == 7


# --- Several limits ---


def test_beside_other_limits() -> None:
    clock = ManualClock(1000 * NS)
    limiter = RateLimiter(
        "100/second; 2/minute; window=sliding; 3/minute; window=fixed; 5/hour; window=sliding",
        clock=clock,
    )
    assert [limiter.allow("k") for _ in range(3)] == [True, True, False]
    clock.advance(59)
    assert limiter.hit("k").retry_after == 1
    clock.advance(1)
    assert [limiter.allow("k") for _ in range(3)] == [True, True, False]
    clock.advance(60)
    assert [one.remaining for one in limiter.peek_each("k", 0)[1:]] == [100, 2, 3, 1]
    assert limiter.hit("k")
    assert limiter.hit("k").retry_after == 3480


def test_no_client_gets_more_in_a_crowded_table() -> None:
    """The client that evicts another starts with what that one had used."""
    clock = ManualClock(1000 * NS)
    limiter = RateLimiter("2/minute; window=sliding", clock=clock, max_keys=8)
    admitted = sum(limiter.allow(f"k{number}") for number in range(2000))
    stats = limiter.stats()
    assert stats["evicted_active"] > 0
    assert admitted <= 2 * stats["slots"]
    clock.advance(60)
    assert limiter.allow("k0")


@pytest.fixture
def renewed() -> Callable[[str], RateLimiter]:
    clock = ManualClock(1000 * NS)
    limiter = RateLimiter("5/minute; window=sliding", clock=clock)
    limiter.hit("k", 4)
    clock.advance(10)
    return limiter.with_limits


def test_other_limits_keep_the_requests(renewed: Callable[[str], RateLimiter]) -> None:
    for count in (4, 5, 8, 9, 1000):
        limiter = renewed(f"{count}/minute; window=sliding")
        assert limiter.peek("k").remaining == count - 4
        assert limiter.peek("k", count).retry_after == 50
    assert renewed("9/hour; window=sliding").peek("k").remaining == 9

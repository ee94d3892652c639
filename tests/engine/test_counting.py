"""Windows that start first, denied requests that count, and limits of zero, on each store."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rate_limiter import (
    AsyncRateLimiter,
    Decision,
    Limit,
    ManualClock,
    RateLimiter,
    RateLimitExceeded,
)
from support.redis_servers import RedisServer

NS = 10**9
Make = Callable[[str], RateLimiter]


@pytest.fixture(params=["memory", "shared", "redis"])
def options(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    if request.param == "memory":
        return {}
    if request.param == "shared":
        return {"store": f"shared://{tmp_path}/counting", "name": tmp_path.name, "max_keys": 1000}
    server: RedisServer = request.getfixturevalue("server")
    return {"store": server.url, "name": tmp_path.name}


@pytest.fixture
def make(options: dict[str, Any]) -> Make:
    return lambda limits: RateLimiter(limits, **options)


# --- Windows that start first ---


def test_a_window_begins_with_the_first_request(make: Make) -> None:
    limiter = make("3/hour; window=fixed; start=first")
    assert limiter.peek("k").reset_after == 0
    assert limiter.inspect("k")[0].full_after_s == 0
    assert limiter.hit("k", 2).reset_after == 3600
    denied = limiter.hit("k", 2)
    assert not denied
    assert 3500 < denied.retry_after == denied.reset_after <= 3600
    assert limiter.hit("k").remaining == 0
    limiter.refund("k", 1)
    assert limiter.peek("k").remaining == 1
    limiter.charge("k", 9)
    assert limiter.peek("k").remaining == 0
    limiter.refund("k", 9)
    assert limiter.peek("k").reset_after == 0  # nothing counts, so the next request begins one
    limiter.hit("k")
    limiter.reset("k")
    assert limiter.peek("k").remaining == 3
    assert limiter.hit("k", 4).retry_after == math.inf


def test_windows_that_start_first_have_no_common_edge() -> None:
    clock = ManualClock(59 * NS)
    limiter = RateLimiter("20/minute; window=fixed; start=first", clock=clock)
    passed = []
    for _ in range(500):  # five requests a second
        if limiter.allow("k"):
            passed.append(clock.now_ns)
        clock.advance(0.2)
    assert passed[:20] == [59 * NS + i * NS // 5 for i in range(20)]
    assert passed[20] == passed[0] + 60 * NS


@given(
    count=st.integers(1, 9),
    steps=st.lists(st.tuples(st.integers(0, 30 * NS), st.integers(0, 4)), max_size=60),
)
def test_a_window_that_starts_first_is_exact(count: int, steps: list[tuple[int, int]]) -> None:
    clock = ManualClock(7 * NS)
    limiter = RateLimiter(Limit.fixed_window(count, 60, start="first"), clock=clock)
    start, used = 0, 0
    for step, cost in steps:
        clock.advance_ns(step)
        if used == 0 or clock.now_ns >= start + 60 * NS:
            start, used = clock.now_ns, 0
        decision = limiter.hit("k", cost)
        assert decision.allowed == (used + cost <= count)
        used += cost if decision else 0
        assert decision.remaining == count - used
        left_ns = start + 60 * NS - clock.now_ns
        assert decision.reset_after_ns == (left_ns if used else 0)
        if not decision and cost <= count:
            assert decision.retry_after_ns == left_ns


def test_a_clock_that_is_set_back_keeps_a_window_that_starts_first() -> None:
    clock = ManualClock(1000 * NS)
    limiter = RateLimiter("2/minute; window=fixed; start=first", clock=clock)
    limiter.hit("k", 2)
    clock.set_ns(500 * NS)
    assert limiter.hit("k").retry_after == 60
    clock.set_ns(1060 * NS)
    assert limiter.allow("k")


def test_acquire_waits_for_a_window_that_starts_first(make: Make) -> None:
    limiter = make("2/second; window=fixed; start=first")
    limiter.hit("k", 2)
    with pytest.raises(RateLimitExceeded):
        limiter.acquire("k", timeout=0)
    assert limiter.acquire("k", timeout=30)


# --- Denied requests that count ---


def test_denied_requests_keep_a_bucket_empty() -> None:
    clock = ManualClock()
    limiter = RateLimiter("60/minute; burst=3; count_denied=yes", clock=clock)
    passed = 0
    for _ in range(100):  # two a second, one is refilled
        passed += limiter.allow("k")
        clock.advance(0.5)
    assert passed == 5  # until the debt begins
    assert limiter.hit("k").retry_after == pytest.approx(4, abs=1)


@pytest.mark.parametrize("kind", ["window=sliding", "window=sliding; ", "burst=10"])
@pytest.mark.parametrize("count", [5, 10, 100])
def test_a_client_that_keeps_asking_stays_denied(kind: str, count: int) -> None:
    clock = ManualClock(10**6 * NS)
    text = f"{count}/minute; {kind.replace('10', str(count))}"
    limiter = RateLimiter(f"{text.rstrip('; ')}; count_denied=yes", clock=clock)
    passed = []
    for i in range(count * 20):  # twice as many as are allowed
        if limiter.allow("k"):
            passed.append(i)
        clock.advance_ns(30 * NS // count)
    assert passed[-1] < 3 * count
    wait_ns = limiter.hit("k").retry_after_ns
    clock.advance_ns(wait_ns - 1)
    assert not limiter.peek("k")
    clock.advance_ns(1)
    assert limiter.peek("k")


def tokens(decision: Decision) -> int:
    """Return the remaining tokens without those refilled since the test began."""
    return math.floor(decision.remaining)


def test_what_denied_requests_take(make: Make) -> None:
    for text in (
        "10/hour; count_denied=yes",
        "10/hour; window=fixed; count_denied=yes",
        "10/hour; window=fixed; start=first; count_denied=yes",
        "10/hour; window=sliding; count_denied=yes",
        "6/hour; window=sliding; count_denied=yes",
    ):
        limiter = make(text)
        count = int(limiter.limits[0].capacity)
        assert tokens(limiter.hit("k", count - 4)) == 4
        assert not limiter.peek("k", 5)
        assert tokens(limiter.peek("k")) == 4
        assert tokens(limiter.hit("k", 5)) == 0  # it took what was left, and a debt
        assert not limiter.allow("k", 1)
        limiter.refund("k", 3)
        assert tokens(limiter.peek("k")) == 1
        for _ in range(3 * count):
            assert not limiter.hit("k", 2)
        limiter.refund("k", count)  # a debt is at most one capacity
        assert tokens(limiter.peek("k")) == 0
        limiter.refund("k", 1)
        assert tokens(limiter.peek("k")) == 1
        limiter.reset("k")
        assert limiter.hit("k", count + 1).retry_after == math.inf  # takes everything
        limiter.refund("k", count)
        assert tokens(limiter.peek("k")) == 0


def test_other_limits_do_not_count_denied_requests(make: Make) -> None:
    limiter = make("2/hour; count_denied=yes; 9/hour; window=fixed")
    assert [limiter.allow("k") for _ in range(6)] == [True, True, False, False, False, False]
    assert [one.remaining for one in limiter.peek_each("k")[1:]] == [
        pytest.approx(0, abs=0.1),
        7,
    ]


def test_batches_count_denied_requests(options: dict[str, Any], make: Make) -> None:
    async def go() -> list[bool]:
        limiter = AsyncRateLimiter("4/hour; count_denied=yes", **options)
        first = await asyncio.gather(*(limiter.allow("k") for _ in range(20)))
        await limiter.refund("k", 4)
        return [*first, await limiter.allow("k")]

    assert asyncio.run(go()) == [True] * 4 + [False] * 17
    limiter = make("4/hour; count_denied=yes")
    assert limiter.allow_many(["m"] * 9) == [True] * 4 + [False] * 5
    limiter.refund("m", 4)
    assert not limiter.allow("m")


def test_waiting_is_no_denied_request(options: dict[str, Any], make: Make) -> None:
    limiter = make("2/second; count_denied=yes")
    limiter.hit("k", 2)
    began_s = time.monotonic()
    with pytest.raises(RateLimitExceeded):
        limiter.acquire("k", timeout=0)
    for _ in range(2):
        assert limiter.acquire("k", timeout=30)
    assert time.monotonic() - began_s < 25


def test_tasks_that_wait_are_no_denied_requests(options: dict[str, Any]) -> None:
    async def go() -> None:
        limiter = AsyncRateLimiter("2/second; count_denied=yes", **options)
        await limiter.hit("k", 2)
        waiting = (limiter.acquire("k", timeout=30) for _ in range(3))
        assert all(await asyncio.gather(*waiting))

    asyncio.run(go())


# --- Zero ---


@pytest.mark.parametrize(
    "text",
    [
        "0/minute",
        "0/minute; window=fixed",
        "0/minute; window=sliding",
        "0/day; window=fixed; start=first; count_denied=yes",
        "0/month; window=fixed; tz=Europe/Berlin",
        "5/minute; burst=0; count_denied=yes",
    ],
)
def test_zero_denies_all(make: Make, text: str) -> None:
    limiter = make(text)
    for cost in (1, 0, 0.5, 5):
        for decision in (limiter.hit("k", cost), limiter.peek("k", cost)):
            assert not decision
            assert (decision.limit, decision.remaining) == (0, 0)
            assert decision.retry_after == math.inf
            assert decision.retry_after_s is None
    assert limiter.allow_many(["k", "m"]) == [False, False]
    limiter.charge("k")
    limiter.refund("k")
    limiter.reset("k")
    assert not limiter.allow("k")
    with pytest.raises(RateLimitExceeded):
        limiter.acquire("k", timeout=60)
    both = make(f"9/minute; {text}")
    assert not both.hit("k")
    assert both.peek_each("k")[1].remaining == 9
    assert str(Limit.parse(text)) == text


def test_zero_as_a_value() -> None:
    assert not RateLimiter(Limit(0, 1)).allow("k")
    assert not RateLimiter(Limit.fixed_window(0, 60)).allow("k")
    changed = RateLimiter("5/minute", clock=ManualClock()).with_limits("0/minute")
    assert not changed.allow("k")
    assert changed.with_limits("5/minute").allow("k")

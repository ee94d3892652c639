"""Blocked keys, on every store."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from rate_limiter import AsyncRateLimiter, Limit, ManualClock, RateLimiter, RateLimitExceeded
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from rate_limiter.stores.inspection import inspect_key
from support.redis_servers import RedisServer

Make = Callable[..., RateLimiter]

LIMITS = ["10/day", "10/day; window=fixed", "10/day; window=sliding", "10/day; 5/minute"]


@pytest.mark.parametrize("limits", LIMITS)
def test_a_blocked_key_is_denied_until_then(
    make: Make, call: Callable[..., Any], limits: str
) -> None:
    limiter = make(limits)
    assert limiter.hit("k")
    call(limiter, "block", "k", 10**6)
    for decision in (
        call(limiter, "hit", "k"),
        call(limiter, "peek", "k"),
        *call(limiter, "hit_each", "k"),
        call(limiter, "peek", "k", 0),
    ):
        assert (decision.allowed, decision.remaining) == (False, 0)
        assert decision.retry_after == pytest.approx(10**6, abs=60)
        assert decision.reset_after == pytest.approx(10**6, abs=60)
    assert call(limiter, "allow", "k") is False
    assert call(limiter, "allow_many", ["k", "other", "k"]) == [False, True, False]
    with pytest.raises(RateLimitExceeded):
        call(limiter, "acquire", "k", timeout=0)
    call(limiter, "charge", "k")
    call(limiter, "refund", "k")
    assert call(limiter, "allow", "k") is False
    call(limiter, "reset", "k")
    assert call(limiter, "hit", "k").remaining == pytest.approx(9 if "5" not in limits else 4)


@pytest.mark.parametrize("limits", LIMITS)
def test_after_the_block_the_bucket_is_as_it_was(make: Make, limits: str) -> None:
    limiter = make(limits)
    limiter.hit("k", 3)
    limiter.block("k", 0.05)
    denied = limiter.hit("k")
    assert not denied
    time.sleep(denied.retry_after)
    assert limiter.hit("k").remaining == pytest.approx(6 if "5" not in limits else 1, abs=0.1)


def test_acquire_waits_for_the_end(make: Make, call: Callable[..., Any]) -> None:
    limiter = make("10/day")
    started_s = time.monotonic()
    limiter.block("k", 0.1)
    assert call(limiter, "acquire", "k")
    assert time.monotonic() - started_s > 0.09


def test_a_denial_lasts_as_long_as_the_bucket_needs(make: Make) -> None:
    limiter = make("1/hour")
    limiter.hit("k")
    limiter.block("k", 60)
    assert limiter.hit("k").retry_after == pytest.approx(3600, abs=30)
    assert math.isinf(limiter.hit("k", 2).retry_after)


def test_a_longer_block_stays(make: Make, call: Callable[..., Any]) -> None:
    limiter = make("10/day")
    call(limiter, "block", "k", 1000)
    call(limiter, "block", "k", 10)
    assert limiter.peek("k").retry_after == pytest.approx(1000, abs=30)
    call(limiter, "block", "k", 1e300)
    assert limiter.peek("k").retry_after == pytest.approx(100 * 365.25 * 86400)
    call(limiter, "block", "other", 0)
    assert limiter.hit("other")


@pytest.mark.parametrize(
    ("seconds", "kind"),
    [
        (-1, ValueError),
        (-1e-9, ValueError),
        (math.inf, ValueError),
        (math.nan, ValueError),
        ("1", TypeError),
        (None, TypeError),
        ((1,), TypeError),
    ],
)
def test_bad_times(make: Make, call: Callable[..., Any], seconds: Any, kind: Any) -> None:
    limiter = make("10/day")
    with pytest.raises(kind) as caught:
        call(limiter, "block", "k", seconds)
    text = repr(seconds) if kind is ValueError else type(seconds).__name__
    assert f"seconds must be a {'finite ' if kind is ValueError else ''}number" in str(caught.value)
    assert text in str(caught.value)
    with pytest.raises(TypeError, match="key must be str or bytes, not int"):
        call(limiter, "block", 5, 1)
    assert limiter.hit("k")


def test_with_limits_keeps_blocks(make: Make) -> None:
    limiter = make("10/day")
    limiter.block("k", 1000)
    after = limiter.with_limits("20/day")
    assert after.peek("k").retry_after == pytest.approx(1000, abs=30)
    after.reset("k")
    assert after.allow("k")


def test_waiters_first_and_blocks(make: Make) -> None:
    limiter = make("10/day", waiters_first=True)
    limiter.block("k", 1000)
    assert limiter.hit("k").retry_after == pytest.approx(1000, abs=30)


def test_exact_to_the_nanosecond() -> None:
    clock = ManualClock(123_456_789)
    limiter = RateLimiter("1000/second", clock=clock)
    for seconds in (1e-9, 0.3, 7, 86_400.000_000_001, 3e8):
        limiter.block("k", seconds)
        wait_ns = limiter.peek("k").retry_after_ns
        assert wait_ns == math.ceil(seconds * 1e9)
        clock.advance_ns(wait_ns - 1)
        assert not limiter.allow("k")
        clock.advance_ns(1)
        assert limiter.allow("k")


def test_blocks_in_memory_are_counted_and_freed() -> None:
    clock = ManualClock()
    limiter = RateLimiter("10/second", clock=clock)
    before = limiter.stats()["bytes"]
    for i in range(5000):
        limiter.block(f"k{i}", 60)
    assert limiter.stats()["bytes"] > before + 5000 * 16
    assert not any(limiter.allow(f"k{i}") for i in range(5000))
    stats = limiter.stats()
    assert (stats["keys"], stats["denied"], stats["evicted_active"]) == (0, 5000, 0)
    clock.advance(60)
    assert all(limiter.allow(f"k{i}") for i in range(5000))
    clock.advance(60)
    assert limiter.stats()["bytes"] <= 2 * before  # the lines of both tables are given back


def test_too_many_blocks_evict_those_that_end_first() -> None:
    limiter = RateLimiter("10/second", max_keys=100, clock=ManualClock())
    for i in range(3000):
        limiter.block(f"short{i}", 60)
    limiter.block("long", 3600)
    for i in range(3000):
        limiter.block(f"other{i}", 120)
    assert limiter.peek("long").retry_after == 3600
    assert limiter.stats()["evicted_active"] > 0


def test_processes_share_blocks(tmp_path: Path, run_python: Callable[..., str]) -> None:
    store = f"shared://{tmp_path}/app"
    limiter = RateLimiter("10/day", store=store)
    assert limiter.allow("k")
    run_python(
        "import sys, rate_limiter as r; r.RateLimiter('10/day', store=sys.argv[1]).block('k', 500)",
        store,
    )
    assert limiter.peek("k").retry_after == pytest.approx(500, abs=30)
    limiter.reset("k")
    assert limiter.allow("k")


# --- Redis ---


def on_redis(server: RedisServer, limits: Any = "10/day", **settings: Any) -> RedisRateLimiter:
    return RedisRateLimiter(limits, store=server.url, on_store_error="raise", **settings)


def test_the_key_of_a_block_expires(server: RedisServer) -> None:
    limiter = on_redis(server)
    limiter.block("k", 50)
    (key,) = limiter.redis_keys("k")
    with redis.Redis(port=server.port) as client:
        assert 49_000 < client.pttl(key) <= 50_002
        limiter.charge("k", 20)  # a debt that needs longer than the block
        assert client.pttl(key) > 100_000
        limiter.refund("k", 20)
        assert 49_000 < client.pttl(key) <= 50_002
    info = inspect_key(limiter.store.connection, key, None)
    assert (info.full_after_s, info.tokens) == (0, None)
    assert limiter.inspect("k")[0].tokens == 0
    assert limiter.store.get_state("k")["tokens"] is None


@pytest.mark.parametrize("limits", ["10/day", "10/minute; window=fixed"])
def test_keys_with_an_exact_prefix(server: RedisServer, limits: str) -> None:
    limiter = on_redis(server, limits, exact_prefix="own:")
    limiter.hit("k")
    limiter.block("k", 1000)
    assert limiter.hit("k").retry_after == pytest.approx(1000, abs=61)
    limiter.reset("k")
    assert limiter.hit("k")


def test_a_bucket_that_is_never_refilled(server: RedisServer) -> None:
    limiter = on_redis(server, Limit(5, 0))
    limiter.hit("k", 2)
    limiter.block("k", 0.05)
    denied = limiter.hit("k")
    assert not denied
    time.sleep(denied.retry_after)
    assert limiter.hit("k").remaining == 2


async def test_batches_with_blocked_keys(server: RedisServer) -> None:
    limiter = AsyncRateLimiter.of(on_redis(server))
    await limiter.block("b", 1000)
    decisions = await asyncio.gather(*(limiter.hit(key) for key in ("a", "b", "a", "b", "c")))
    assert [one.allowed for one in decisions] == [True, False, True, False, True]
    assert decisions[1].retry_after == pytest.approx(1000, abs=30)


@pytest.mark.parametrize("policy", ["memory", "allow", "deny"])
def test_without_redis(policy: str) -> None:
    limiter = RateLimiter("10/day", store="redis://127.0.0.1:1", on_store_error=policy)
    limiter.block("k", 100)
    assert limiter.allow("k") is (policy == "allow")
    if policy == "memory":
        assert limiter.hit("k").retry_after == pytest.approx(100, abs=30)

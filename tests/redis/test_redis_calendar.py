"""Calendar windows and windows that start first in Redis, at simulated times of the server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import redis
from rate_limiter import Limit, RateLimiter, StoreError, _core
from rate_limiter.limit import CalendarUnit
from rate_limiter.stores.inspection import limit_in
from support.redis_servers import RedisServer
from support.simulated_redis import SimulatedRedis

US = 10**6


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with contextlib.closing(server.admin(decode_responses=True)) as client:
        client.flushdb()
        yield client


def edges_of(unit: CalendarUnit, tz: str) -> tuple[int, int]:
    """Return when the present window begins and ends, in seconds."""
    zone = ZoneInfo(tz)
    now = datetime.now(zone)
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit == "day":
        following = day + timedelta(1)
    elif unit == "week":
        day -= timedelta(day.weekday())
        following = day + timedelta(7)
    elif unit == "month":
        day = day.replace(day=1)
        following = (day + timedelta(31)).replace(day=1)
    else:
        day = day.replace(month=1, day=1)
        following = day.replace(year=day.year + 1)
    return int(day.timestamp()), int(following.timestamp())


@pytest.mark.parametrize("tz", ["UTC", "Europe/Berlin", "Asia/Kolkata"])
@pytest.mark.parametrize("unit", ["day", "week", "month", "year"])
def test_edges_of_a_calendar_in_redis(
    server: RedisServer, client: redis.Redis, unit: CalendarUnit, tz: str
) -> None:
    start_s, end_s = edges_of(unit, tz)
    limit = Limit.calendar_window(3, unit, tz)
    simulated = SimulatedRedis(server, client, limit, start_s * US)
    take, buckets = simulated.client.hit, simulated.buckets
    assert take(buckets, "k").reset_after == end_s - start_s
    simulated.set_us((end_s - 600) * US)  # Redis keeps the key for so long by its own clock
    assert simulated.admitted(5) == 2
    simulated.client.refund(buckets, "k", 1)
    assert simulated.admitted(5) == 1
    simulated.set_us(end_s * US - 1)
    assert take(buckets, "k").retry_after == pytest.approx(1e-6)
    simulated.set_us(end_s * US)  # a clock that is up to one window ahead
    assert simulated.admitted(5) == 3
    simulated.set_us(start_s * US)  # and set back, which frees nothing
    assert simulated.admitted(5) == 0
    simulated.client.reset(buckets, "k")
    assert simulated.admitted(5) == 3


def test_clocks_that_are_too_far_apart_are_an_error(
    server: RedisServer, client: redis.Redis
) -> None:
    start_s, end_s = edges_of("day", "Europe/Berlin")
    limit = Limit.calendar_window(3, "day", "Europe/Berlin")
    for now_s in (start_s - 3 * 86400, end_s + 3 * 86400):
        simulated = SimulatedRedis(server, client, limit, now_s * US)
        for call in (simulated.client.hit, simulated.client.peek, simulated.client.charge):
            with pytest.raises(StoreError, match="clocks of this server and of the client"):
                call(simulated.buckets, "k")


def test_a_window_that_starts_first_in_redis(server: RedisServer, client: redis.Redis) -> None:
    limit = Limit.fixed_window(3, 60, start="first")
    begin_us = 1_790_000_059_500_001
    simulated = SimulatedRedis(server, client, limit, begin_us)
    take, buckets = simulated.client.hit, simulated.buckets
    assert simulated.client.peek(buckets, "k").reset_after == 0
    assert take(buckets, "k", 3).reset_after == 60
    assert client.get("k") == "1790000059500001/3/0"
    assert 59_000 < client.pttl("k") <= 60_001
    simulated.set_us(begin_us + 60 * US - 1)
    assert take(buckets, "k").retry_after == pytest.approx(1e-6)
    simulated.set_us(begin_us + 60 * US)
    assert simulated.admitted(5) == 3
    simulated.set_us(begin_us)  # set back
    assert simulated.admitted(5) == 0
    simulated.client.refund(buckets, "k", 9)
    assert client.get("k") is None
    client.set("k", "three")
    with pytest.raises(StoreError, match="is no bucket"):
        take(buckets, "k")


@pytest.mark.parametrize("count", [5, 20])
def test_denied_requests_in_a_sliding_window_decide_as_in_memory(
    server: RedisServer, client: redis.Redis, count: int
) -> None:
    from rate_limiter import ManualClock

    limit = Limit.sliding_window(count, 60, count_denied=True)
    now_us = 1_790_000_000_000_000
    clock = ManualClock(now_us * 1000)
    memory = RateLimiter(limit, clock=clock)
    simulated = SimulatedRedis(server, client, limit, now_us)
    for i in range(12 * count):
        cost = 1 + i % 3
        for step_us in (0, 7 * US // count):
            now_us += step_us
            clock.set_ns(now_us * 1000)
            simulated.set_us(now_us)
            expected = memory.hit("k", cost)
            found = simulated.client.hit(simulated.buckets, "k", cost)
            assert (found.allowed, found.remaining) == (expected.allowed, expected.remaining)
            assert found.retry_after == pytest.approx(expected.retry_after, abs=1e-5)


def test_keys_name_the_options(server: RedisServer, client: redis.Redis) -> None:
    for text in (
        "5/month; window=fixed; tz=Europe/Berlin",
        "5/minute; window=fixed; start=first; count_denied=yes",
        "5/minute; count_denied=yes",
        "7/year; window=fixed",
    ):
        limiter = RateLimiter(text, store=server.url)
        limiter.hit("k", 2)
        (key,) = limiter.redis_keys("k")  # type: ignore[attr-defined]
        assert key == b"rl:{k}:" + text.replace(" ", "").encode()
        assert limit_in(key) == limiter.limits[0]
        (info,) = limiter.inspect("k")
        assert info.tokens is not None
        assert 3 <= info.tokens < 5.1
        assert limiter.with_limits(limiter.limits).peek("k").remaining == info.tokens or (
            not limiter.limits[0].is_window
        )


def test_a_calendar_window_with_the_date_in_its_key(
    server: RedisServer, client: redis.Redis
) -> None:
    from rate_limiter.redis_limiter import RedisRateLimiter

    start_s, _ = edges_of("month", "UTC")
    limits = Limit.calendar_window(5, "month")
    limiter = RedisRateLimiter(limits, store=server.url, exact_prefix="quota:")
    limiter.hit("k", 2)
    date = time.strftime("%Y-%m-%d-%H:%M", time.gmtime(start_s))
    assert client.get(f"quota:k:{date}") == "2"
    limiter.reset("k")
    assert client.get(f"quota:k:{date}") is None
    first = RedisRateLimiter(
        "5/hour; window=fixed; start=first", store=server.url, exact_prefix="q:"
    )
    first.hit("k", 2)
    assert client.get("q:k").endswith("/2/0")
    assert isinstance(first, _core.Limiter)

"""Sliding windows in Redis at simulated times: steady callers, and agreement with memory."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rate_limiter import Limit, ManualClock, RateLimiter
from support.redis_servers import RedisServer
from support.simulated_redis import SimulatedRedis

US = 10**6
WINDOW_S = 60
START_US = 1_732_190_400 * US


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with contextlib.closing(server.admin(decode_responses=True)) as client:
        yield client


@pytest.mark.parametrize("count", [1, 3, 5, 10, 20, 50, 100, 1000, 10000])
def test_a_steady_caller_gets_the_count(
    server: RedisServer, client: redis.Redis, count: int
) -> None:
    limit = Limit.sliding_window(count, WINDOW_S)
    windows = 2 if count > 1000 else 4
    for tries in (count, max(60, count * 3 // 2)) if count <= 1000 else (count,):
        client.delete("k")
        simulated = SimulatedRedis(server, client, limit, START_US + 17_654_321)
        simulated.set_us(START_US + 17_654_321, WINDOW_S * US // tries)
        admitted = simulated.admitted(windows * tries)
        assert 0.98 * windows * count <= admitted <= (windows + 1) * count


def test_a_steady_caller_of_a_higher_cost(server: RedisServer, client: redis.Redis) -> None:
    simulated = SimulatedRedis(server, client, Limit.sliding_window(100, WINDOW_S), START_US)
    simulated.set_us(START_US, 12 * US)
    assert 4 * 20 <= simulated.admitted(5 * 20, 25) <= 4 * 21


steps = st.lists(
    st.tuples(
        st.sampled_from(["hit", "hit", "peek", "charge", "refund", "reset"]),
        st.integers(0, 8) | st.sampled_from([1, 20]),
        st.integers(0, 20) | st.sampled_from([0, 0, 60, 150]),
    ),
    min_size=1,
    max_size=40,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(count=st.integers(1, 12), steps=steps, start_s=st.integers(0, 120))
def test_memory_decides_the_same(
    server: RedisServer,
    client: redis.Redis,
    count: int,
    steps: list[tuple[str, int, int]],
    start_s: int,
) -> None:
    """Every number, at the same times: whole seconds."""
    client.delete("k")
    limit = Limit.sliding_window(count, WINDOW_S)
    now_us = START_US + start_s * US
    simulated = SimulatedRedis(server, client, limit, now_us)
    clock = ManualClock(now_us * 1000)
    memory = RateLimiter(limit, clock=clock)
    for method, cost, pause_s in steps:
        now_us += pause_s * US
        simulated.set_us(now_us)
        clock.set_ns(now_us * 1000)
        if method == "reset":
            memory.reset("k")
            simulated.client.reset(simulated.buckets, "k")
            continue
        stored = getattr(simulated.client, method)(simulated.buckets, "k", cost)
        modelled = getattr(memory, method)("k", cost)
        if method == "refund":
            continue
        assert (stored.allowed, stored.remaining) == (modelled.allowed, modelled.remaining)
        assert stored.reset_after_ns == modelled.reset_after_ns
        if modelled.retry_after == float("inf"):
            assert stored.retry_after == modelled.retry_after
        else:
            # A place between two microseconds counts from the earlier one.
            assert stored.retry_after_ns // 1000 == modelled.retry_after_ns // 1000


@given(
    tries=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30 * US)), min_size=4, max_size=20),
    count=st.integers(3, 2 * 10**9),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_waiting_is_exact(
    server: RedisServer, client: redis.Redis, tries: list[tuple[int, int]], count: int
) -> None:
    """Waiting retry_after passes, a microsecond less does not, also where doubles are not exact."""
    client.delete("k")
    simulated = SimulatedRedis(server, client, Limit.sliding_window(count, 10**9), START_US)
    now_us = START_US
    for share, pause_us in tries:
        now_us += pause_us * 1_000_000
        cost = max(1, count * share // 10)
        simulated.set_us(now_us)
        denied = simulated.client.hit(simulated.buckets, "k", cost)
        if not denied:
            wait_us = denied.retry_after_ns // 1000
            assert wait_us > 0
            simulated.set_us(now_us + wait_us - 1)
            assert not simulated.client.peek(simulated.buckets, "k", cost)
            simulated.set_us(now_us + wait_us)
            assert simulated.client.peek(simulated.buckets, "k", cost)


def test_what_is_stored(server: RedisServer, client: redis.Redis) -> None:
    limiter = RateLimiter("20/hour; window=sliding", store=server.url, on_store_error="raise")
    limiter.hit("k", 6)
    (key,) = client.keys()
    assert key == "rl:{k}:20/hour;window=sliding:2"
    assert re.fullmatch(r"1\*6@\d{16}", client.get(key))
    limiter.hit("k", 4)
    assert re.fullmatch(r"5\*2@\d{16},\d{16}", client.get(key))
    assert client.pttl(key) == pytest.approx(3_600_000, abs=10_000)
    assert limiter.inspect("k")[0].tokens == 10


def test_a_limit_of_a_few_keeps_each_time(server: RedisServer, client: redis.Redis) -> None:
    limit = Limit.sliding_window(5, WINDOW_S)
    simulated = SimulatedRedis(server, client, limit, START_US)
    for second in (0, 1, 5):
        simulated.set_us(START_US + second * US)
        simulated.client.hit(simulated.buckets, "k", 1)
    assert client.get("k") == "3*1@" + ",".join(f"{START_US + s * US}" for s in (0, 1, 5))
    simulated.client.hit(simulated.buckets, "k", 2)
    simulated.client.refund(simulated.buckets, "k", 3)
    assert client.get("k") == "2*1@" + ",".join(f"{START_US + s * US}" for s in (0, 1))
    # A limit of more requests reads them too, and keeps the first and last time.
    more = SimulatedRedis(server, client, Limit.sliding_window(50, WINDOW_S), START_US + 9 * US)
    assert more.client.hit(more.buckets, "k", 1).remaining == 47
    assert client.get("k") == f"3*1@{START_US},{START_US + 9 * US}"


def test_processes_of_the_earlier_layout_keep_their_keys(
    server: RedisServer, client: redis.Redis
) -> None:
    client.set("rl:{k}:20/hour;window=sliding", "475000/20/20")
    limiter = RateLimiter("20/hour; window=sliding", store=server.url, on_store_error="raise")
    assert limiter.hit("k").remaining == 19
    assert client.get("rl:{k}:20/hour;window=sliding") == "475000/20/20"


def test_the_earlier_layout_under_an_exact_key(server: RedisServer, client: redis.Redis) -> None:
    """Counts of two windows, whose requests are taken as evenly spaced in each."""
    minute = START_US // US // 60
    limit = Limit.sliding_window(60, WINDOW_S)
    simulated = SimulatedRedis(server, client, limit, START_US + 30 * US)
    for value, remaining in (
        (f"{minute}/10/40", 30),  # 20 of 40 in the last half minute
        (f"{minute - 1}/40/9", 40),
        (f"{minute - 2}/40/9", 60),
        (f"{minute}/0/0", 60),
        (f"{minute + 9}/50/0", 10),  # the clock was set back
    ):
        client.set("k", value)
        assert simulated.client.peek(simulated.buckets, "k", 0).remaining == remaining
    client.set("k", f"{minute}/10/40")
    assert simulated.client.hit(simulated.buckets, "k", 30)
    assert not simulated.client.hit(simulated.buckets, "k", 1)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "5*1@10,20 ",
        "5*1@10,20 5*1",
        "1*2@10,20",
        "5*0@10,20",
        "0*1@10,20",
        "5*1@20,10",
        "5*1@",
        "5*1@10",
        "5*1@10,20,30",
        "5*1@10,99999999999999999",
        "a*1@10,20",
        "5*1*10,20",
        "5*4000000000@10,20",
    ],
)
def test_values_that_are_no_runs(server: RedisServer, client: redis.Redis, value: str) -> None:
    simulated = SimulatedRedis(server, client, Limit.sliding_window(60, WINDOW_S), START_US)
    client.set("k", value)
    with pytest.raises(Exception, match="is no bucket"):
        simulated.client.hit(simulated.buckets, "k", 1)
    assert client.get("k") == value

"""Fixed and sliding windows in Redis: what is stored, when it ends, and that memory agrees."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rate_limiter import AsyncRateLimiter, Limit, RateLimiter, StoreError
from rate_limiter.cli.main import main
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from support.redis_servers import RedisServer
from support.spawned import count_admitted

DAY_S = 86400


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with contextlib.closing(server.admin(decode_responses=True)) as client:
        yield client


def limiter_of(server: RedisServer, *limits: Limit, prefix: str | None = None) -> RedisRateLimiter:
    return RedisRateLimiter(limits, store=server.url, on_store_error="raise", exact_prefix=prefix)


def steady(client: redis.Redis, window_s: int, room_s: float = 10) -> int:
    """Wait until a window has so many seconds left; return the server's second."""
    while True:
        now_s = int(client.time()[0])
        if now_s % window_s < window_s - room_s:
            return now_s
        time.sleep(0.05)


# --- Fixed ---


def test_fixed_window(server: RedisServer, client: redis.Redis) -> None:
    limiter = limiter_of(server, Limit.fixed_window(20, 60), prefix="rate:")
    now_s = steady(client, 60)
    decisions = [limiter.hit("user:bob") for _ in range(25)]
    assert [one.allowed for one in decisions] == [True] * 20 + [False] * 5
    assert [one.remaining for one in decisions] == [*range(19, -1, -1), *[0] * 5]
    minute = datetime.fromtimestamp(now_s - now_s % 60, timezone.utc).strftime("%Y-%m-%d-%H:%M")
    assert client.keys() == [f"rate:user:bob:{minute}"]
    assert client.get(f"rate:user:bob:{minute}") == "20"
    end_s = now_s - now_s % 60 + 60
    assert client.expiretime(f"rate:user:bob:{minute}") == end_s
    assert 0 < decisions[-1].retry_after == decisions[-1].reset_after <= 60
    assert decisions[-1].retry_after == pytest.approx(end_s - time.time(), abs=5)


def test_fixed_window_writes_nothing_for_a_look(server: RedisServer, client: redis.Redis) -> None:
    limiter = limiter_of(server, Limit.fixed_window(20, DAY_S))
    assert limiter.peek("k").remaining == 20
    assert limiter.peek("k").reset_after > 0
    assert limiter.hit("k", 0).remaining == 20
    assert not limiter.hit("k", 21)
    assert limiter.peek("k", 21).retry_after == float("inf")
    assert client.dbsize() == 0


def test_fixed_windows_end(server: RedisServer, client: redis.Redis) -> None:
    limiter = limiter_of(server, Limit.fixed_window(2, 3), prefix="")
    steady(client, 3, 1.8)
    decisions = [limiter.hit("k") for _ in range(3)]
    assert [one.allowed for one in decisions] == [True, True, False]
    time.sleep(decisions[-1].retry_after)
    assert limiter.hit("k").remaining == 1
    assert all(re.search(r"-\d\d:\d\d:\d\d\Z", name) for name in client.scan_iter())  # with seconds


@pytest.mark.parametrize("window_s", [60, 3600, 86400, 7 * DAY_S, 400 * DAY_S, 30, 7])
def test_the_date_in_the_key(server: RedisServer, client: redis.Redis, window_s: int) -> None:
    now_s = steady(client, window_s, 1)
    limiter_of(server, Limit.fixed_window(5, window_s), prefix="").hit("k")
    (key,) = client.keys()
    start = datetime.fromtimestamp(now_s - now_s % window_s, timezone.utc)
    form = "%Y-%m-%d-%H:%M" if window_s % 60 == 0 else "%Y-%m-%d-%H:%M:%S"
    assert key == "k:" + start.strftime(form)
    assert client.expiretime(key) == now_s - now_s % window_s + window_s


def test_a_fixed_window_without_an_exact_key_has_one_key(
    server: RedisServer, client: redis.Redis
) -> None:
    """The declared key, so that a cluster can route it even while a slot moves."""
    limiter = limiter_of(server, Limit.fixed_window(5, DAY_S))
    now_s = steady(client, DAY_S)
    limiter.hit("k", 2)
    assert client.keys() == ["rl:{k}:5/day;window=fixed"]
    assert client.get("rl:{k}:5/day;window=fixed") == f"{now_s // DAY_S}/2/0"
    left_ms = (DAY_S - now_s % DAY_S) * 1000
    assert client.pttl("rl:{k}:5/day;window=fixed") == pytest.approx(left_ms, abs=2000)
    client.set("rl:{k}:5/day;window=fixed", f"{now_s // DAY_S - 1}/5/0")  # yesterday's
    assert limiter.hit("k").remaining == 4


def test_dated_keys_are_not_for_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="which a cluster cannot place"):
        RedisRateLimiter(
            Limit.fixed_window(5, 60), store="redis+cluster://127.0.0.1:1", exact_prefix="rate:"
        )


def test_reset_and_refund_of_a_fixed_window(server: RedisServer, client: redis.Redis) -> None:
    limiter = limiter_of(server, Limit.fixed_window(5, DAY_S), prefix="")
    limiter.hit("k", 4)
    limiter.refund("k", 3)
    assert limiter.peek("k").remaining == 4
    (key,) = client.keys()
    assert client.get(key) == "1"
    limiter.refund("k", 9)
    assert client.dbsize() == 0
    limiter.hit("k", 5)
    limiter.reset("k")
    assert client.dbsize() == 0


def test_a_count_that_is_none(server: RedisServer, client: redis.Redis) -> None:
    for limit in (Limit.fixed_window(5, DAY_S), Limit.sliding_window(5, DAY_S)):
        limiter = limiter_of(server, limit)
        limiter.hit("k")
        (key,) = client.keys()
        for value in ("", "full", "-1", "1.5", "1/2", "a/b/c", "1e3", "7"):
            client.set(key, value)
            with pytest.raises(StoreError, match="is no bucket"):
                limiter.hit("k")
            assert client.get(key) == value
        client.delete(key)


def test_a_count_set_by_hand(server: RedisServer, client: redis.Redis) -> None:
    limiter = limiter_of(server, Limit.fixed_window(5, DAY_S), prefix="")
    limiter.hit("k")
    (key,) = client.keys()
    client.set(key, "3")
    assert limiter.hit("k").remaining == 1
    for value in ("99999999999", "9" * 25, "9" * 400):
        client.set(key, value)
        denied = limiter.hit("k")
        assert (denied.allowed, denied.remaining) == (False, 0)
    sliding = limiter_of(server, Limit.sliding_window(5, DAY_S), prefix="s")
    client.set("sk", f"{int(client.time()[0]) // DAY_S}/{'9' * 25}/{'9' * 400}")
    assert not sliding.hit("k")


@pytest.mark.parametrize("make", [Limit.fixed_window, Limit.sliding_window])
def test_processes_admit_the_count(server: RedisServer, make: Callable[[int, int], Limit]) -> None:
    context = multiprocessing.get_context("spawn")
    begin, admitted = context.Barrier(4), context.Value("i", 0)
    options = {"store": server.url, "on_store_error": "raise"}
    arguments = (make(123, 30 * DAY_S), 100, options, begin, admitted)
    workers = [context.Process(target=count_admitted, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(200)
    assert admitted.value == 123


# --- Sliding ---


def test_sliding_window(server: RedisServer, client: redis.Redis) -> None:
    limiter = limiter_of(server, Limit.sliding_window(20, DAY_S), prefix="s:")
    now_s = steady(client, DAY_S)
    decisions = [limiter.hit("k") for _ in range(22)]
    assert [one.allowed for one in decisions] == [True] * 20 + [False] * 2
    assert re.fullmatch(r"20\*1@\d{16},\d{16}", client.get("s:k"))
    assert client.pttl("s:k") == pytest.approx(DAY_S * 1000, abs=2000)
    assert decisions[-1].retry_after == pytest.approx(DAY_S, abs=2)
    assert decisions[-1].reset_after == pytest.approx(2 * DAY_S - now_s % DAY_S, abs=2)
    limiter.refund("k", 5)
    assert limiter.peek("k").remaining == 5
    limiter.reset("k")
    assert client.dbsize() == 0


def test_waiting_for_a_sliding_window(server: RedisServer, client: redis.Redis) -> None:
    limiter = limiter_of(server, Limit.sliding_window(5, 1))
    for _ in range(5):
        limiter.hit("k")
    for _ in range(5):
        denied = limiter.hit("k", 2)
        if not denied:
            time.sleep(denied.retry_after)
            assert limiter.hit("k", 2)


def test_a_server_clock_set_back_frees_nothing(server: RedisServer, client: redis.Redis) -> None:
    limiter = limiter_of(server, Limit.sliding_window(5, 60), prefix="")
    number = int(client.time()[0]) // 60
    later = (number + 100) * 60_000_000
    client.set("k", f"4*1@{later},{later + 1},{later + 2},{later + 3}")
    assert limiter.hit("k").remaining == 0
    denied = limiter.hit("k")
    assert not denied
    assert 0 < denied.retry_after <= 60
    *_, last = re.split("[@,]", client.get("k"))  # and it goes on from here
    assert int(last) < later


@pytest.mark.parametrize("limit", [Limit.fixed_window(5, 2), Limit.sliding_window(5, 2)])
@pytest.mark.parametrize("ahead_s", [1, 86400 * 365])
def test_a_server_clock_set_back_locks_out_for_one_window(
    server: RedisServer, client: redis.Redis, limit: Limit, ahead_s: int
) -> None:
    limiter = limiter_of(server, limit)
    (name,) = limiter.redis_keys("k")
    later_us = int((client.time()[0] + ahead_s + 2) * 1_000_000)
    is_fixed = limit.algorithm == "fixed_window"
    value = f"{later_us // 2_000_000}/5/0" if is_fixed else f"5*1@{','.join([str(later_us)] * 5)}"
    client.set(name, value)
    first = limiter.hit("k")
    assert not first
    assert 0 < first.retry_after <= 2
    time.sleep(first.retry_after / 2)
    second = limiter.hit("k")
    assert second or second.retry_after <= first.retry_after / 2
    time.sleep(second.retry_after)
    assert second or limiter.hit("k", 5)


def test_a_time_later_in_the_window_is_now(server: RedisServer, client: redis.Redis) -> None:
    limiter = limiter_of(server, Limit.sliding_window(20, 300 * DAY_S))
    (name,) = limiter.redis_keys("k")
    now_us = int(client.time()[0] * 1_000_000)
    window_us = 300 * DAY_S * 1_000_000
    last_us = now_us - now_us % window_us + window_us - 1
    client.set(name, f"20*1@{now_us - 1000},{last_us}")
    assert limiter.hit("k").retry_after <= 300 * DAY_S
    n, *times = re.split("[@,]", client.get(name))
    assert n == "20*1"
    assert int(times[1]) < now_us + DAY_S * 1_000_000


# --- Agreement ---

kinds = st.sampled_from(
    [
        Limit(10, 0),
        Limit.fixed_window(10, 300 * DAY_S),
        Limit.sliding_window(10, 300 * DAY_S),
    ]
)
steps = st.lists(
    st.tuples(
        st.sampled_from(["hit", "peek", "refund", "charge", "allow", "reset", "hit_each"]),
        st.sampled_from(["a", "b"]),
        st.integers(0, 12) | st.sampled_from([20, 25, 0.5, 1.5]),
    ),
    max_size=25,
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(limits=st.lists(kinds, min_size=1, max_size=3), steps=steps)
def test_the_stores_agree(
    server: RedisServer, limits: list[Limit], steps: list[tuple[str, str, int]]
) -> None:
    """Memory, Redis and Redis under asyncio give the same answers to the same requests."""

    async def awaited() -> list[object]:
        limiter = AsyncRateLimiter(limits, store=server.url, name="async", on_store_error="raise")
        return [plain(await call(limiter, *step)) for step in steps]

    def call(limiter: Any, method: str, key: str, cost: int) -> Any:
        return limiter.reset(key) if method == "reset" else getattr(limiter, method)(key, cost)

    def plain(answer: Any) -> object:
        if isinstance(answer, tuple):
            return [plain(one) for one in answer]
        if hasattr(answer, "remaining"):
            return (answer.allowed, answer.limit, answer.remaining, answer.retry_after == 0)
        return answer

    with contextlib.closing(server.admin()) as admin:
        admin.flushall()
    memory = RateLimiter(limits)
    redis_limiter = RateLimiter(limits, store=server.url, on_store_error="raise")
    expected = [plain(call(memory, *step)) for step in steps]
    assert [plain(call(redis_limiter, *step)) for step in steps] == expected
    assert asyncio.run(awaited()) == expected


def test_charge_in_redis(server: RedisServer, client: redis.Redis) -> None:
    limiter = limiter_of(server, Limit(10, 1))
    assert limiter.charge("k", 15).remaining == 0
    assert limiter.peek("k", 1).retry_after == pytest.approx(6, abs=2)
    limiter.charge("k", 1e9)
    assert limiter.peek("k", 1).retry_after == pytest.approx(11, abs=2)
    (key,) = client.keys()
    assert client.pttl(key) > 15_000


def test_windows_of_rules_are_shown_without_their_limit(
    server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = (Limit.fixed_window(5, DAY_S), Limit.sliding_window(5, DAY_S), Limit(5, 0.01))
    store = server.url
    limiter = RedisRateLimiter(limits, store=store, name="rule", names_limits=False)
    limiter.hit("bob", 5)
    assert main(["inspect", "bob", "--store", server.url, "--json"]) == 0
    import json

    result = json.loads(capsys.readouterr().out)
    assert len(result) == 3
    assert all(one["full_after_s"] > 0 for one in result)
    assert main(["reset", "bob", "--store", server.url]) == 0
    assert capsys.readouterr().out == "3 removed\n"


def test_frozen_buckets_of_two_capacities_do_not_meet(server: RedisServer) -> None:
    def of(capacity: float) -> RedisRateLimiter:
        return RedisRateLimiter(Limit(capacity, 0), store=server.url, names_limits=False)

    of(1048575).hit("k", 600_000)
    assert of(1048577).peek("k").remaining == 1048577


def test_waits_are_whole_microseconds(server: RedisServer, client: redis.Redis) -> None:
    limiter = limiter_of(server, Limit.sliding_window(10, 3600), prefix="")
    now_s = steady(client, 3600)
    client.set("k", f"7*1@{now_s}000000,{now_s}000005")
    result = limiter.peek("k", 9)
    assert result.retry_after > 0
    assert result.retry_after_ns % 1000 == result.reset_after_ns % 1000 == 0


def test_other_limits_start_from_the_usage(server: RedisServer) -> None:
    limits = (Limit(10, 10 / 3600), Limit.fixed_window(20, 10**9))
    others = (Limit(20, 20 / 3600), Limit.fixed_window(40, 10**9))
    before = RateLimiter(limits, store=server.url, name="changes")
    before.hit("k", 5)
    after = before.with_limits(others)
    bucket, window = after.peek_each("k", 0)[1:]
    # The bucket is full at the same time as before, half an hour from now.
    assert bucket.remaining == pytest.approx(10, abs=0.1)
    assert window.remaining == 35
    after.hit("k", 1)
    assert before.peek_each("k", 0)[2].remaining == 14
    another_process = RateLimiter(limits, store=server.url, name="changes")
    again = another_process.with_limits(others)
    assert again.peek_each("k", 0)[2].remaining == 34


def test_windows_of_another_length_start_empty(server: RedisServer) -> None:
    before = RateLimiter(Limit.fixed_window(10, 10**9), store=server.url, name="length")
    before.hit("k", 5)
    after = before.with_limits(Limit.fixed_window(10, 10**9 - 1))
    assert after.peek("k").remaining == 10
    after.hit("k")
    assert before.peek("k").remaining == 5
    with pytest.raises(ValueError, match="limits of the same kinds in the same order"):
        before.with_limits("10/hour")
    exact = limiter_of(server, Limit.fixed_window(3, 60), prefix="exact:")
    with pytest.raises(ValueError, match="with an exact prefix"):
        exact.with_limits("3/hour; window=fixed")


# --- Tools ---


def test_inspect_a_window_of_an_exact_key(server: RedisServer, client: redis.Redis) -> None:
    steady(client, DAY_S)
    limiter = limiter_of(server, Limit.fixed_window(20, DAY_S), prefix="inspected:")
    assert limiter.inspect("bob")[0].tokens == 20
    assert limiter.inspect("bob")[0].expires_after_s is None
    limiter.hit("bob", 4)
    (info,) = limiter.inspect("bob")
    assert (info.key, info.tokens) == ("inspected:bob", 16)
    assert info.expires_after_s == info.full_after_s > 0


def test_inspect_and_reset_windows(
    server: RedisServer, client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = (Limit.fixed_window(20, DAY_S), Limit.sliding_window(30, 90 * DAY_S))
    limiter = limiter_of(server, *limits)
    limiter.hit("bob", 4)
    assert [one.tokens for one in limiter.inspect("bob")] == [16, 26]
    assert main(["inspect", "bob", "--store", server.url]) == 0
    shown = capsys.readouterr().out
    assert "16 of 20 tokens" in shown
    assert "26 of 30 tokens" in shown
    assert main(["reset", "bob", "--store", server.url, "--limit", "20/day; window=fixed"]) == 0
    assert capsys.readouterr().out == "1 removed\n"
    assert client.dbsize() == 1
    assert main(["reset", "bob", "--store", server.url]) == 0
    assert client.dbsize() == 0


@pytest.mark.parametrize("text", ["20/day; window=fixed", "20/day; window=sliding", "20/day"])
async def test_tasks_of_one_turn_admit_the_count(server: RedisServer, text: str) -> None:
    """Each kind of limit is decided correctly after limits of the other kinds were made."""
    for before in ("1/day", "1/day; window=fixed", "1/hour; 1/day; window=sliding"):
        RateLimiter(before, store=server.url, name="before")
        limiter = AsyncRateLimiter(text, store=server.url, name=before, on_store_error="raise")
        decisions = await asyncio.gather(*(limiter.hit("k") for _ in range(60)))
        assert sum(decision.allowed for decision in decisions) == 20
        assert {decision.limit for decision in decisions} == {20}


async def test_tasks_of_one_turn_share_a_script(server: RedisServer, client: redis.Redis) -> None:
    """hit_each, which rules ask, is batched as hit is."""
    limiter = AsyncRateLimiter("20/day", store=server.url, on_store_error="raise")
    await limiter.hit_each("warm")
    before = client.info("commandstats")
    result = await asyncio.gather(*(limiter.hit_each("k") for _ in range(30)))
    after = client.info("commandstats")
    calls = [stats["cmdstat_evalsha"]["calls"] for stats in (before, after)]
    assert calls[1] - calls[0] <= 3
    assert sum(one.allowed for one, _ in result) == 20
    assert sorted(one.remaining for one, _ in result if one) == pytest.approx(range(20), abs=0.01)
    assert all(one is each for one, each in result)

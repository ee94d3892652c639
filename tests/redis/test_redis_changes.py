"""A Redis that changes under a limiter: another master behind its address, a store that closes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rate_limiter import AsyncRateLimiter, Decision, Limit, RateLimiter, StoreError, TokenBucket
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from support.fake_redis import FakeConnection, fake_redis
from support.redis_asking import ALLOWED, is_back, limiter_on
from support.redis_servers import RedisServer, redis_server, wait_until

# --- Another master behind the same address ---


@pytest.fixture
def moving(tmp_path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Return an address, and a function that demotes its master and leads it to another one."""
    path = tmp_path / "current.sock"
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    with redis_server(tmp_path / "old") as old, redis_server(tmp_path / "new") as new:
        path.symlink_to(old.socket_path)

        def demote() -> None:
            with contextlib.closing(old.admin()) as client:
                client.replicaof("127.0.0.1", new.port)
            path.with_suffix(".new").symlink_to(new.socket_path)
            os.replace(path.with_suffix(".new"), path)

        yield f"unix://{path}", demote


def test_a_demoted_master_is_left_for_the_new_one(
    moving: tuple[str, Callable[[], None]], ask: Callable[..., Any]
) -> None:
    address, demote = moving
    limiter = limiter_on(address)
    is_back(limiter, ask)
    demote()
    wait_until(lambda: "READONLY" in str(ask(limiter)[0]), "the old master says that it is none")
    is_back(limiter, ask)


@pytest.mark.parametrize(
    "text",
    [
        "READONLY You can't write against a read only replica.",
        "ERR Error running script (call to f_8f1): @user_script:9: @user_script: 9: -READONLY You",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "NOREPLICAS Not enough good replicas to write.",
        "LOADING Redis is loading the dataset in memory",
    ],
)
def test_a_server_that_cannot_serve_is_connected_again(ask: Callable[..., Any], text: str) -> None:
    def handle(connection: FakeConnection) -> None:
        unfit = server.connections == 1
        connection.shake_hands()
        while True:
            connection.send(f"-{text}\r\n".encode() if unfit else ALLOWED)
            connection.read_command()

    with fake_redis(handle) as server:
        limiter = limiter_on(server.url)
        assert text.split()[0] in str(ask(limiter)[0])
        assert isinstance(ask(limiter)[0], Decision)
        assert server.connections == 2


def test_what_a_key_contains_closes_no_connection(ask: Callable[..., Any]) -> None:
    def handle(connection: FakeConnection) -> None:
        connection.shake_hands()
        while True:
            connection.send(b"-ERR rate_limiter: the value of {: -READONLY } is no bucket\r\n")
            connection.read_command()

    with fake_redis(handle) as server:
        limiter = limiter_on(server.url)
        for _ in range(3):
            assert isinstance(ask(limiter, ": -READONLY ")[0], StoreError)
        assert server.connections == 1


# --- Closing ---


def silent(connection: FakeConnection) -> None:
    connection.shake_hands()
    while True:
        connection.read_command()


async def test_closing_ends_the_calls_that_wait() -> None:
    with fake_redis(silent) as server:
        limiter = limiter_on(server.url)
        tasks = [
            asyncio.create_task(AsyncRateLimiter.of(limiter).hit(key)) for key in ("a", "b", "c")
        ]
        cancelled = asyncio.create_task(AsyncRateLimiter.of(limiter).hit("d"))
        await asyncio.sleep(0.05)
        cancelled.cancel()
        limiter.store.close()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
        assert [getattr(each, "kind", None) for each in results] == ["closed"] * 3
        health = limiter.store.health()
        assert (health["status"], health["errors"]) == ("ok", {"closed": 3})


@pytest.mark.parametrize("policy", ["memory", "allow"])
async def test_what_closing_ends_follows_the_policy(policy: str) -> None:
    with fake_redis(silent) as server:
        limiter = limiter_on(server.url, policy)
        waits = asyncio.create_task(AsyncRateLimiter.of(limiter).allow("k"))
        await asyncio.sleep(0.05)
        limiter.store.close()
        assert await asyncio.wait_for(waits, 20) is True


async def test_closing_before_anything_is_sent(server: RedisServer) -> None:
    limiter = limiter_on(server.url)
    waits = asyncio.create_task(AsyncRateLimiter.of(limiter).allow("k"))
    asyncio.get_running_loop().call_soon(limiter.store.close)
    results = await asyncio.wait_for(asyncio.gather(waits, return_exceptions=True), 20)
    assert results == [True] or getattr(results[0], "kind", None) == "closed"
    assert await AsyncRateLimiter.of(limiter).allow("k") is True


def test_closing_after_the_event_loop_is_closed() -> None:
    with fake_redis(silent) as server:
        limiter = limiter_on(server.url)
        loop = asyncio.new_event_loop()
        task = loop.create_task(AsyncRateLimiter.of(limiter).allow("k"))
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()
        limiter.store.close()
        assert not task.done()
        task._log_destroy_pending = False  # type: ignore[attr-defined]


# --- Deadlines ---


def test_the_first_decision_may_take_the_connect_timeout(ask: Callable[..., Any]) -> None:
    """A short process far from Redis would otherwise never ask it."""

    def handle(connection: FakeConnection) -> None:
        connection.read_command()
        time.sleep(1.5)
        connection.send(b"+OK\r\n")
        while connection.read_command():
            connection.send(ALLOWED)

    with fake_redis(handle) as server:
        query = "client_name=test&timeout=1&connect_timeout=30"
        assert isinstance(ask(limiter_on(f"{server.address}?{query}"))[0], Decision)


def test_only_the_first_decision_may(ask: Callable[..., Any]) -> None:
    def handle(connection: FakeConnection) -> None:
        while connection.read_command():
            pass

    with fake_redis(handle) as server:
        query = "client_name=test&timeout=0.1&connect_timeout=0.9"
        limiter = limiter_on(f"{server.address}?{query}")
        texts = [str(ask(limiter)[0]) for _ in range(2)]
        assert texts[0].endswith(("within 900 ms", "connecting took too long"))
        assert texts[1].endswith("within 100 ms")


def test_an_answer_to_the_first_decision_is_due_in_the_usual_time(ask: Callable[..., Any]) -> None:
    with fake_redis(silent) as server:
        error, took_s = ask(limiter_on(f"{server.address}?timeout=0.1&connect_timeout=30"))
        assert (error.kind, took_s < 20) == ("timeout", True)


async def test_a_key_that_is_asked_alone_keeps_its_first_deadline() -> None:
    """Its value has another type, so that the script for several keys leaves it out."""

    def handle(connection: FakeConnection) -> None:
        connection.shake_hands()
        connection.send(ALLOWED)
        connection.read_command()
        time.sleep(0.5)
        connection.send(b"*4\r\n:1\r\n:1000\r\n:2\r\n:0\r\n")
        silent(connection)

    with fake_redis(handle) as server:
        limiter = AsyncRateLimiter.of(limiter_on(f"{server.address}?timeout=3&connect_timeout=30"))
        assert await limiter.hit("first")
        good, error = await asyncio.gather(
            limiter.hit("good"), limiter.hit("odd"), return_exceptions=True
        )
        assert isinstance(good, Decision)
        assert isinstance(error, StoreError)
        within = re.fullmatch(r"no answer from .* within (\d+) ms", str(error))
        assert within is not None
        assert int(within[1]) <= 2500


# --- The server's clock ---


def put_a_day_ahead(server: RedisServer, limiter: RedisRateLimiter, key: str) -> None:
    """Write buckets as a server does whose clock is a day ahead."""
    with contextlib.closing(server.admin()) as client:
        full_us = (client.time()[0] + 86400) * 1_000_000
        for name in limiter.redis_keys(key):
            client.set(name, full_us)


@pytest.mark.parametrize("limits", ["10/second", "10/second; 20/second", "1/second; 5/second"])
def test_a_bucket_from_a_clock_ahead_lacks_no_more_than_it_can(
    server: RedisServer, ask: Callable[..., Any], limits: str
) -> None:
    limiter = limiter_on(server.url, limits=limits)
    put_a_day_ahead(server, limiter, "k")
    decision = ask(limiter)[0]
    assert not decision.allowed
    assert decision.retry_after <= 2
    wait_until(lambda: ask(limiter)[0].allowed, "it is full again")


async def test_buckets_from_a_clock_ahead_in_one_script(server: RedisServer) -> None:
    limiter = limiter_on(server.url, limits="10/second")
    waiting = AsyncRateLimiter.of(limiter)
    for key in ("a", "b"):
        put_a_day_ahead(server, limiter, key)
    decisions = await asyncio.gather(*(waiting.hit(key) for key in ("a", "b", "c")))
    assert [one.allowed for one in decisions] == [False, False, True]
    assert all(one.retry_after <= 2 for one in decisions)
    with contextlib.closing(server.admin()) as client:
        assert all(0 < client.pttl(*limiter.redis_keys(key)) <= 2100 for key in ("a", "b"))


def test_a_charge_heals_a_bucket_from_a_clock_ahead(server: RedisServer) -> None:
    limiter = limiter_on(server.url, limits="10/second")
    put_a_day_ahead(server, limiter, "k")
    assert limiter.peek("k").retry_after <= 2
    assert limiter.charge("k").reset_after <= 2
    with contextlib.closing(server.admin()) as client:
        assert 0 < client.pttl(*limiter.redis_keys("k")) <= 2100


def test_a_smaller_limit_takes_no_debt_from_a_bucket_that_it_shares(server: RedisServer) -> None:
    large, small = (
        RedisRateLimiter(limits, store=server.url, on_store_error="raise", exact_prefix="shared:")
        for limits in ("1000/hour", "10/minute")
    )
    large.charge("k", 900)
    assert not small.allow("k")
    assert large.peek("k").remaining < 101


@pytest.mark.parametrize("rate", [1e-9, 1e-12, 1e-300])
def test_a_rate_that_is_too_small_for_redis_is_named(rate: float) -> None:
    expected = rf"the refill_rate {rate:g} fills the capacity 5 in .*142"
    with pytest.raises(ValueError, match=expected):
        RateLimiter(Limit(5, rate), store="redis://localhost")
    with pytest.raises(ValueError, match=expected):
        TokenBucket("redis://localhost", 5, rate)
    assert RateLimiter(Limit(5, rate)).allow("k")

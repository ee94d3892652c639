"""Servers that send without measure: a decision keeps its deadline, memory and loop stay free.

The bounds themselves are tested in tests/c/test_reply.c and test_bounds.c.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rate_limiter import AsyncRateLimiter, Decision, StoreError
from support.fake_redis import FakeConnection, answering, endless, fake_redis
from support.redis_asking import ALLOWED, TIMEOUT_S, WORST_S, is_back, limiter_on
from support.redis_servers import RedisServer, make_tls, redis_server

TOO_LARGE, TOO_MANY, TOO_DEEP = "larger than 8 MB", "too many elements", "nested too deeply"
LONG_LINE, NOT_REDIS = "longer than 64 KB", "does not speak the protocol of Redis"

STREAMS = [
    pytest.param(b"$500000000000\r\n", b"x", TOO_LARGE, id="a string"),
    pytest.param(b"*2\r\n:1\r\n$500000000000\r\n", b"x", TOO_LARGE, id="a string in an array"),
    pytest.param(b"*500000\r\n", b"$64\r\n" + b"x" * 64 + b"\r\n", TOO_LARGE, id="many strings"),
    pytest.param(b"*1000000000\r\n", b":0\r\n", TOO_MANY, id="an array"),
    pytest.param(b"*500000\r\n", b"*2\r\n:1\r\n:1\r\n", TOO_MANY, id="many arrays"),
    pytest.param(b"", b"*1\r\n", TOO_DEEP, id="nesting"),
    pytest.param(b"*1\r\n" * 200_000, b":1\r\n", TOO_DEEP, id="deep nesting"),
    pytest.param(b"+", b"x", LONG_LINE, id="a status"),
    pytest.param(b"-ERR ", b"x", LONG_LINE, id="an error"),
    pytest.param(b":", b"1", LONG_LINE, id="an integer"),
    pytest.param(b"*", b"1", NOT_REDIS, id="a length"),
    pytest.param(b"", b">2\r\n+message\r\n+x\r\n", NOT_REDIS, id="pushes"),
    pytest.param(b"", b"|1\r\n+a\r\n+b\r\n", NOT_REDIS, id="attributes"),
    pytest.param(b"", b"_\r\n", NOT_REDIS, id="nils of RESP3"),
    pytest.param(b"", b"PING\r\n", NOT_REDIS, id="words"),
    pytest.param(ALLOWED, b"*2\r\n:0\r\n:9\r\n", "without a command", id="unasked answers"),
]
BLOCKED_S = 0.5
MB = 1 << 20
MEMORY_MB = 100


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / MB


@contextlib.asynccontextmanager
async def heartbeat() -> Any:
    """Measure how long the event loop computes at a time, at most, until the block ends.

    In CPU seconds of its thread: other load on the machine does not count.
    """
    longest = [0.0]

    async def beat() -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.001)
            longest[0] = max(longest[0], time.thread_time() - before)

    beating = asyncio.create_task(beat())
    try:
        yield longest
    finally:
        beating.cancel()


@pytest.mark.parametrize(("begin", "more", "why"), STREAMS)
def test_streams(ask: Callable[..., Any], begin: bytes, more: bytes, why: str) -> None:
    handlers = iter([endless(begin, more)] * 2)

    with fake_redis(lambda connection: next(handlers, answering(ALLOWED))(connection)) as server:
        limiter = limiter_on(server.address, "deny")
        before_mb = resident_mb()
        for _ in range(2):
            answer, took_s = ask(limiter)
            assert took_s < TIMEOUT_S + WORST_S
            assert isinstance(answer, Decision)
            # An answer in front of unasked ones is one.
            assert begin == ALLOWED or not answer.allowed
        assert resident_mb() - before_mb < MEMORY_MB
        is_back_from_denying(limiter, ask)
        health = limiter.store.health()
        if begin != ALLOWED:
            assert why in health["last_error"] or health["errors"].get("timeout"), health


def is_back_from_denying(limiter: Any, ask: Callable[..., Any]) -> None:
    deadline_s = time.monotonic() + 60
    while not (ask(limiter)[0].allowed and limiter.store.health()["status"] == "ok"):
        assert time.monotonic() < deadline_s, limiter.store.health()
        time.sleep(0.02)


@pytest.mark.parametrize(("begin", "more", "why"), STREAMS[:-1])
async def test_the_loop_is_not_blocked(begin: bytes, more: bytes, why: str) -> None:
    with fake_redis(endless(begin, more)) as server:
        limiter = AsyncRateLimiter.of(limiter_on(server.address + "?timeout=5"))
        before_mb = resident_mb()
        async with heartbeat() as longest:
            with pytest.raises(StoreError, match=why):
                await limiter.hit("k")
        assert longest[0] < BLOCKED_S
        assert resident_mb() - before_mb < MEMORY_MB


async def test_a_map_of_too_many_ranges() -> None:
    entry = b"*3\r\n:%d\r\n:%d\r\n*2\r\n$9\r\n127.0.0.1\r\n:7000\r\n"
    reply = b"*100000\r\n" + b"".join(entry % (i % 16384, i % 16384) for i in range(100_000))

    def handle(connection: FakeConnection) -> None:
        assert connection.shake_hands()[:2] == [b"CLUSTER", b"SLOTS"]
        connection.send(reply)
        connection.read_command()

    with fake_redis(handle) as server:
        address = f"redis+cluster://127.0.0.1:{server.port}?timeout=5&connect_timeout=20"
        limiter = AsyncRateLimiter.of(limiter_on(address))
        async with heartbeat() as longest:
            with pytest.raises(StoreError, match="no node returned the slots"):
                await limiter.hit("k")
        assert longest[0] < BLOCKED_S


def test_an_unasked_answer_is_not_the_next_one(ask: Callable[..., Any]) -> None:
    """It came while the connection was quiet, so the next request must not be decided by it."""

    def handle(connection: FakeConnection) -> None:
        connection.shake_hands()
        connection.send(ALLOWED)
        time.sleep(0.03)
        connection.send(b"*2\r\n:0\r\n:86400000000\r\n")
        connection.read_command()
        connection.send(ALLOWED)

    with fake_redis(handle) as server:
        limiter = limiter_on(server.url, limits="1/day")
        assert ask(limiter)[0].allowed is True
        time.sleep(0.15)
        second, _ = ask(limiter)
        assert isinstance(second, StoreError) or second.allowed is True
        is_back(limiter, ask)


def test_single_bytes_keep_no_connection_alive(ask: Callable[..., Any]) -> None:
    """A reply that never ends is no sign of life, although bytes of it come all the time."""

    def drip(connection: FakeConnection) -> None:
        connection.shake_hands()
        connection.send(b"$1000000\r\n")
        while True:
            connection.trickle(b"x", 0.02)

    handlers = iter([drip])
    with fake_redis(lambda connection: next(handlers, answering(ALLOWED))(connection)) as server:
        limiter = limiter_on(server.address + "?connect_timeout=0.3")
        assert ask(limiter)[0].kind == "timeout"
        is_back(limiter, ask)
        assert server.connections == 2


# --- Large replies within the bounds ---


@pytest.fixture(scope="module", params=["plain", "tls"])
def large(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[RedisServer]:
    folder = tmp_path_factory.mktemp("large")
    tls = make_tls(folder) if request.param == "tls" else None
    with redis_server(folder, tls=tls) as server:
        yield server


def test_large_replies_arrive_whole(large: RedisServer) -> None:
    limiter = limiter_on(large.url)
    command = limiter.store.connection.client.command
    text = bytes(range(256)) * (7 * MB // 256)
    command("SET", "text", text)
    assert command("GET", "text") == text
    fields = [f"{i:06}" for i in range(20_000)]
    for i in range(0, len(fields), 500):
        command("HSET", "rules", *(word for each in fields[i : i + 500] for word in (each, "{}")))
    assert len(command("HGETALL", "rules")) == 40_000
    command("SET", "text", text + text)
    with pytest.raises(StoreError, match=TOO_LARGE) as refused:
        command("GET", "text")
    assert refused.value.kind == "protocol"
    assert command("PING") == b"PONG"


async def test_many_answers_take_several_turns(large: RedisServer) -> None:
    """More answers than one step reads are waiting when the loop comes to read them."""
    limiter = AsyncRateLimiter.of(limiter_on(large.url, limits="100000/day; 100000/hour"))
    decisions = await asyncio.gather(*(limiter.hit(str(i)) for i in range(5000)))
    assert all(isinstance(each, Decision) and each.remaining == 99_999 for each in decisions)

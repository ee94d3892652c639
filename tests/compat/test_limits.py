"""What programs import from `limits`: texts, items, strategies and storages."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import time_machine
from rate_limiter.compat.limits import (
    RateLimitItem,
    RateLimitItemPerHour,
    RateLimitItemPerMinute,
    RateLimitItemPerSecond,
    parse,
    parse_many,
    storage,
    strategies,
)
from rate_limiter.compat.limits.errors import ConfigurationError, StorageError
from rate_limiter.compat.limits.storage import MemoryStorage, RedisStorage, storage_from_string
from rate_limiter.compat.limits.strategies import STRATEGIES, FixedWindowRateLimiter
from rate_limiter.compat.limits.util import Granularity
from support.redis_servers import RedisServer
from support.servers import free_port

# --- Items ---


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("5/minute", [(5, 60)]),
        ("5 per 2 hours", [(5, 7200)]),
        ("5PER MINUTE", [(5, 60)]),
        (
            "1/second; 10 / day,100/month | 7/year",
            [(1, 1), (10, 86400), (100, 2592000), (7, 31104000)],
        ),
        ("0/minute", [(0, 60)]),
        ("5/0 minute", [(5, 60)]),
    ],
)
def test_a_text_is_its_limits(text: str, items: list[tuple[int, int]]) -> None:
    assert [(item.amount, item.get_expiry()) for item in parse_many(text)] == items
    assert (parse(text).amount, parse(text).get_expiry()) == items[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "5/minute;",
        "five/minute",
        "5/fortnight",
        "-5/minute",
        "5//minute",
        b"5/minute",
        None,
    ],
)
def test_a_malformed_text_is_an_error(text: Any) -> None:
    with pytest.raises(ValueError, match=r"couldn't parse rate limit string|no granularity"):
        parse(text)


def test_items_are_values_with_a_key_and_an_order_by_their_unit() -> None:
    item = RateLimitItemPerMinute(5, 2)
    assert (item.amount, item.multiples, item.get_expiry(), str(item)) == (
        5,
        2,
        120,
        "5 per 2 minute",
    )
    assert item == parse("5 per 2 minutes")
    assert item != parse("5 per 120 seconds")
    assert hash(item) == hash(RateLimitItemPerMinute(5, 2))
    assert item.key_for("a", b"b", 3) == "LIMITER/a/b/3/5/2/minute"
    assert RateLimitItemPerMinute(5, namespace="mine").key_for() == "mine/5/1/minute"
    assert sorted([RateLimitItemPerHour(1), item, RateLimitItemPerSecond(9)]) == [
        RateLimitItemPerSecond(9),
        item,
        RateLimitItemPerHour(1),
    ]
    assert item != "5 per 2 minute"


# --- Strategies ---


@pytest.fixture(params=sorted(STRATEGIES))
def limiter(request: pytest.FixtureRequest) -> strategies.RateLimiter:
    return STRATEGIES[request.param](MemoryStorage())


def test_a_strategy_counts_each_client(limiter: strategies.RateLimiter) -> None:
    item = parse("3/minute")
    assert [limiter.hit(item, "a") for _ in range(4)] == [True, True, True, False]
    assert limiter.hit(item, "b", cost=2)
    assert not limiter.hit(item, "b", cost=2)
    assert limiter.test(item, "b")
    assert not limiter.test(item, "b", cost=2)
    assert limiter.get_window_stats(item, "b").remaining == 1
    limiter.give_back(item, "b", cost=2)
    assert limiter.get_window_stats(item, "b").remaining == 3
    limiter.clear(item, "a")
    assert limiter.hit(item, "a", cost=3)
    limiter.storage.clear(item.key_for("a"))
    assert limiter.hit(item, "a", cost=3)


def test_a_limit_of_nothing_denies_and_a_cost_of_nothing_passes(
    limiter: strategies.RateLimiter,
) -> None:
    assert not limiter.hit(parse("0/minute"), "a")
    assert limiter.hit(parse("1/minute"), "a")
    assert limiter.hit(parse("1/minute"), "a", cost=0)


def test_items_of_other_namespaces_windows_and_amounts_count_separately(
    limiter: strategies.RateLimiter,
) -> None:
    items = [
        RateLimitItemPerMinute(1),
        RateLimitItemPerMinute(1, namespace="x"),
        parse("1/hour"),
        parse("2/minute"),
    ]
    assert all(limiter.hit(item, "a") for item in items)
    assert [limiter.test(item, "a") for item in items] == [False, False, False, True]


@pytest.mark.parametrize(("name", "freed_s"), [("fixed-window", 50), ("moving-window", 50)])
def test_a_window_begins_with_the_first_request(name: str, freed_s: int) -> None:
    limiter, item = STRATEGIES[name](MemoryStorage()), parse("2/minute")
    with time_machine.travel(1_000_000_030, tick=False) as traveller:
        assert limiter.get_window_stats(item, "a") == (time.time(), 2)
        assert limiter.hit(item, "a")
        assert limiter.get_window_stats(item, "a") == (pytest.approx(time.time() + 60), 1)
        traveller.shift(10)
        assert limiter.hit(item, "a")
        assert not limiter.hit(item, "a")
        assert limiter.get_window_stats(item, "a") == (pytest.approx(time.time() + freed_s), 0)
        traveller.shift(freed_s - 0.001)
        assert not limiter.hit(item, "a")
        traveller.shift(0.001)
        assert limiter.hit(item, "a")


def test_denied_requests_count_if_the_storage_says_so() -> None:
    item = parse("5/hour")
    for count_denied, passed in ((False, True), (True, False)):
        limiter = FixedWindowRateLimiter(MemoryStorage(count_denied=count_denied))
        assert [limiter.hit(item, "a", cost=3) for _ in range(2)] == [True, False]
        assert limiter.hit(item, "a") is passed


def test_reset_forgets_all(limiter: strategies.RateLimiter) -> None:
    items = [parse("1/minute"), parse("1/hour")]
    assert all(limiter.hit(item, "a") for item in items)
    assert limiter.storage.reset() is None
    assert all(limiter.hit(item, "a") for item in items)


def test_threads_share_the_count_exactly(limiter: strategies.RateLimiter) -> None:
    item = parse("1000/hour")
    passed: list[bool] = []

    def ask() -> None:
        passed.extend([limiter.hit(item, "a") for _ in range(400)])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(passed) == 1000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FixedWindowRateLimiter(object()), "storage must be made by"),  # type: ignore[arg-type]
        (
            lambda: FixedWindowRateLimiter(MemoryStorage()).hit(parse("9999999999/minute"), "a"),
            "count must be",
        ),
        (
            lambda: FixedWindowRateLimiter(MemoryStorage()).hit(parse("5/99 year"), "a"),
            "window_s must be",
        ),
        (
            lambda: FixedWindowRateLimiter(MemoryStorage()).hit(parse("5/day"), "a", cost=-1),
            "cost must be",
        ),
    ],
)
def test_what_the_engine_cannot_count_is_an_error(call: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call()


# --- Storages ---


@pytest.mark.parametrize(
    ("uri", "kind", "address"),
    [
        ("memory://", "MemoryStorage", "memory://"),
        ("async+memory://", "MemoryStorage", "memory://"),
        ("shared:///dev/shm/app", "MemoryStorage", "shared:///dev/shm/app"),
        ("redis://host:1/2", "RedisStorage", "redis://host:1/2"),
        ("async+rediss://host", "RedisStorage", "rediss://host"),
        ("valkey://host", "RedisStorage", "valkey://host"),
        ("redis+unix:///run/redis.sock?db=1", "RedisStorage", "unix:///run/redis.sock?db=1"),
        ("unix:///run/redis.sock", "RedisStorage", "unix:///run/redis.sock"),
        ("redis+sentinel://a:1,b:2/main", "RedisSentinelStorage", "redis+sentinel://a:1,b:2/main"),
        ("async+redis+cluster://a:1,b:2", "RedisClusterStorage", "redis+cluster://a:1,b:2"),
    ],
)
def test_an_address_is_a_storage(uri: str, kind: str, address: str) -> None:
    made = storage_from_string(uri)
    assert (type(made).__name__, made.uri) == (kind, address)
    assert made.is_remote is (made.redis is not None)


def test_options_of_redis_py_become_parts_of_the_address() -> None:
    made = storage_from_string(
        "redis://host/1", socket_timeout=0.5, socket_connect_timeout=3, username="a", password="b:c"
    )
    assert made.uri == "redis://a:b%3Ac@host/1?timeout=0.5&connect_timeout=3"
    assert "b%3Ac" not in repr(made)
    pool = redis.ConnectionPool.from_url("redis://other:7/3")
    assert storage_from_string("redis://", connection_pool=pool).uri == "redis://other:7/3"


@pytest.mark.parametrize(
    ("uri", "options", "message"),
    [
        (
            "memcached://host:11211",
            {},
            "memcached:// is not supported: use 'shared:///dev/shm/app'",
        ),
        ("async+mongodb://host", {}, "mongodb:// is not supported: use a Redis"),
        ("mongodb+srv://host", {}, "mongodb:// is not supported"),
        ("sqlite://file", {}, "unknown storage scheme"),
        ("nothing", {}, "unknown storage scheme"),
        (None, {}, "unknown storage scheme"),
        ("redis://host:port", {}, "port"),
        ("shared://relative", {}, "absolute path"),
        ("memory://", {"socket_timeout": 1}, "not supported for memory://: socket_timeout"),
        ("redis://host", {"decode_responses": True}, "not supported for a Redis: decode_responses"),
        ("redis://a:b@host", {"password": "c"}, "in the address already"),
        ("redis://host", {"on_store_error": "panic"}, "on_store_error"),
        ("redis://host", {"connection_pool": SimpleNamespace()}, "connection_pool"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    uri: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        storage_from_string(uri, **options)


def test_processes_of_a_host_share_a_file(tmp_path: Path) -> None:
    item = parse("2/minute")
    for allowed in (True, True, False):
        limiter = FixedWindowRateLimiter(storage_from_string(f"shared://{tmp_path}/app"))
        assert limiter.hit(item, "a") is allowed
    other = storage_from_string(f"shared://{tmp_path}/app", key_prefix="other")
    assert FixedWindowRateLimiter(other).hit(item, "a")
    limiter.storage.reset()
    assert limiter.hit(item, "a")


def test_a_redis_counts_for_all_and_resets_only_what_is_ours(server: RedisServer) -> None:
    item = parse("2/minute")
    limiters = [FixedWindowRateLimiter(RedisStorage(server.url)) for _ in range(2)]
    other = FixedWindowRateLimiter(RedisStorage(server.url, key_prefix="other"))
    assert [limiters[i].hit(item, "a") for i in (0, 1, 0)] == [True, True, False]
    assert limiters[1].get_window_stats(item, "a").remaining == 0
    assert limiters[0].storage.check()
    assert other.hit(item, "a")
    assert limiters[1].storage.reset() == 1
    assert limiters[0].get_window_stats(item, "a").remaining == 2
    assert other.get_window_stats(item, "a").remaining == 1


def test_a_redis_is_awaited_too(server: RedisServer) -> None:
    limiter = FixedWindowRateLimiter(RedisStorage(server.url))
    item = parse("2/minute")

    async def ask() -> list[bool]:
        passed = [(await limiter.decide_async(item, "a")).allowed for _ in range(3)]
        await limiter.give_back_async(item, "a")
        return [*passed, (await limiter.decide_async(item, "a")).allowed]

    assert asyncio.run(ask()) == [True, True, False, True]


@pytest.mark.parametrize(("policy", "passed"), [("memory", [True, False]), ("allow", [True, True])])
def test_limits_hold_while_a_redis_is_down(policy: Any, passed: list[bool]) -> None:
    down = f"redis://127.0.0.1:{free_port()}"
    limiter = FixedWindowRateLimiter(RedisStorage(down, on_store_error=policy))
    assert [limiter.hit(parse("1/minute"), "a") for _ in range(2)] == passed
    assert not limiter.storage.check()


def test_an_error_of_a_redis_is_a_storage_error() -> None:
    down = f"redis://127.0.0.1:{free_port()}"
    limiter = FixedWindowRateLimiter(RedisStorage(down, on_store_error="raise"))
    with pytest.raises(StorageError):
        limiter.hit(parse("1/minute"), "a")


def test_a_unit_of_a_program_counts_too() -> None:
    class PerFortnight(RateLimitItem):
        GRANULARITY = Granularity(14 * 86400, "fortnight")

    limiter = FixedWindowRateLimiter(storage.MemoryStorage())
    assert [limiter.hit(PerFortnight(1), "a") for _ in range(2)] == [True, False]

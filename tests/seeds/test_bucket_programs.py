"""What programs may do with the buckets of the demos: each kind of argument, store and key."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import math
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
import redis.asyncio
from rate_limiter import (
    AsyncTokenBucketRateLimiter,
    RateLimitConfig,
    RateLimiterMiddleware,
    TokenBucket,
    TokenBucketRateLimiter,
)
from rate_limiter.interfaces import IAsyncRateLimitStore
from rate_limiter.memory_store import InMemoryStore
from rate_limiter.memory_store_async import AsyncInMemoryStore
from rate_limiter.middleware import DistributedTokenBucketMiddleware
from rate_limiter.redis_store import RedisStore
from rate_limiter.redis_store_async import AsyncRedisStore
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from support.asgi_requests import get
from support.redis_servers import RedisServer

plain_app = PlainTextResponse("here")


# --- The pluggable limiter ---


class DictStore:
    def __init__(self) -> None:
        self.states: dict[Any, Any] = {}

    def get_state(self, key: Any) -> Any:
        return self.states.get(key, {"tokens": None, "last_refill": 0.0})

    def set_state(self, key: Any, tokens: float, last_refill: float) -> None:
        self.states[key] = {"tokens": tokens, "last_refill": last_refill}


class AsyncDictStore(IAsyncRateLimitStore):
    def __init__(self) -> None:
        self.store = DictStore()

    async def get_state(self, key: Any) -> Any:
        return self.store.get_state(key)

    async def set_state(self, key: Any, tokens: float, last_refill: float) -> None:
        self.store.set_state(key, tokens, last_refill)


STORES: dict[str, Callable[[str], Any]] = {
    "memory": lambda address: InMemoryStore(),
    "own": lambda address: DictStore(),
    "redis": RedisStore,
    "asynchronous memory": lambda address: AsyncInMemoryStore(),
    "asynchronous own": lambda address: AsyncDictStore(),
    "asynchronous redis": AsyncRedisStore,
}


class Blocking:
    """An AsyncTokenBucketRateLimiter, called without await."""

    def __init__(self, limiter: Any) -> None:
        self.limiter = limiter

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.limiter, name)
        return lambda *given: asyncio.run(method(*given))


@pytest.fixture(params=STORES)
def limiter_for(request: pytest.FixtureRequest, server: RedisServer) -> Callable[[Any], Any]:
    """Return a function that makes a limiter for a configuration, on each kind of store."""

    def make(config: Any) -> Any:
        store = STORES[request.param](server.url)
        if request.param.startswith("asynchronous"):
            return Blocking(AsyncTokenBucketRateLimiter(config, store))
        return TokenBucketRateLimiter(config, store)

    return make


def test_keys_of_any_type(limiter_for: Callable[[Any], Any]) -> None:
    limiter = limiter_for(RateLimitConfig(capacity=1, refill_rate=0))
    for key in ("k", 42, 4.5, None, uuid.UUID(int=5), ("a", 1)):
        assert limiter.get_remaining_tokens(key) == 1
        assert [limiter.allow_request(key) for _ in range(2)] == [True, False]
        assert limiter.get_headers(key)["X-RateLimit-Remaining"] == "0"


@pytest.mark.parametrize("refill_rate", [0, 1, 5.0])
def test_a_capacity_of_0_denies_everything(
    limiter_for: Callable[[Any], Any], refill_rate: float, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = limiter_for(RateLimitConfig(capacity=0, refill_rate=refill_rate))
    assert caplog.text == ""
    assert [limiter.allow_request("k") for _ in range(2)] == [False, False]
    assert limiter.allow_request("k", 0.001) is False
    assert limiter.get_remaining_tokens("k") == 0
    assert limiter.get_headers("k") == {
        "X-RateLimit-Limit": "0",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": "0.00",
    }


@pytest.mark.parametrize("capacity", [1, 2.5, 1000000])
@pytest.mark.parametrize("refill_rate", [0, 0.001, 100])
def test_headers_are_finite_numbers(
    limiter_for: Callable[[Any], Any], capacity: float, refill_rate: float
) -> None:
    limiter = limiter_for(RateLimitConfig(capacity, refill_rate))  # type: ignore[arg-type]
    for _ in range(2):
        headers = limiter.get_headers("k")
        assert all(math.isfinite(float(value)) for value in headers.values())
        assert float(headers["X-RateLimit-Limit"]) == capacity
        limiter.allow_request("k", capacity)


def test_headers_of_the_slowest_bucket() -> None:
    limiter = TokenBucketRateLimiter(RateLimitConfig(10**15, 5e-324), DictStore())  # type: ignore[arg-type]
    limiter.allow_request("k", 10**15)
    assert limiter.get_headers("k")["X-RateLimit-Reset"] == "0.00"


def test_a_configuration_that_changes_is_followed(limiter_for: Callable[[Any], Any]) -> None:
    config = RateLimitConfig(capacity=1, refill_rate=0)
    limiter = limiter_for(config)
    assert [limiter.allow_request("a") for _ in range(2)] == [True, False]
    config.capacity = 3
    config.tokens_per_request = 1.5
    assert limiter.get_headers("b")["X-RateLimit-Limit"] == "3"
    assert [limiter.allow_request("b") for _ in range(3)] == [True, True, False]


def test_a_configuration_of_another_class(limiter_for: Callable[[Any], Any]) -> None:
    limiter = limiter_for(SimpleNamespace(capacity=2, refill_rate=0))
    assert [limiter.allow_request("k") for _ in range(3)] == [True, True, False]


NO_TOKENS = {"tokens": 0.0, "last_refill": 0.0}


def test_store_methods_that_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RateLimitConfig(capacity=5, refill_rate=0)
    store = InMemoryStore()
    store.get_state = Mock(return_value=NO_TOKENS)  # type: ignore[method-assign]
    assert TokenBucketRateLimiter(config, store).allow_request("k") is False
    mock = Mock(spec=InMemoryStore)
    mock.get_state.return_value = NO_TOKENS
    assert TokenBucketRateLimiter(config, mock).allow_request("k") is False
    monkeypatch.setattr(InMemoryStore, "get_state", lambda self, key: NO_TOKENS)
    assert TokenBucketRateLimiter(config, InMemoryStore()).allow_request("k") is False


async def test_asynchronous_store_methods_that_are_replaced() -> None:
    config = RateLimitConfig(capacity=5, refill_rate=0)
    for store in (AsyncMock(), Mock(spec=AsyncInMemoryStore)):
        store.get_state.return_value = NO_TOKENS
        assert await AsyncTokenBucketRateLimiter(config, store).allow_request("k") is False
        store.get_state.return_value = {"tokens": 5.0, "last_refill": 0.0}
        assert await AsyncTokenBucketRateLimiter(config, store).allow_request("k") is True
        store.set_state.assert_awaited_once()


async def test_asynchronous_methods_behind_a_decorator() -> None:
    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def wrapped(*given: Any) -> Any:
            return method(*given)

        return wrapped

    class Timed:
        get_state = timed(AsyncDictStore.get_state)
        set_state = timed(AsyncDictStore.set_state)
        store = DictStore()

    limiter = AsyncTokenBucketRateLimiter(RateLimitConfig(1, 0), Timed())  # type: ignore[arg-type]
    assert [await limiter.allow_request("k") for _ in range(2)] == [True, False]


async def test_the_asynchronous_store_by_its_parameters(server: RedisServer) -> None:
    client = redis.asyncio.Redis(port=server.port, decode_responses=True)
    by_address = AsyncRedisStore(redis_url=server.address, prefix="p")
    stores = AsyncRedisStore(), AsyncRedisStore(client), by_address
    assert [store.prefix for store in stores] == ["ratelimit", "ratelimit", "p"]
    assert stores[1].redis is RedisStore(client).redis is TokenBucket(client, 1, 1).redis_client
    assert stores[1].redis is client
    limiter = AsyncTokenBucketRateLimiter(RateLimitConfig(2, 0), AsyncRedisStore(server.url, "p"))
    assert await limiter.allow_request("k")
    assert await by_address.redis.keys() == ["p:k"]
    await by_address.redis.aclose()
    await client.aclose()


# --- The token-bucket middleware and the distributed middleware ---


def test_identifiers_of_any_type(server: RedisServer) -> None:
    bucket = TokenBucket(server.url, 1, 0)
    for identifier in ("k", 42, 4.5, None, uuid.UUID(int=5)):
        assert bucket.get_remaining(identifier) == 1  # type: ignore[arg-type]
        assert [bucket.consume(identifier) for _ in range(2)] == [True, False]  # type: ignore[arg-type]
    with contextlib.closing(server.admin()) as admin:
        assert admin.exists("rate_limit:42", "rate_limit:None") == 2


def test_a_bucket_whose_capacity_changes(server: RedisServer) -> None:
    bucket = TokenBucket(server.url, 1, 0.001)
    assert [bucket.consume("k") for _ in range(2)] == [True, False]
    bucket.capacity = 3
    assert bucket.get_remaining("k") == 2


@pytest.mark.parametrize("refill_rate", [0, 2.0])
@pytest.mark.parametrize("capacity", [0, 0.0])
def test_a_bucket_of_0_tokens(server: RedisServer, capacity: float, refill_rate: float) -> None:
    bucket = TokenBucket(server.url, capacity, refill_rate)
    assert bucket.capacity == 0
    assert bucket.get_remaining("k") == 0
    assert [bucket.consume("k"), bucket.consume("k", tokens=5)] == [False, False]


def quickstart(server: RedisServer, capacity: float, refill_rate: float) -> Any:
    return RateLimiterMiddleware(plain_app, server.url, capacity, refill_rate)  # type: ignore[arg-type]


def distributed(server: RedisServer, capacity: float, refill_rate: float) -> Any:
    app = Starlette()
    app.mount("/", plain_app)
    app.state.redis = server.url
    middleware = DistributedTokenBucketMiddleware
    app.add_middleware(middleware, capacity=capacity, refill_rate=refill_rate)
    return app


@pytest.mark.parametrize("make", [quickstart, distributed])
@pytest.mark.parametrize(("capacity", "refill_rate"), [(0, 1), (0, 0), (1, 0), (2.5, 0.01)])
def test_middlewares_with_buckets_at_the_edge(
    server: RedisServer, make: Callable[..., Any], capacity: float, refill_rate: float
) -> None:
    answers = get(make(server, capacity, refill_rate), *["/v1"] * 4)
    codes = [one.status_code for one in answers]
    assert (codes.count(200), codes.count(429)) == (int(capacity), 4 - int(capacity))
    for answer in answers:
        assert answer.headers["X-RateLimit-Limit"] == str(int(capacity))
        numbers = [value for name, value in answer.headers.items() if "ratelimit" in name]
        assert all(value.isdigit() for value in [*numbers, answer.headers.get("Retry-After", "1")])


def test_attributes_of_the_distributed_middleware() -> None:
    made = DistributedTokenBucketMiddleware(plain_app, capacity=3, refill_rate=0.5)
    assert (made.capacity, made.refill_rate) == (3, 0.5)


@pytest.mark.parametrize("variable", [None, "", "env.json"])
def test_one_file_of_rules(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    """The variable of the environment, else of .env, else the file of that name."""
    monkeypatch.chdir(tmp_path)
    if variable is None:
        monkeypatch.delenv("RATE_LIMIT_RULES_PATH", raising=False)
    else:
        monkeypatch.setenv("RATE_LIMIT_RULES_PATH", variable)
    for name, capacity in (("rate_limits.json", 1), ("other.json", 2), ("env.json", 3)):
        rules = {"v1": {"capacity": capacity, "refill_rate": 0.01}}
        (tmp_path / name).write_text(json.dumps(rules))
    (tmp_path / ".env").write_text("RATE_LIMIT_RULES_PATH=other.json  # of this machine\n")
    (answer,) = get(distributed(server, 10, 1), "/v1")
    assert answer.headers["X-RateLimit-Limit"] == ("3" if variable else "2")


def test_an_env_file_that_names_no_rules(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RATE_LIMIT_RULES_PATH", raising=False)
    (tmp_path / ".env").write_text("REDIS_HOST=localhost\n")
    assert get(distributed(server, 10, 1), "/v1")[0].headers["X-RateLimit-Limit"] == "10"
    (tmp_path / "rate_limits.json").write_text('{"v1": {"capacity": 4, "refill_rate": 1}}')
    assert get(distributed(server, 10, 1), "/v1")[0].headers["X-RateLimit-Limit"] == "4"

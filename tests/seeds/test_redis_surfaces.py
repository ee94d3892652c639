"""Programs written for the five public demos, on a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from fastapi import FastAPI
from flask import Flask
from rate_limiter import (
    AsyncTokenBucketRateLimiter,
    RateLimitConfig,
    RateLimiterMiddleware,
    RateLimitPolicy,
    TokenBucket,
    TokenBucketLimiter,
    TokenBucketRateLimiter,
)
from rate_limiter.cli.main import main as command
from rate_limiter.fastapi import RateLimit
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.keys import key_for_ip, pick_identity_key
from rate_limiter.middleware import DistributedTokenBucketMiddleware, RateLimitMiddleware
from rate_limiter.redis_client import get_redis
from rate_limiter.redis_store_async import AsyncRedisStore
from rate_limiter.stores.redis_address import redis_address
from rate_limiter.stores.redis_store import RedisStore
from rate_limiter.token_bucket import TokenBucketLimiter as SameTokenBucketLimiter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from support.asgi_requests import get
from support.redis_servers import PATIENT, RedisServer
from support.servers import free_port


@pytest.fixture(params=["sync", "sync decoding", "asyncio", "asyncio decoding", "address"])
def client(
    request: pytest.FixtureRequest, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Return each kind of value that configures a program's Redis."""
    if request.param == "address":
        return server.url
    # The timeouts of a client are not taken over, and the usual ones are short for a busy machine.
    monkeypatch.setattr(
        "rate_limiter.stores.redis_store.redis_address",
        lambda given: f"{redis_address(given)}?{PATIENT}",
    )
    module = redis.asyncio if "asyncio" in request.param else redis
    return module.Redis(port=server.port, decode_responses="decoding" in request.param)


@pytest.fixture
def admin(server: RedisServer) -> Iterator[redis.Redis]:
    with contextlib.closing(server.admin(decode_responses=True)) as admin:
        yield admin


plain_app = PlainTextResponse("here")

UNREACHABLE = f"redis://127.0.0.1:{free_port()}/0"


# --- 000 ---


def test_token_bucket(client: Any, admin: redis.Redis) -> None:
    bucket = TokenBucket(client, 10, 0.001)
    assert (bucket.capacity, bucket.refill_rate) == (10, 0.001)
    assert bucket.get_remaining("alice") == 10
    assert admin.exists("rate_limit:alice") == 0
    assert bucket.consume("alice") is True
    assert bucket.consume("alice", 4) is True
    assert bucket.get_remaining("alice") == 5
    assert bucket.consume("alice", tokens=6) is False
    assert bucket.get_remaining("alice") == 5
    assert admin.ttl("rate_limit:alice") > 9_900  # the time to fill, all of it
    assert TokenBucket(client, 20, 0.001).get_remaining("alice") == 15
    admin.delete("rate_limit:alice")
    assert bucket.get_remaining("alice") == 10


def test_eight_threads_never_exceed_the_capacity(server: RedisServer) -> None:
    bucket = TokenBucket(redis.Redis(port=server.port), 10, 0.0001)
    passed: list[bool] = []
    threads = [
        threading.Thread(target=lambda: passed.extend(bucket.consume("k") for _ in range(10)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(passed) == 10


def test_middleware_of_000(client: Any, admin: redis.Redis) -> None:
    app = RateLimiterMiddleware(plain_app, client, capacity=2, refill_rate=0.01)
    one, two, three, health = get(app, "/", "/api/data", "/", "/health")
    assert [each.status_code for each in (one, two, three, health)] == [200, 200, 429, 200]
    assert (one.headers["X-RateLimit-Limit"], one.headers["X-RateLimit-Remaining"]) == ("2", "1")
    assert three.json() == {"detail": "Rate limit exceeded. Please try again later."}
    assert three.headers["X-RateLimit-Remaining"] == "0"
    assert 90 <= int(three.headers["Retry-After"]) <= 100
    assert "X-RateLimit-Limit" not in health.headers
    assert admin.keys() == ["rate_limit:192.0.2.1"]
    (other,) = get(app, "/", **{"X-Forwarded-For": " 203.0.113.9 , 10.0.0.1"})
    assert other.status_code == 200
    assert admin.exists("rate_limit:203.0.113.9")
    get(app, "/", **{"X-Forwarded-For": "x" * 5000})
    assert max(map(len, admin.keys())) < 100


def test_middleware_without_redis() -> None:
    app = RateLimiterMiddleware(plain_app, UNREACHABLE, capacity=2, refill_rate=0.01)
    assert [each.status_code for each in get(app, "/", "/", "/")] == [200, 200, 429]


# --- 001 ---


def test_store(client: Any, admin: redis.Redis) -> None:
    store = RedisStore(client)
    limiter = TokenBucketRateLimiter(RateLimitConfig(5, 0.001), store)
    assert limiter.get_remaining_tokens("u") == 5
    assert store.get_state("u")["tokens"] is None
    assert [limiter.allow_request("u", 2) for _ in range(3)] == [True, True, False]
    headers = limiter.get_headers("u")
    assert headers["X-RateLimit-Limit"] == "5"
    assert headers["X-RateLimit-Remaining"] == "1"
    assert 3_900 < float(headers["X-RateLimit-Reset"]) <= 4_000
    assert admin.keys() == ["ratelimit:u"]
    assert store.get_state("u")["tokens"] == pytest.approx(1, abs=0.01)
    now_s = time.time()
    store.set_state("u", 3.5, now_s)
    assert store.get_state("u") == {"tokens": 3.5, "last_refill": pytest.approx(now_s, abs=1e-5)}
    assert [limiter.allow_request("u") for _ in range(4)] == [True, True, True, False]
    store.set_state("u", None, 0.0)
    assert limiter.get_remaining_tokens("u") == 5
    frozen = TokenBucketRateLimiter(RateLimitConfig(2, 0), RedisStore(client, prefix="frozen"))
    assert [frozen.allow_request("u") for _ in range(3)] == [True, True, False]
    assert frozen.get_headers("u")["X-RateLimit-Reset"] == "0.00"


def test_state_without_a_limiter(server: RedisServer) -> None:
    limiter = TokenBucketRateLimiter(RateLimitConfig(5, 0.001), RedisStore(server.url))
    limiter.allow_request("u")
    with pytest.raises(LookupError, match="no limiter uses"):
        RedisStore(server.url).get_state("u")


def test_eight_threads_admit_exactly_five(server: RedisServer) -> None:
    limiter = TokenBucketRateLimiter(RateLimitConfig(5, 0.0001), RedisStore(server.url))
    passed: list[bool] = []
    threads = [
        threading.Thread(target=lambda: passed.append(limiter.allow_request("k"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(passed) == 5


async def test_async_store(client: Any, admin: redis.Redis) -> None:
    store = AsyncRedisStore(client)
    limiter = AsyncTokenBucketRateLimiter(RateLimitConfig(5, 0.0001), store)
    assert await limiter.get_remaining_tokens("u") == 5
    assert sum(await asyncio.gather(*(limiter.allow_request("u") for _ in range(50)))) == 5
    assert admin.keys() == ["ratelimit:u"]
    assert (await limiter.get_headers("u"))["X-RateLimit-Remaining"] == "0"
    await store.set_state("u", 2.0, time.time())
    assert (await store.get_state("u"))["tokens"] == 2.0
    assert await store.ping() is True
    assert store.health()["status"] == "ok"


async def test_stores_of_the_other_colour(server: RedisServer) -> None:
    with pytest.raises(TypeError, match="it is for AsyncTokenBucketRateLimiter"):
        TokenBucketRateLimiter(RateLimitConfig(5, 1), AsyncRedisStore(server.url))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="it is for TokenBucketRateLimiter"):
        AsyncTokenBucketRateLimiter(RateLimitConfig(5, 1), RedisStore(server.url))  # type: ignore[arg-type]


def test_store_without_redis() -> None:
    store = RedisStore(UNREACHABLE)
    limiter = TokenBucketRateLimiter(RateLimitConfig(2, 0.001), store)
    assert [limiter.allow_request("u") for _ in range(3)] == [True, True, False]
    assert store.ping() is False
    assert store.health()["status"] == "degraded"


# --- 002 ---


def distributed(calls: list[str], **state: Any) -> Starlette:
    def endpoint(request: Request) -> JSONResponse:
        calls.append(request.url.path)
        if request.url.path == "/fails":
            raise RuntimeError("the endpoint's own")
        return JSONResponse({"ok": True})

    app = Starlette(routes=[Route("/", endpoint), Route("/fails", endpoint)])
    app.add_middleware(DistributedTokenBucketMiddleware, capacity=20, refill_rate=0.01)
    for name, value in state.items():
        setattr(app.state, name, value)
    return app


def test_a_client_of_002_cannot_write_lines_of_the_log(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rate_limiter")
    app = distributed([], redis=redis.asyncio.Redis(port=server.port))
    header = "6.6.6.6\x1b[2J\x85Client 'root': Allowed=True".encode("latin-1")
    get(app, "/", **{"x-forwarded-for": header})  # type: ignore[arg-type]
    (line,) = [one for one in caplog.messages if one.startswith("Client")]
    assert line.isascii()
    assert line.isprintable()


def test_middleware_of_002(
    server: RedisServer, admin: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rate_limiter")
    calls: list[str] = []
    app = distributed(calls, redis=redis.asyncio.Redis(port=server.port))
    admin.script_flush()
    answers = get(app, *["/"] * 21)
    assert [each.status_code for each in answers] == [200] * 20 + [429]
    assert answers[0].headers["X-RateLimit-Remaining"] == "19"
    denied = answers[-1]
    assert (denied.text, denied.headers["X-RateLimit-Limit"]) == ("Too Many Requests", "20")
    assert denied.headers["X-RateLimit-Remaining"] == "0"
    assert 90 <= int(denied.headers["Retry-After"]) <= 100
    assert admin.keys() == ["rate-limit:192.0.2.1"]
    assert "Client '192.0.2.1': Allowed=True, Tokens Left=19.00" in caplog.messages
    admin.flushall()
    with pytest.raises(RuntimeError, match="the endpoint's own"):
        get(app, "/fails")
    assert calls.count("/fails") == 1


def test_middleware_of_002_without_a_client(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    assert [each.status_code for each in get(distributed(calls), *["/"] * 3)] == [200] * 3
    assert "app.state.redis is missing" in caplog.text


# --- 003 ---


def test_policy_limiter(client: Any, admin: redis.Redis) -> None:
    assert SameTokenBucketLimiter is TokenBucketLimiter
    policy = RateLimitPolicy(rate_per_sec=1, burst=2, ttl_seconds=60)
    limiter = TokenBucketLimiter(client, policy)
    key = pick_identity_key(policy.prefix, None, "bob", "::1")
    assert key == "rl:tb:user:bob"
    assert limiter.check(key).remaining == 1.0
    assert limiter.check(key).allowed is True
    denied = limiter.check(key)
    assert denied.allowed is False
    assert 0 < denied.remaining < 1
    assert 0 < denied.retry_after_ms <= 1000
    time.sleep(denied.retry_after_ms / 1000)
    assert limiter.check(key).allowed is True
    assert 55 < admin.ttl(key) <= 60


def test_keys_of_003() -> None:
    assert key_for_ip("2001:db8::1", "p") == "p:ip:2001_db8__1"
    assert pick_identity_key("p", "a", "u", "i") == "p:apikey:a"
    assert pick_identity_key("p", "", "", "i") == "p:ip:i"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate_per_sec": 0}, "rate_per_sec must be above 0, got 0"),
        ({"rate_per_sec": -1}, "refill_rate"),
        ({"rate_per_sec": "x"}, "refill_rate"),
        ({"burst": 0}, "burst must be a whole number from 1 on, got 0"),
        ({"burst": 1.5}, "burst must be a whole number"),
        ({"ttl_seconds": 9}, "ttl_seconds must be a whole number from 10 on, got 9"),
        ({"cost": 0}, "cost must be a whole number from 1 on, got 0"),
        ({"cost": 3}, "cost must be at most burst"),
        ({"prefix": ""}, "prefix must be a text that is not empty"),
    ],
)
def test_bad_policy(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RateLimitPolicy(**{"rate_per_sec": 5, "burst": 2} | settings)


def test_get_redis(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", server.url)
    with contextlib.closing(get_redis()) as client:
        assert client.ping()
        assert TokenBucketLimiter(client, RateLimitPolicy(5, 2)).check("k").allowed
    monkeypatch.delenv("REDIS_URL")
    assert get_redis().connection_pool.connection_kwargs["port"] == 6379
    assert get_redis("redis://h:7/2").connection_pool.connection_kwargs["db"] == 2


# --- Our own middleware, dependency and extension ---


def test_asgi_middleware(server: RedisServer) -> None:
    async def cost(scope: Any) -> float:
        return 1 if scope["path"] == "/" else 2

    app = RateLimitMiddleware(plain_app, limits="3/day", store=server.url, cost=cost)
    answers = get(app, "/", "/x", "/")
    assert [each.status_code for each in answers] == [200, 200, 429]
    assert answers[1].headers["X-RateLimit-Remaining"] == "0"
    again = RateLimitMiddleware(plain_app, limits="3/day", store=server.url)
    assert get(again, "/")[0].status_code == 429


@pytest.mark.parametrize(("policy", "status"), [("deny", 503), ("allow", 200), ("memory", 200)])
def test_asgi_middleware_without_redis(policy: str, status: int) -> None:
    app = RateLimitMiddleware(plain_app, limits="3/day", store=UNREACHABLE, on_store_error=policy)
    answer = get(app, "/")[0]
    assert answer.status_code == status
    if policy == "deny":
        assert "temporarily unavailable" in answer.json()["detail"]
        assert answer.headers["Retry-After"] == "1"


def fastapi_app(store: str, policy: str) -> FastAPI:
    from fastapi import Depends

    app = FastAPI()
    first = RateLimit("2/day", store=store, name="first", on_store_error=policy)
    second = RateLimit("2/day", store=store, name="second", on_store_error=policy)
    app.get("/first", dependencies=[Depends(first)])(lambda: 1)
    app.get("/second", dependencies=[Depends(second)])(lambda: 2)
    return app


def test_fastapi(server: RedisServer) -> None:
    app = fastapi_app(server.url, "raise")
    answers = get(app, "/first", "/first", "/first", "/second")
    assert [each.status_code for each in answers] == [200, 200, 429, 200]
    assert get(fastapi_app(UNREACHABLE, "deny"), "/first")[0].status_code == 503
    with pytest.raises(ValueError, match="a RateLimit needs a name"):
        RateLimit("2/day", store=server.url)


def flask_app(store: str, policy: str) -> Flask:
    app = Flask("shop")
    limiter = FlaskRateLimiter(app, default_limits="3/day", store=store, on_store_error=policy)

    @app.get("/")
    def index() -> str:
        return "index"

    @app.get("/a")
    @limiter.limit("1/day")
    def a() -> str:
        return "a"

    @app.get("/b")
    @limiter.limit("1/day")
    @limiter.limit("1/day")
    def b() -> str:
        return "b"

    return app


def test_flask(server: RedisServer, admin: redis.Redis) -> None:
    clients = [flask_app(server.url, "raise").test_client() for _ in range(2)]
    # Two processes of one application have the same buckets, two views have their own.
    assert [clients[i % 2].get("/a").status_code for i in range(2)] == [200, 429]
    assert [clients[i % 2].get("/b").status_code for i in range(2)] == [200, 429]
    assert [clients[i % 2].get("/").status_code for i in range(4)] == [200, 200, 200, 429]
    assert admin.exists("rl:shop:{127.0.0.1}:3/day")
    assert flask_app(UNREACHABLE, "deny").test_client().get("/").status_code == 503
    assert flask_app(UNREACHABLE, "memory").test_client().get("/").status_code == 200


# --- The command ---


def test_command(
    server: RedisServer, admin: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    app = RateLimitMiddleware(plain_app, limits="3/day; 9/hour", store=server.url, name="api")
    get(app, "/")
    store = ["--store", server.url]
    assert command(["inspect", "192.0.2.1", *store]) == 0
    out = capsys.readouterr().out
    assert "rl:api:{192.0.2.1}:3/day: 2" in out
    assert "of 3 tokens, full in 28" in out
    assert "rl:api:{192.0.2.1}:9/hour: 8" in out
    assert (
        command(["inspect", "192.0.2.1", "--limit", "3/day", "--name", "api", "--json", *store])
        == 0
    )
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["limit"], round(shown["tokens"]), shown["key"]) == (
        "3/day",
        2,
        "rl:api:{192.0.2.1}:3/day",
    )
    assert 28_000 < shown["full_after_s"] < shown["expires_after_s"] < 28_801
    assert command(["reset", "192.0.2.1", *store]) == 0
    assert (capsys.readouterr().out, admin.dbsize()) == ("2 removed\n", 0)
    assert command(["inspect", "192.0.2.1", *store]) == 0
    assert "no buckets, so all are full" in capsys.readouterr().out


def test_command_on_raw_keys(server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    TokenBucket(server.url, 10, 0.1).consume("alice", 4)
    raw = ["--raw", "rate_limit:alice", "--store", server.url]
    assert command(["inspect", *raw, "--limit", "10 per 100 seconds"]) == 0
    assert re.search(r": 6(\.[0-4]\d*)? of 10 tokens", capsys.readouterr().out)
    assert command(["inspect", *raw]) == 0
    assert re.search(r"full in (3[5-9]\.\d+|40\.000) s", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--store", UNREACHABLE], 1, "Connection refused"),
        (["--store", "redis://h:x"], 2, "the port must be a number"),
    ],
)
def test_command_fails_in_one_line(
    words: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["inspect", "k", *words]) == status
    err = capsys.readouterr().err
    assert (message in err, err.count("\n"), err.startswith("rate-limiter: ")) == (True, 1, True)


def test_command_on_something_else(
    server: RedisServer, admin: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    admin.set("x", "hello")
    assert command(["inspect", "--raw", "x", "--store", server.url]) == 1
    assert "the value of 'x' is no bucket" in capsys.readouterr().err


def test_denied_as_plain_text_of_an_application(server: RedisServer) -> None:
    app = RateLimitMiddleware(
        plain_app,
        limits="1/day",
        store=server.url,
        denied=lambda scope, decision: PlainTextResponse("no", 429),
    )
    assert [each.text for each in get(app, "/", "/")][1] == "no"

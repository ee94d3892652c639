"""tracing=True: events for denials and failures, spans around the round trips to a Redis."""

from __future__ import annotations

import asyncio
import contextlib
import math
import pickle
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import FastAPI
from flask import Flask
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from rate_limiter import AsyncRateLimiter, Decision, Limit, RateLimiter, StoreError, hit_all
from rate_limiter.asgi import RateLimitMiddleware, Store
from rate_limiter.config import RateLimitPolicy
from rate_limiter.fastapi import RateLimits
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.observe import tracing
from rate_limiter.observe.tracing import key_hash
from rate_limiter.redis_store import RedisStore
from rate_limiter.settings import Settings
from rate_limiter.token_bucket import TokenBucketLimiter
from rate_limiter.wsgi import RateLimitMiddleware as WsgiMiddleware
from support.fake_redis import fake_redis
from support.fronts import PEER, ask_asgi, ask_flask, every_front
from support.redis_servers import RedisServer
from support.servers import free_port
from support.tracing import Traces, shape
from werkzeug.test import EnvironBuilder, run_wsgi_app

# --- Denials ---


@every_front
def test_a_denial_is_an_event(front: Any, traces: Traces) -> None:
    ask = front("2/hour", lambda request: "ok", tracing=True)
    with traces.request():
        assert [ask()[0] for _ in range(2)] == [200, 200]
    assert not traces.events()
    with traces.request():
        assert ask()[0] == 429
    ((name, attributes),) = traces.events()
    assert name == "rate_limiter.denied"
    assert attributes.pop("rate_limiter.rule") in ("default", "2/hour")
    assert attributes.pop("rate_limiter.retry_after") == 1800
    assert attributes == {
        "rate_limiter.limit": 2,
        "rate_limiter.remaining": 0,
        "rate_limiter.key_hash": key_hash(PEER),
        "rate_limiter.store": "memory",
    }


def test_wsgi_and_a_rule_that_denies(traces: Traces) -> None:
    rules = {"default": {"deny": True}, "/free": {"exempt": True}}
    gate = WsgiMiddleware(lambda environ, start: [], rules=rules, tracing=True)
    with traces.request():
        status = run_wsgi_app(gate, EnvironBuilder("/a").get_environ())[1]
    assert status.startswith("429")
    ((_, attributes),) = traces.events()
    assert attributes["rate_limiter.rule"] == "default"
    assert "rate_limiter.store" not in attributes  # it has no limiter
    assert "rate_limiter.retry_after" not in attributes  # it never passes


@every_front
def test_no_event_without_tracing(front: Any, traces: Traces) -> None:
    ask = front("1/hour", lambda request: "ok")
    with traces.request():
        assert [ask()[0] for _ in range(2)] == [200, 429]
    assert not traces.events()


def test_shadow_rules_deny_nothing(traces: Traces) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    rules = {"default": {"limits": "1/hour", "shadow": True}}
    gate = RateLimitMiddleware(app, rules=rules, tracing=True)
    with traces.request():
        assert [ask_asgi(gate)[0] for _ in range(2)] == [200, 200]
    assert not traces.events()


def test_a_request_that_is_not_traced() -> None:
    """Nothing fails without a current span."""
    tracing.trace_denial("rule", "key", Decision(False), "memory")


def forget_secret() -> None:
    tracing._keyed.cache_clear()
    key_hash.cache_clear()


@pytest.mark.parametrize("secret", ["s" * 16, ""])
def test_hashes_of_keys(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATE_LIMITER_TRACE_SECRET", secret)
    forget_secret()
    try:
        first = key_hash("10.0.0.1")
        assert len(first) == 16
        assert key_hash(b"10.0.0.1") == first != key_hash("10.0.0.2")
        assert key_hash("\ud800") != first  # a lone surrogate is a key like another
        forget_secret()  # as in another process
        assert (key_hash("10.0.0.1") == first) == bool(secret)
    finally:
        monkeypatch.undo()
        forget_secret()


# --- Round trips ---


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def attributes_of(server: RedisServer, operation: str, command: str = "EVALSHA") -> dict[str, Any]:
    return {
        "db.system.name": "redis",
        "db.operation.name": command,
        "rate_limiter.operation": operation,
        "server.address": "127.0.0.1",
        "server.port": server.port,
    }


def test_a_span_for_each_call(traces: Traces, server: RedisServer) -> None:
    limiter = RateLimiter("2/hour", store=server.url, tracing=True)
    window = RateLimiter(Limit.fixed_window(2, 60), store=server.url, tracing=True)
    with traces.request() as request:
        limiter.hit("k")
        limiter.allow_many(["a", "b"])
        limiter.reset("k")
        window.reset("k")
        hit_all([(limiter, "x"), (window, "y")])
    calls = traces.calls()
    is_deleted = [shape(one)["db.operation.name"] == "DEL" for one in calls]
    assert [shape(one) for one, deleted in zip(calls, is_deleted, strict=True) if not deleted] == [
        attributes_of(server, "hit"),
        attributes_of(server, "allow_many") | {"db.operation.batch.size": 2},
        attributes_of(server, "reset"),
        attributes_of(server, "hit_all"),
    ]
    # The buckets of the first limiter, and for each of the two those of calls with limits.
    assert [shape(one) for one, deleted in zip(calls, is_deleted, strict=True) if deleted] == [
        attributes_of(server, "reset", "DEL")
    ] * 3
    for call in calls:
        assert call.kind is trace.SpanKind.CLIENT
        assert call.name == f"{shape(call)['db.operation.name']} 127.0.0.1:{server.port}"
        assert call.status.is_unset
        assert parent_of(call) == request.get_span_context().span_id
        assert 0 < (call.end_time or 0) - (call.start_time or 0) < 60e9
    assert not traces.events()  # nothing else for what is allowed


def test_wrong_arguments_are_no_calls(traces: Traces, server: RedisServer) -> None:
    limiter = RateLimiter("2/hour", store=server.url, tracing=True)
    with pytest.raises(TypeError):
        limiter.hit(7)  # type: ignore[arg-type]

    async def wrong() -> None:
        with pytest.raises(ValueError, match="cost"):
            await AsyncRateLimiter.of(limiter).hit("k", -1)

    asyncio.run(wrong())
    assert not traces.calls()


def test_threads(traces: Traces, server: RedisServer) -> None:
    """Each call belongs to the request of its thread."""
    limiter = RateLimiter("1000/hour", store=server.url, tracing=True)
    together = threading.Barrier(8)

    def work(number: int) -> int:
        with traces.request() as request:
            together.wait()
            limiter.hit("k")
            return int(request.get_span_context().span_id)

    with ThreadPoolExecutor(8) as pool:
        parents = list(pool.map(work, range(8)))
    assert sorted(map(parent_of, traces.calls()), key=str) == sorted(parents, key=str)


def test_tasks_of_one_turn(traces: Traces, server: RedisServer) -> None:
    """They share a script; each has a span in its own request."""
    limiter = AsyncRateLimiter("1000/hour", store=server.url, tracing=True)

    async def work() -> int:
        with traces.request() as request:
            await limiter.hit("k")
            return int(request.get_span_context().span_id)

    async def together() -> list[int]:
        await limiter.hit("first")  # connected
        return list(await asyncio.gather(*(work() for _ in range(20))))

    parents = asyncio.run(together())
    _, *calls = traces.calls()
    assert sorted(map(parent_of, calls), key=str) == sorted(parents, key=str)
    assert {shape(one)["server.port"] for one in calls} == {server.port}


@pytest.mark.parametrize("method", ["hit", "allow_many", "refund"])
def test_other_calls_of_tasks(method: str, traces: Traces, server: RedisServer) -> None:
    limiter = AsyncRateLimiter("1000/hour", store=server.url, tracing=True)

    async def call() -> None:
        await getattr(limiter, method)(["a", "b", "c"] if method == "allow_many" else "a")

    asyncio.run(call())
    (span,) = traces.calls()
    assert shape(span)["rate_limiter.operation"] == method
    assert shape(span).get("db.operation.batch.size") == (3 if method == "allow_many" else None)


def test_tasks_that_are_cancelled(traces: Traces) -> None:
    """A call that nobody waits for ends its span, and is no error."""
    silence = threading.Event()

    def handle(words: list[bytes]) -> bytes:
        silence.wait(30)
        return b"+OK\r\n"

    with fake_redis(handle) as fake:
        limiter = AsyncRateLimiter("1000/hour", store=fake.url, tracing=True)

        async def call() -> None:
            task = asyncio.create_task(limiter.hit("k"))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        try:
            asyncio.run(call())
        finally:
            silence.set()
    (span,) = traces.calls()
    assert shape(span)["rate_limiter.cancelled"] is True
    assert span.status.is_unset
    assert "error.type" not in shape(span)


def test_waiting_has_a_span_for_each_try(traces: Traces, server: RedisServer) -> None:
    limiter = AsyncRateLimiter("20/second", store=server.url, tracing=True)

    async def wait() -> None:
        await limiter.acquire("k", 20)
        await limiter.acquire("k", 1)

    asyncio.run(wait())
    assert {shape(one)["rate_limiter.operation"] for one in traces.calls()} >= {"take"}
    assert len(traces.calls()) >= 3


# --- Failures ---


@pytest.fixture(params=["threads", "tasks"])
def hit(request: pytest.FixtureRequest) -> Callable[[RateLimiter], Any]:
    """Return a function that hits a limiter, blocking or in an event loop."""

    async def hit_in_loop(limiter: RateLimiter) -> Any:
        return await AsyncRateLimiter.of(limiter).hit("k")

    if request.param == "threads":
        return lambda limiter: limiter.hit("k")
    return lambda limiter: asyncio.run(hit_in_loop(limiter))


def test_a_store_that_is_gone(traces: Traces, hit: Callable[[RateLimiter], Any]) -> None:
    port = free_port()
    limiter = RateLimiter("2/hour", store=f"redis://127.0.0.1:{port}", tracing=True)
    with traces.request():
        hit(limiter)
    (call,) = traces.calls()
    assert not call.status.is_ok
    assert "refused" in (call.status.description or "").lower()
    assert shape(call)["error.type"] == "connect"
    assert shape(call)["server.port"] == port
    store = f"127.0.0.1:{port}"
    assert traces.events() == [
        ("rate_limiter.store_error", {"rate_limiter.store": store, "error.type": "connect"}),
        (
            "rate_limiter.fallback",
            {"rate_limiter.store": store, "rate_limiter.on_store_error": "memory"},
        ),
    ]


def test_an_open_breaker(traces: Traces) -> None:
    """Nothing is sent, so there is no span; the decision without the store is an event."""
    limiter = RateLimiter(
        "2/hour", store=f"redis://127.0.0.1:{free_port()}", on_store_error="allow", tracing=True
    )
    for _ in range(5):
        limiter.hit("k")
    sent = len(traces.calls())
    with traces.request():
        assert limiter.hit("k").store_unavailable
    assert len(traces.calls()) == sent
    assert [name for name, _ in traces.events()] == ["rate_limiter.fallback"]


def test_an_error_for_the_caller(traces: Traces, hit: Callable[[RateLimiter], Any]) -> None:
    """No decision is made without the store."""
    store = f"redis://127.0.0.1:{free_port()}"
    limiter = RateLimiter("2/hour", store=store, on_store_error="raise", tracing=True)
    with traces.request(), pytest.raises(StoreError):
        hit(limiter)
    assert [name for name, _ in traces.events()][:1] == ["rate_limiter.store_error"]
    assert "rate_limiter.fallback" not in [name for name, _ in traces.events()]


def test_answers_that_are_errors(
    traces: Traces, server: RedisServer, hit: Callable[[RateLimiter], Any]
) -> None:
    """Redis quotes the key in some of its errors, so their texts stay out."""
    limiter = RateLimiter("2/hour", store=server.url, tracing=True)
    (name,) = limiter.redis_keys("k")
    with contextlib.closing(server.admin()) as client:
        client.rpush(name, "a list")
    with traces.request():
        hit(limiter)
    (call,) = traces.calls()
    assert shape(call)["db.response.status_code"] == shape(call)["error.type"]
    assert shape(call)["error.type"] in ("WRONGTYPE", "ERR")
    assert call.status.description is None


def test_denied_without_a_store(traces: Traces) -> None:
    store = f"redis://127.0.0.1:{free_port()}"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        pytest.fail("the request passed")

    gate = RateLimitMiddleware(
        app, limits="2/hour", store=store, on_store_error="deny", tracing=True
    )
    with traces.request():
        assert ask_asgi(gate)[0] == 503
    names = [name for name, _ in traces.events()]
    assert names == ["rate_limiter.store_error", "rate_limiter.fallback", "rate_limiter.denied"]
    assert traces.events()[-1][1]["rate_limiter.store_unavailable"] is True
    assert traces.events()[-1][1]["rate_limiter.store"] == store.removeprefix("redis://")


# --- Options ---


def test_what_traces(traces: Traces, server: RedisServer) -> None:
    """A front traces the limiters it makes; a RedisStore has its own setting."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    rules = {"default": {"limits": "1/hour", "on_store_error": "allow"}}
    traced: list[tuple[dict[str, Any], bool]] = [
        ({"limits": "1/hour", "store": server.url, "tracing": True}, True),
        ({"rules": rules, "store": server.url, "tracing": True}, True),
        ({"rules": rules, "store": RedisStore(server.url, tracing=True)}, True),
        ({"limits": "1/hour", "store": RedisStore(server.url), "tracing": True}, False),
        ({"limits": "1/hour", "store": Store(server.url), "tracing": True}, True),
        ({"limits": "1/hour", "store": Store(server.url, tracing=True)}, True),
        ({"limits": "1/hour", "store": server.url}, False),
    ]
    for options, has_spans in traced:
        before = len(traces.calls())
        ask_asgi(RateLimitMiddleware(app, setup_checks=False, **options))
        assert len(traces.calls()) - before == has_spans, options


@pytest.mark.parametrize("own", [True, False])
def test_limits_of_routes_and_views(own: bool, traces: Traces, server: RedisServer) -> None:
    """Those of one object for an application trace as it does."""
    api, site = FastAPI(), Flask("traced")
    limits = RateLimits(api, default="1/hour", store=server.url, tracing=own)
    extension = FlaskRateLimiter(site, default_limits="1/hour", store=server.url, tracing=own)
    api.get("/default")(lambda: "ok")
    api.get("/own", dependencies=[limits("1/hour")])(lambda: "ok")
    site.add_url_rule("/default", "default", lambda: "ok")
    site.add_url_rule("/own", "own", extension.limit("1/hour")(lambda: "ok"))
    for path in ("/default", "/own") * 2:
        ask_asgi(api, path=path)
        with traces.request():
            ask_flask(site, path=path)
    operations = [shape(one)["rate_limiter.operation"] for one in traces.calls()]
    assert bool(operations) == own
    assert operations.count("hit_each") == 8 * own
    assert [name for name, _ in traces.events()] == ["rate_limiter.denied"] * 4 * own


def test_a_limiter_made_again(traces: Traces, server: RedisServer) -> None:
    limiter = RateLimiter("2/hour", store=server.url, tracing=True)
    pickle.loads(pickle.dumps(limiter)).hit("k")
    limiter.with_limits("3/hour").hit("k")
    assert len(traces.calls()) == 2


def test_the_gateway(traces: Traces, server: RedisServer) -> None:
    policy = RateLimitPolicy(rate_per_sec=0.001, burst=1)
    limiter = TokenBucketLimiter(server.url, policy, tracing=True)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    gate = RateLimitMiddleware(
        app, limiter=limiter, policy=policy, dimension_label="edge", tracing=True
    )
    for _ in range(2):
        with traces.request():
            ask_asgi(gate)
    ((_, attributes),) = traces.events()
    assert attributes["rate_limiter.rule"] == "edge"
    assert attributes["rate_limiter.key_hash"] == key_hash(f"rl:tb:ip:{PEER}")
    assert len(traces.calls()) == 2


def test_where_it_has_no_effect() -> None:
    for store in ({}, {"store": "memory://"}, {"store": "shared:///dev/shm/never-made"}):
        for kind in (RateLimiter, AsyncRateLimiter):
            with pytest.raises(TypeError, match="tracing has no effect without a Redis store"):
                kind("1/hour", tracing=True, **store)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tracing has no effect beside store, a RedisStore"):
        RateLimiter("1/hour", store=RedisStore("redis://127.0.0.1:9"), tracing=True)
    with pytest.raises(TypeError, match="tracing has no effect in a Store without"):
        RateLimitMiddleware(lambda *_: None, limits="1/hour", store=Store(tracing=True))  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match="tracing must be True or False, got 1"):
        RateLimits(tracing=1)  # type: ignore[typeddict-item]


def test_without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    advice = r"tracing=True needs OpenTelemetry's API: pip install 'rate-limiter-c\[otel\]'"
    with pytest.raises(ImportError, match=advice):
        RedisStore("redis://127.0.0.1:9", tracing=True)
    with pytest.raises(ImportError, match=advice):
        RateLimits(tracing=True)


def test_a_secret_that_is_too_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATE_LIMITER_TRACE_SECRET", "short")
    with pytest.raises(ValueError, match="TRACE_SECRET must have at least 16 characters, got 5"):
        RedisStore("redis://127.0.0.1:9", tracing=True)


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATE_LIMITER_LIMITS", "1/hour")
    monkeypatch.setenv("RATE_LIMITER_TRACING", "true")
    monkeypatch.setenv("RATE_LIMITER_TRACE_SECRET", "s" * 16)
    assert Settings().middleware()["tracing"] is True


def test_no_wait_is_left_out(traces: Traces) -> None:
    """Exporters to JSON cannot write an infinite number."""
    with traces.request():
        tracing.trace_denial("rule", b"\xff", Decision(False, retry_after=math.inf), "")
    ((_, attributes),) = traces.events()
    assert "rate_limiter.retry_after" not in attributes

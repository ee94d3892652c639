"""A request leaves nothing for the garbage collector: no front puts its objects into cycles.

Under load the collector's pauses are what the slowest requests wait for. Flask makes cycles itself,
so its applications are compared with the same without a limiter.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from flask import Flask
from rate_limiter.config import RateLimitPolicy
from rate_limiter.fastapi import RateLimit
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.middleware import (
    DistributedTokenBucketMiddleware,
    RateLimiterMiddleware,
    RateLimitMiddleware,
)
from rate_limiter.seeds.gateway.limiter import TokenBucketLimiter
from support.path_memory import FRONTS, OPTIONS, blocks_left
from support.redis_servers import RedisServer
from support.tokens import HS, token
from werkzeug.test import create_environ

ALLOWED, DENIED = "1000000/second", "1/day"
WARM_UP, REQUESTS = 10, 20
HEADERS = [
    (b"host", b"test"),
    (b"x-api-key", b"secret"),
    (b"authorization", f"Bearer {token({'sub': 'bob'})}".encode()),
]


@pytest.fixture(scope="module", autouse=True)
def freeze_imports_again() -> Iterator[None]:
    """Free what `collected` has frozen, and leave what is imported frozen, as tests/conftest.py."""
    yield
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def collected(step: Callable[[], object]) -> float:
    """Return how many objects a call leaves in cycles, on average."""
    for _ in range(WARM_UP):
        step()
    gc.collect()
    gc.disable()
    gc.freeze()  # existing objects do not count
    try:
        for _ in range(REQUESTS):
            step()
        return gc.collect() / REQUESTS
    finally:
        gc.enable()


# --- ASGI ----------------------------------------------------------------------------------------


async def ask(app: Any, kind: str) -> None:
    scope = {
        "type": kind,
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "headers": HEADERS,
        "client": ("192.0.2.1", 5),
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "extensions": {"websocket.http.response": {}},
        "subprotocols": [],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request" if kind == "http" else "websocket.connect"}

    async def send(message: Any) -> None: ...

    with contextlib.suppress(RuntimeError):
        await app(scope, receive, send)


def cycles(app: Any, kind: str = "http") -> float:
    """Return how many objects a request leaves in cycles."""
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        return collected(lambda: loop.run_until_complete(ask(app, kind)))


async def plain(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


async def broken(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("planned")


async def cost_later(finished: Any) -> float:
    await asyncio.sleep(0)
    return 2


async def key_later(scope: Any) -> str:
    await asyncio.sleep(0)
    return "key"


def refuse(scope: Any, decision: Any) -> Any:
    return plain


ARGUMENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "key chain": {"key": ["header:X-API-Key", "ip"]},
    "token": {"key": "jwt:sub", "jwt": HS},
    "async key": {"key": key_later},
    "async cost": {"cost": lambda scope: asyncio.sleep(0, 1)},
    "answer": {"denied": "problem"},
    "own answer": {"denied": refuse},
    "both headers": {"headers": "both"},
    "tier": {"tier": "header:X-Plan"},
    "bypass": {"bypass": ["header:X-API-Key=secret"]},
    "proxies": {"trusted_proxies": ["192.0.2.0/24"]},
    "cost_after": {"cost_after": lambda finished: 2},
    "async cost_after": {"cost_after": cost_later},
    "status": {"status_path": "/"},
}


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("app", [plain, broken])
@pytest.mark.parametrize("limits", [ALLOWED, DENIED])
@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_middleware(arguments: dict[str, Any], limits: str, app: Any, kind: str) -> None:
    of_tiers: Any = {"free": limits, "pro": limits} if "tier" in arguments else limits
    limited = RateLimitMiddleware(app, limits=of_tiers, **arguments)
    assert cycles(limited, kind) == 0


@pytest.mark.parametrize("limits", [ALLOWED, DENIED])
def test_middleware_with_rules(limits: str) -> None:
    rules = {"default": {"limits": limits}, "login": {"limits": limits, "path": "/", "refund": 200}}
    assert cycles(RateLimitMiddleware(plain, rules=rules)) == 0


@pytest.mark.parametrize("limits", [ALLOWED, DENIED])
@pytest.mark.parametrize("arguments", [{}, {"cost_after": cost_later}], ids=["plain", "settled"])
def test_middleware_over_redis(limits: str, arguments: Any, server: RedisServer) -> None:
    limited = RateLimitMiddleware(plain, limits=limits, store=server.url, **arguments)
    assert cycles(limited) == 0


@pytest.mark.parametrize("capacity", [1, 1_000_000])
def test_gateway(capacity: int, server: RedisServer) -> None:
    policy = RateLimitPolicy(rate_per_sec=capacity / 100_000, burst=capacity)
    gateway = RateLimitMiddleware(plain, TokenBucketLimiter(server.url, policy), policy)
    assert cycles(gateway) == 0


@pytest.mark.parametrize("capacity", [1, 1_000_000])
def test_middleware_of_a_redis_client(capacity: int, server: RedisServer) -> None:
    limited = RateLimiterMiddleware(plain, server.url, capacity, capacity / 1000)
    assert cycles(limited) == 0


@pytest.mark.parametrize("capacity", [1, 1_000_000])
def test_distributed_middleware(capacity: int, server: RedisServer) -> None:
    limited = DistributedTokenBucketMiddleware(plain, capacity, capacity / 1000)
    state = SimpleNamespace(state=SimpleNamespace(redis=server.url))

    async def with_state(scope: Any, receive: Any, send: Any) -> None:
        await limited({**scope, "app": state}, receive, send)

    assert cycles(with_state) == 0


# --- FastAPI -------------------------------------------------------------------------------------


async def ok() -> str:
    return "ok"


async def failing() -> str:
    raise RuntimeError("planned")


def of_fastapi(*dependencies: Callable[..., Awaitable[object]], view: Any = ok) -> FastAPI:
    depends = [Depends(one) for one in dependencies]
    app = FastAPI()
    app.get("/", dependencies=depends)(view)

    @app.websocket("/", dependencies=depends)
    async def accept(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    return app


ROUTES: dict[str, dict[str, Any]] = {
    "plain": {},
    "key chain": {"key": ["header:X-API-Key", "ip"]},
    "key chain with a function": {"key": [lambda connection: None, "header:X-API-Key"]},
    "key function": {"key": lambda connection: connection.headers["X-API-Key"]},
    "token": {"key": "jwt:sub", "jwt": HS},
    "both headers": {"headers": "both"},
    "cost_after": {"cost_after": lambda finished: 2},
    "async cost_after": {"cost_after": cost_later},
}


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("view", [ok, failing])
@pytest.mark.parametrize("arguments", ROUTES.values(), ids=ROUTES)
def test_fastapi_allowed(arguments: dict[str, Any], view: Any, kind: str) -> None:
    limited = of_fastapi(RateLimit(ALLOWED, **arguments), view=view)
    assert cycles(limited, kind) == 0


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("arguments", ROUTES.values(), ids=ROUTES)
def test_fastapi_denied(arguments: dict[str, Any], kind: str) -> None:
    once = RateLimit(DENIED, **arguments)
    limited = of_fastapi(RateLimit(ALLOWED), once)
    assert cycles(limited, kind) == 0


# --- Flask ---------------------------------------------------------------------------------------


def flask_cycles(app: Flask) -> float:
    def step() -> None:
        environ = create_environ("/", headers={"X-API-Key": "secret"})
        body = app(environ, lambda status, headers, *error: None)
        list(body)
        body.close()

    return collected(step)


def of_flask(limiter: FlaskRateLimiter | None, view: Any, decorator: Any = None) -> Flask:
    app = Flask("cycles")
    app.logger.disabled = True
    if limiter is not None:
        limiter.init_app(app)
    app.add_url_rule("/", "view", view if decorator is None else decorator(view))
    return app


def with_headers(app: Flask) -> Flask:
    """Give an application WSGI middleware that does nothing, and three headers.

    Of an error that no handler takes, Flask makes a cycle in which the frames of the whole call and
    the response hang.
    """
    inner = app.wsgi_app

    def middleware(environ: Any, start_response: Any) -> Any:
        def start(status: str, headers: Any, *error: Any) -> Any:
            return start_response(status, headers, *error) if environ else None

        return inner(environ, start)

    @app.after_request
    def add(response: Any) -> Any:
        response.headers.update({"X-One": "1", "X-Two": "2", "X-Three": "3"})
        return response

    app.wsgi_app = middleware  # type: ignore[method-assign]
    return app


FLASK: dict[str, dict[str, Any]] = {
    "plain": {},
    "settled": {"cost_after": lambda finished: None},
}


def flask_ok() -> str:
    return "ok"


def flask_stream() -> Any:
    return iter(["one", "two"])


def flask_failing() -> str:
    raise RuntimeError("planned")


@pytest.mark.parametrize("view", [flask_ok, flask_stream, flask_failing])
@pytest.mark.parametrize("arguments", FLASK.values(), ids=FLASK)
@pytest.mark.parametrize("is_decorated", [False, True])
def test_flask_allowed(is_decorated: bool, arguments: dict[str, Any], view: Any) -> None:
    def own_view() -> Any:  # to be marked
        return view()

    if is_decorated:
        limiter = FlaskRateLimiter()
        app = of_flask(limiter, own_view, limiter.limit(ALLOWED, **arguments))
    else:
        app = of_flask(FlaskRateLimiter(default_limits=ALLOWED, **arguments), own_view)
    bare = with_headers(of_flask(None, lambda: view()))
    assert flask_cycles(app) <= flask_cycles(bare)


@pytest.mark.parametrize("arguments", FLASK.values(), ids=FLASK)
@pytest.mark.parametrize("is_decorated", [False, True])
def test_flask_denied(is_decorated: bool, arguments: dict[str, Any]) -> None:
    if is_decorated:
        limiter = FlaskRateLimiter(default_limits=DENIED, key="header:X-API-Key")
        app = of_flask(limiter, lambda: "ok", limiter.limit(DENIED, **arguments))
    else:
        app = of_flask(FlaskRateLimiter(default_limits=DENIED, **arguments), flask_ok)
    FlaskRateLimiter(app, default_limits=ALLOWED)
    assert flask_cycles(app) <= flask_cycles(of_flask(None, flask_ok))


# --- Memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [ALLOWED, DENIED])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("front", FRONTS)
def test_requests_leave_no_memory(front: Any, options: dict[str, Any], limits: str) -> None:
    assert blocks_left(front(limits=limits, **options), 1000) < 100

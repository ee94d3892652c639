"""Programs written for slowapi: what this package does besides, and what it refuses."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response, WebSocket
from rate_limiter.compat.limits import parse
from rate_limiter.compat.limits.errors import ConfigurationError, StorageError
from rate_limiter.compat.slowapi import Limiter, _rate_limit_exceeded_handler
from rate_limiter.compat.slowapi.errors import RateLimitExceeded
from rate_limiter.compat.slowapi.middleware import SlowAPIASGIMiddleware, SlowAPIMiddleware
from rate_limiter.compat.slowapi.util import get_ipaddr, get_remote_address
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from support.redis_servers import RedisServer
from support.servers import free_port


def application(limiter: Limiter, make: Any = FastAPI, **options: Any) -> Any:
    app = make(**options)
    app.state.limiter = limiter
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)
    return app


def by_address(**options: Any) -> Limiter:
    return Limiter(key_func=get_remote_address, **options)


def statuses(app: Any, *paths: str) -> list[int]:
    with TestClient(app, raise_server_exceptions=False) as client:
        return [client.get(path).status_code for path in paths]


# --- Views ---


@pytest.mark.parametrize("headers_enabled", [False, True])
def test_views_need_no_request_and_no_response(headers_enabled: bool) -> None:
    limiter = by_address(headers_enabled=headers_enabled)
    app = application(limiter)

    @app.get("/none")
    @limiter.limit("1/minute")
    async def none() -> str:
        return "ok"

    @app.get("/blocking/{number}")
    @limiter.limit("1/minute")
    def blocking(number: int, q: str = "", **more: Any) -> int:
        return number

    @app.get("/named")
    @limiter.limit("1/minute")
    async def named(req: Request, res: Annotated[Response, "as FastAPI takes it"]) -> str:
        res.headers["X-Own"] = "yes"
        return req.method

    with TestClient(app) as client:
        for path in ("/none", "/blocking/1?more=2", "/named"):
            first, second = client.get(path), client.get(path)
            assert (first.status_code, second.status_code) == (200, 429)
            for response in (first, second):
                shown = response.headers.get("X-RateLimit-Limit")
                assert shown == ("1" if headers_enabled else None)
        assert "X-Own" not in client.get("/named").headers
        schema = client.get("/openapi.json").json()["paths"]
    assert "parameters" not in schema["/none"]["get"]


@pytest.mark.parametrize("middleware", [None, SlowAPIMiddleware, SlowAPIASGIMiddleware])
def test_a_newline_that_the_router_drops_gives_no_second_count(middleware: Any) -> None:
    limiter = by_address(default_limits=["1/minute"] if middleware else [])
    app = application(limiter)
    if middleware is not None:
        app.add_middleware(middleware)

    async def view(request: Request) -> str:
        return "ok"

    app.get("/login")(view if middleware else limiter.limit("1/minute")(view))
    assert statuses(app, "/login", "/login%0A") == [200, 429]


def test_a_response_of_the_program_keeps_its_headers_and_has_each_field_once() -> None:
    limiter = by_address(headers_enabled=True, default_limits=["9/minute"])
    app = application(limiter)
    app.add_middleware(SlowAPIMiddleware)

    @app.get("/a")
    @limiter.limit("5/minute", override_defaults=False)
    @limiter.limit("7/hour")
    async def a(response: Response) -> str:
        response.headers["X-Own"] = "yes"
        return "ok"

    with TestClient(app) as client:
        response = client.get("/a")
    assert response.headers["X-Own"] == "yes"
    assert response.headers.get_list("X-RateLimit-Limit") == ["5"]
    assert response.headers.get_list("X-RateLimit-Remaining") == ["4"]
    assert int(response.headers["X-RateLimit-Reset"]) > 1_700_000_000
    assert 59 <= int(response.headers["Retry-After"]) <= 61


def test_methods_of_objects_are_views() -> None:
    limiter = by_address()
    app = application(limiter)

    class Service:
        @limiter.limit("1/minute")
        async def find(self, request: Request) -> str:
            return "ok"

        async def later(self, request: Request) -> str:
            return "ok"

    service = Service()
    app.add_api_route("/find", service.find)
    app.add_api_route("/later", limiter.limit("1/minute")(service.later))
    assert statuses(app, *["/find"] * 2, *["/later"] * 2) == [200, 429, 200, 429]


def test_a_dependency_may_be_limited() -> None:
    limiter = by_address()
    app = application(limiter)

    @limiter.limit("1/minute")
    async def dependency() -> str:
        return "value"

    @app.get("/a", dependencies=[Depends(dependency)])
    async def a() -> str:
        return "ok"

    assert statuses(app, "/a", "/a") == [200, 429]


def test_functions_of_one_name_have_their_own_limits() -> None:
    limiter = by_address()
    app = application(limiter)

    def add(path: str, limit: str) -> None:
        @app.get(path)
        @limiter.limit(limit)
        async def view(request: Request) -> str:
            return "ok"

    add("/one", "1/minute")
    add("/two", "2/minute")
    assert statuses(app, *["/one"] * 2, *["/two"] * 3) == [200, 429, 200, 200, 429]


def test_two_limiters_both_hold() -> None:
    first, second = by_address(), by_address()
    app = application(first)

    @app.get("/a")
    @first.limit("2/minute")
    @second.limit("1/minute")
    async def a(request: Request) -> str:
        return "ok"

    assert statuses(app, "/a", "/a") == [200, 429]


def test_other_decorators_may_stand_in_between() -> None:
    limiter = by_address(default_limits=["1/minute"])
    app = application(limiter)
    app.add_middleware(SlowAPIMiddleware)

    def plain(view: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(view)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await view(*args, **kwargs)

        return wrapper

    @app.get("/twice")
    @limiter.limit("3/hour")
    @plain
    @limiter.limit("2/minute")
    async def twice(request: Request) -> str:
        return "ok"

    @app.get("/free")
    @plain
    @limiter.exempt
    async def free() -> str:
        return "ok"

    assert statuses(app, *["/twice"] * 3, *["/free"] * 3) == [200, 200, 429, 200, 200, 200]


def test_a_scope_may_be_a_callable_that_gets_the_view() -> None:
    limiter = by_address()
    app = application(limiter)
    named: list[str] = []

    def scope(view: str) -> str:
        named.append(view)
        return "shared"

    for path in ("/a", "/b"):

        @app.get(path)
        @limiter.shared_limit("1/minute", scope=scope)
        async def view(request: Request) -> str:
            return "ok"

    assert statuses(app, "/a", "/b") == [200, 429]
    assert named == [f"{__name__}.view"] * 2


def test_a_denied_request_takes_nothing_from_other_limits() -> None:
    limiter = by_address(application_limits=["3/hour"])
    app = application(limiter)
    app.add_middleware(SlowAPIMiddleware)

    @app.get("/a")
    @limiter.limit("2/hour;1/minute")
    async def a(request: Request) -> str:
        return "ok"

    @app.get("/b")
    async def b() -> str:
        return "ok"

    assert statuses(app, *["/a"] * 5, *["/b"] * 3) == [200, 429, 429, 429, 429, 200, 200, 429]


def test_the_exception_names_the_limit() -> None:
    limiter = by_address()
    app = application(limiter)
    caught: list[RateLimitExceeded] = []

    async def handler(request: Request, error: RateLimitExceeded) -> Response:
        caught.append(error)
        return PlainTextResponse("wait", status_code=503)

    app.add_exception_handler(RateLimitExceeded, handler)

    @app.get("/a")
    @limiter.limit("1 per 2 hours", per_method=True, error_message="later")
    async def a(request: Request) -> str:
        return "ok"

    assert statuses(app, "/a", "/a") == [200, 503]
    (error,) = caught
    assert isinstance(error, HTTPException.__mro__[1])
    assert (error.status_code, error.detail, error.limit.limit) == (
        429,
        "later",
        parse("1/2 hours"),
    )
    assert (error.limit.per_method, error.limit.key_func) == (True, get_remote_address)


# --- Middlewares ---


@pytest.fixture(params=[SlowAPIMiddleware, SlowAPIASGIMiddleware])
def middleware(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_default_limits_apply_wherever_a_view_is(middleware: Any) -> None:
    limiter = by_address(default_limits=["1/minute"])
    app = application(limiter)
    app.add_middleware(middleware)
    inner, outer = APIRouter(prefix="/inner"), APIRouter(prefix="/outer")
    mounted = FastAPI()

    async def view() -> str:
        return "ok"

    class Endpoint(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("ok")

    inner.get("/a/{number}")(view)
    outer.include_router(inner)
    app.include_router(outer)
    mounted.get("/a")(view)
    app.mount("/mounted", mounted)
    app.add_route("/class", Endpoint)
    paths = ("/outer/inner/a/1", "/mounted/a", "/class")
    assert statuses(app, *(path for path in paths for _ in range(2))) == [200, 429] * 3
    assert statuses(app, "/missing", "/missing", "/mounted/missing", "/outer") == [404] * 4
    outer.get("/late")(view)  # after the first request
    assert statuses(app, "/outer/late", "/outer/late") == [200, 429]
    app.get("/later")(view)
    assert statuses(app, "/later", "/later") == [200, 429]


def test_the_first_route_that_matches_counts(middleware: Any) -> None:
    limiter = by_address(default_limits=["1/minute"])

    @limiter.exempt
    async def free(request: Request) -> Response:
        return PlainTextResponse("ok")

    async def limited(request: Request) -> Response:
        return PlainTextResponse("ok")

    routes = [
        Route("/items/{item}", free, methods=["GET"]),
        Route("/items/{item}", limited, methods=["POST"]),
        Mount("/below", routes=[Route("/a", limited), Mount("/more", routes=[Route("/b", free)])]),
        Route("/items/special", limited),
    ]
    app = application(limiter, Starlette, routes=routes)
    app.add_middleware(middleware)
    assert statuses(app, *["/items/special"] * 2, *["/below/more/b"] * 2) == [200] * 4
    assert statuses(app, "/below/a", "/below/a") == [200, 429]
    with TestClient(app) as client:
        assert [client.post("/items/special").status_code for _ in range(2)] == [200, 429]
        assert [client.put("/items/1").status_code for _ in range(2)] == [405, 405]
        assert [client.head("/items/1").status_code for _ in range(2)] == [200, 200]


def test_application_limits_hold_for_decorated_views_too(middleware: Any) -> None:
    limiter = by_address(application_limits=["3/minute"], headers_enabled=True)
    app = application(limiter)
    app.add_middleware(middleware)

    @app.get("/own")
    @limiter.limit("9/minute")
    async def own() -> str:
        return "ok"

    @app.get("/other")
    async def other() -> str:
        return "ok"

    with TestClient(app) as client:
        answers = [client.get(path) for path in ("/own", "/other", "/own", "/own", "/other")]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert [answer.headers["X-RateLimit-Limit"] for answer in answers] == ["9", "3", "9", "3", "3"]
    assert answers[0].headers.get_list("X-RateLimit-Limit") == ["9"]


def test_handlers_may_be_awaited(middleware: Any) -> None:
    limiter = by_address(default_limits=["1/minute"])
    app = application(limiter)
    app.add_middleware(middleware)

    @app.exception_handler(RateLimitExceeded)
    async def handler(request: Request, error: RateLimitExceeded) -> Response:
        return PlainTextResponse(error.detail, status_code=418)

    @app.get("/a")
    async def a() -> str:
        return "ok"

    assert statuses(app, "/a", "/a") == [200, 418]


def test_errors_of_the_program_reach_it(middleware: Any) -> None:
    def key(request: Request) -> str:
        raise LookupError("no user")

    limiter = Limiter(key_func=key, default_limits=["1/minute"])
    app = application(limiter)
    app.add_middleware(middleware)

    @app.get("/a")
    async def a() -> str:
        return "ok"

    with TestClient(app) as client, pytest.raises(LookupError, match="no user"):
        client.get("/a")
    app.add_exception_handler(LookupError, lambda *_: PlainTextResponse("who?", status_code=401))
    assert statuses(app, "/a") == [401]


def test_a_middleware_needs_the_limiter_of_the_application(middleware: Any) -> None:
    app = FastAPI()
    app.add_middleware(middleware)
    app.get("/a")(lambda: "ok")
    with (
        TestClient(app) as client,
        pytest.raises(RuntimeError, match=r"app\.state\.limiter must be a Limiter"),
    ):
        client.get("/a")


def test_a_middleware_passes_other_messages_on(middleware: Any) -> None:
    limiter = by_address(default_limits=["1/minute"])
    app = application(limiter)
    app.add_middleware(middleware)

    @app.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("ok")

    with TestClient(app) as client:
        for _ in range(2):
            with client.websocket_connect("/ws") as socket:
                assert socket.receive_text() == "ok"


# --- Stores ---


@pytest.fixture
def down() -> str:
    return f"redis://127.0.0.1:{free_port()}/0"


def views(limiter: Limiter) -> Any:
    app = application(limiter)
    app.add_middleware(SlowAPIMiddleware)

    @app.get("/default")
    async def default() -> str:
        return "ok"

    @app.get("/own")
    @limiter.limit("2/minute")
    async def own() -> str:
        return "ok"

    @app.get("/blocking")
    @limiter.limit("2/minute")
    def blocking() -> str:
        return "ok"

    return app


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [200, 200, 429]),
        ({"in_memory_fallback_enabled": True}, [200, 200, 429]),
        ({"in_memory_fallback_enabled": True, "swallow_errors": True}, [200, 200, 429]),
        ({"in_memory_fallback": ["1/minute"]}, [200, 429, 429]),
        ({"swallow_errors": True}, [200, 200, 200]),
        ({"storage_options": {"on_store_error": "deny"}}, [429, 429, 429]),
        ({"storage_options": {"on_store_error": "raise"}}, [500, 500, 500]),
        ({"storage_options": {"on_store_error": "raise"}, "swallow_errors": True}, [200, 200, 200]),
    ],
)
def test_limits_while_redis_is_down(down: str, options: Any, expected: list[int]) -> None:
    limiter = by_address(
        storage_uri=down, default_limits=["2/minute"], headers_enabled=True, **options
    )
    app = views(limiter)
    for path in ("/default", "/own", "/blocking"):
        assert statuses(app, *[path] * 3) == expected, path


def test_async_views_await_redis(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def blocking(*_: Any) -> Any:
        pytest.fail("the event loop was blocked")

    limiter = by_address(
        storage_uri=server.url,
        default_limits=["20/minute"],
        application_limits=["1000/minute"],
        headers_enabled=True,
    )
    app = views(limiter)
    monkeypatch.setattr(RedisRateLimiter, "_call", blocking)

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answers = await asyncio.gather(*(client.get("/default") for _ in range(30)))
            answers += await asyncio.gather(*(client.get("/own") for _ in range(5)))
        return [answer.status_code for answer in answers]

    received = asyncio.run(ask())
    assert [received[:30].count(200), received[30:].count(200)] == [20, 2]
    assert set(received) == {200, 429}


def test_processes_share_counts_in_redis(server: RedisServer) -> None:
    first, second = (views(by_address(storage_uri=server.url)) for _ in range(2))
    assert statuses(first, "/own") + statuses(second, "/own", "/own") == [200, 200, 429]
    second.state.limiter.reset()
    assert statuses(first, "/own", "/blocking") == [200, 200]


def test_threads_pass_exactly_the_limit() -> None:
    limiter = by_address()
    passed: list[int] = []

    @limiter.limit("100/hour")
    def view(request: Request) -> str:
        return "ok"

    def ask() -> None:
        for _ in range(50):
            scope = {"type": "http", "method": "GET", "path": "/a", "client": ("1.2.3.4", 1)}
            try:
                view(Request(scope))
            except RateLimitExceeded:
                continue
            passed.append(1)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == 100


# --- Settings, errors and logs ---


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_settings_come_from_the_environment_and_a_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".env").write_text(
        "RATELIMIT_ENABLED=false\nRATELIMIT_APPLICATION=7/hour\nRATELIMIT_SWALLOW_ERRORS=true\n"
        "RATELIMIT_IN_MEMORY_FALLBACK=1/hour\nRATELIMIT_HEADER_RETRY_AFTER=X-Retry\n"
        'RATELIMIT_STORAGE_URL=redis://host\nRATELIMIT_STORAGE_OPTIONS={"socket_timeout": 1}\n'
    )
    monkeypatch.setenv("RATELIMIT_KEY_PREFIX", "mine")
    limiter = by_address(key_prefix="")
    assert not limiter.enabled
    assert limiter._swallow_errors
    assert [str(one.limit) for one in limiter._application_limits[0]] == ["7 per 1 hour"]
    assert [str(one.limit) for one in limiter._in_memory_fallback[0]] == ["1 per 1 hour"]
    assert limiter._storage.uri == "redis://host?timeout=1"
    assert limiter._key_prefix == "mine"
    monkeypatch.setenv("RATELIMIT_ENABLED", "perhaps")
    with pytest.raises(ValueError, match="perhaps"):
        by_address()
    monkeypatch.setenv("RATELIMIT_ENABLED", "")
    monkeypatch.setenv("RATELIMIT_STORAGE_OPTIONS", "[1]")
    with pytest.raises(ConfigurationError, match="RATELIMIT_STORAGE_OPTIONS must be a JSON object"):
        by_address()


async def _coroutine(request: Request) -> Any: ...


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"key_func": None}, TypeError, "key_func must be callable"),
        ({"key_func": _coroutine}, TypeError, "key_func must not be a coroutine function"),
        ({"default_limits": "5/minute"}, TypeError, "default_limits must be a list"),
        ({"default_limits": ["many"]}, ValueError, "couldn't parse rate limit string 'many'"),
        ({"application_limits": ["9999999999/day"]}, ValueError, "count must be"),
        ({"strategy": "leaky"}, ConfigurationError, "Invalid rate limiting strategy 'leaky'"),
        ({"storage_uri": "memcached://host"}, ConfigurationError, "memcached:// is not supported"),
        ({"storage_options": {"color": 1}}, ConfigurationError, "color"),
        ({"key_style": "path"}, ValueError, "key_style must be 'endpoint' or 'url'"),
        ({"retry_after": "soon"}, ValueError, "retry_after must be 'delta-seconds' or"),
        (
            {
                "storage_uri": "redis://host",
                "in_memory_fallback": ["1/day"],
                "storage_options": {"on_store_error": "allow"},
            },
            ConfigurationError,
            "no effect beside in_memory_fallback",
        ),
    ],
)
def test_wrong_settings_are_refused_at_the_start(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Limiter(**{"key_func": get_remote_address, "default_limits": ["1/day"], **options})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"key_func": _coroutine}, TypeError, "key_func must not be a coroutine function"),
        ({"exempt_when": _coroutine}, TypeError, "exempt_when must not be a coroutine"),
        ({"cost": _coroutine}, TypeError, "cost must not be a coroutine"),
        ({"cost": -1}, ValueError, "cost must be a whole number from 0"),
        ({"methods": "GET"}, TypeError, "methods must be a list"),
        ({"limit_value": lambda key, user: ""}, TypeError, "requires 'user'"),
        ({"limit_value": "9999999999/day"}, ValueError, "count must be"),
    ],
)
def test_wrong_limits_are_refused_at_the_start(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        by_address().limit(**{"limit_value": "1/day", **options})


def test_websockets_and_dispatch_are_refused_at_the_start() -> None:
    async def view(websocket: WebSocket) -> None: ...

    with pytest.raises(TypeError, match="websockets are not supported here"):
        by_address().limit("1/day")(view)
    with pytest.raises(TypeError, match="dispatch would never be called"):
        type("Mine", (SlowAPIMiddleware,), {"dispatch": None})


def test_a_view_that_is_called_without_a_request_is_an_error() -> None:
    limiter = by_address()

    @limiter.limit("1/day")
    def view(request: Request) -> str:
        return "ok"

    with pytest.raises(TypeError, match="must be an instance of starlette"):
        view(request="no request")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be an instance of starlette"):
        by_address(headers_enabled=True)._inject_headers(None, (parse("1/day"), []))  # type: ignore[arg-type]
    limiter.enabled = False
    assert view(request="no request") == "ok"  # type: ignore[arg-type]


def test_request_state_can_skip_the_check() -> None:
    limiter = by_address()
    app = application(limiter)

    def skip(request: Request) -> None:
        request.state._rate_limiting_complete = True

    @app.get("/a", dependencies=[Depends(skip)])
    @limiter.limit("1/minute")
    async def a(request: Request) -> str:
        return "ok"

    assert statuses(app, "/a", "/a") == [200, 200]


def test_keys_in_logs_are_escaped(caplog: pytest.LogCaptureFixture) -> None:
    limiter = Limiter(key_func=lambda request: "a\nb")

    @limiter.limit("0/minute")
    def view(request: Request) -> None: ...

    scope = {"type": "http", "method": "GET", "path": "/a", "headers": []}
    with caplog.at_level(logging.WARNING), pytest.raises(RateLimitExceeded):
        view(Request(scope))
    assert caplog.messages == [r"ratelimit 0 per 1 minute (a\nb) exceeded at endpoint: /a"]


@pytest.mark.parametrize(
    ("scope", "address"),
    [
        ({"client": ("1.2.3.4", 1)}, "1.2.3.4"),
        ({"client": None}, "127.0.0.1"),
        ({"client": ("", 0)}, "127.0.0.1"),
        ({}, "127.0.0.1"),
    ],
)
def test_the_key_is_the_address_of_the_peer(scope: dict[str, Any], address: str) -> None:
    scope |= {"type": "http", "headers": []}
    assert get_remote_address(Request(scope)) == address
    assert get_ipaddr(Request(scope)) == address
    scope["headers"] = [(b"x_forwarded_for", b"5.6.7.8")]
    assert get_ipaddr(Request(scope)) == "5.6.7.8"


def test_a_store_error_reaches_the_program(down: str) -> None:
    limiter = by_address(storage_uri=down, storage_options={"on_store_error": "raise"})
    with pytest.raises(StorageError):
        limiter.limiter.hit(parse("1/day"), "a")

"""RateLimitMiddleware on applications in memory: decisions, headers, and being otherwise unseen."""

import asyncio
import contextvars
import gc
import inspect
import math
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from rate_limiter import Decision, Limit, ManualClock, RateLimiter
from rate_limiter._core import AsgiMiddleware, client_key
from rate_limiter.middleware import RateLimitMiddleware
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

Message = dict[str, Any]
START = {"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"1")]}
BODY = {"type": "http.response.body", "body": b"ok"}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Send two messages that are constants, as lean applications do."""
    await send(START)
    await send(BODY)


def scope_of(path: str = "/", **changes: Any) -> Message:
    return {"type": "http", "path": path, "client": ("192.0.2.1", 5), "headers": []} | changes


def call(application: Any, scope: Message) -> list[Message]:
    """Call an ASGI application; return what it sent."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": f"{scope['type']}.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(_call(application, scope, receive, send))
    return sent


async def _call(application: Any, *arguments: Any) -> None:
    await application(*arguments)


def limited(inner: Any = app, **arguments: Any) -> RateLimitMiddleware:
    if arguments.get("limits", "") is None or "rules" in arguments:
        arguments = {"limits": None} | arguments
    else:
        arguments = {"limits": "2/minute", "clock": ManualClock()} | arguments
    return RateLimitMiddleware(inner, **arguments)


def header(message: Message, name: bytes) -> bytes | None:
    values = [value for key, value in message["headers"] if key.lower() == name]
    assert len(values) < 2
    return values[0] if values else None


# --- decisions and headers -------------------------------------------------------------------


def test_allowed_then_denied() -> None:
    middleware = limited()
    for remaining in (b"1", b"0"):
        start, body = call(middleware, scope_of())
        assert start["status"] == 200
        assert body is BODY
        assert start["headers"] == [
            (b"x-app", b"1"),
            (b"x-ratelimit-limit", b"2"),
            (b"x-ratelimit-remaining", remaining),
            (b"x-ratelimit-reset", b"30" if remaining == b"1" else b"60"),
        ]
    start, body = call(middleware, scope_of())
    assert start["status"] == 429
    assert dict(start["headers"]) == {
        b"content-type": b"application/json",
        b"content-length": str(len(body["body"])).encode(),
        b"x-ratelimit-limit": b"2",
        b"x-ratelimit-remaining": b"0",
        b"x-ratelimit-reset": b"60",
        b"retry-after": b"30",
        b"cache-control": b"no-store",
    }
    assert body["body"] == b'{"detail": "Rate limit exceeded. Please try again later."}'


def test_applications_own_messages_are_not_written_to() -> None:
    call(limited(), scope_of())
    assert START == {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"x-app", b"1")],
    }


def test_clients_have_separate_buckets() -> None:
    middleware = limited(limits="1/minute")

    def status(client: object) -> int:
        code: int = call(middleware, scope_of(client=client))[0]["status"]
        return code

    assert status(("192.0.2.1", 1)) == 200
    assert status(("192.0.2.1", 2)) == 429
    assert status(("192.0.2.2", 1)) == 200
    assert status(["::ffff:192.0.2.2", 1]) == 429
    assert status(("2001:db8::1", 1)) == 200
    assert status(("2001:db8::ffff", 1)) == 429
    assert status(("2001:db8:0:1::1", 1)) == 200


@pytest.mark.parametrize("client", [None, ("", 0), (), (None, 0)])
def test_peers_without_an_address_share_a_bucket(client: object) -> None:
    limiter = RateLimiter("1/minute", clock=ManualClock())
    assert call(limited(limits=None, limiter=limiter), scope_of(client=client))[0]["status"] == 200
    assert not limiter.allow("unknown")


def test_scope_without_client_and_path() -> None:
    middleware = limited(limits="1/minute", exempt_paths=["/health"])
    assert [call(middleware, {"type": "http"})[0]["status"] for _ in range(2)] == [200, 429]


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
        ("\udcff:", "\udcff:"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_client_key(address: str | None, client: str) -> None:
    assert client_key(address) == client


def test_client_key_of_something_else() -> None:
    with pytest.raises(TypeError, match="address must be str or None, not int"):
        client_key(5)  # type: ignore[arg-type]


def test_exempt_paths_are_free_and_bare() -> None:
    middleware = limited(exempt_paths={"/health"})
    for _ in range(5):
        assert call(middleware, scope_of("/health"))[0] is START
    assert call(middleware, scope_of("/healthy"))[0] is not START


def test_paths_with_undecodable_characters() -> None:
    middleware = limited(exempt_paths=["/health"])
    assert call(middleware, scope_of("/\udcff\x00"))[0]["status"] == 200


def test_headers_off() -> None:
    middleware = limited(headers="off", limits="1/minute")
    assert call(middleware, scope_of())[0] is START
    start = call(middleware, scope_of())[0]
    assert start["status"] == 429
    assert header(start, b"x-ratelimit-limit") is None


def test_what_the_application_says_itself_stays() -> None:
    async def own(scope: Any, receive: Any, send: Any) -> None:
        await send(START | {"headers": [[b"X-RateLimit-Limit", b"7"], (b"\xff\xfe", b"\xe9")]})

    start = call(limited(own), scope_of())[0]
    assert start["headers"] == [[b"X-RateLimit-Limit", b"7"], (b"\xff\xfe", b"\xe9")]


@pytest.mark.parametrize("headers", [(), [], ((b"a", b"b"),), iter([(b"a", b"b")]), None])
def test_headers_of_any_iterable_kind(headers: Any) -> None:
    async def other(scope: Any, receive: Any, send: Any) -> None:
        message = {"type": "http.response.start", "status": 200}
        await send(message if headers is None else message | {"headers": headers})

    start = call(limited(other), scope_of())[0]
    assert header(start, b"x-ratelimit-limit") == b"2"
    assert header(start, b"a") == (b"b" if headers not in ((), [], None) else None)


def test_nested_middlewares_show_the_inner_limit() -> None:
    clock = ManualClock()
    inner = limited(limits="5/minute", clock=clock)
    start = call(limited(inner, limits="9/minute", clock=clock), scope_of())[0]
    assert header(start, b"x-ratelimit-limit") == b"5"


# --- key, cost, denied -----------------------------------------------------------------------


async def async_key(scope: Message) -> str | None:
    await asyncio.sleep(0)
    return dict(scope["headers"]).get(b"x-api-key")


def sync_key(scope: Message) -> bytes | None:
    return dict(scope["headers"]).get(b"x-api-key")


@pytest.mark.parametrize("key", [sync_key, async_key])
def test_key_callable(key: Callable[[Message], object]) -> None:
    middleware = limited(limits="1/minute", key=key)

    def status(*headers: tuple[bytes, bytes]) -> int:
        code: int = call(middleware, scope_of(headers=list(headers)))[0]["status"]
        return code

    assert status((b"x-api-key", b"a")) == 200
    assert status((b"x-api-key", b"a")) == 429
    assert status((b"x-api-key", b"\xff")) == 200
    assert status() == 200  # no key: the peer's address counts,
    assert status() == 429  # so leaving the key out lifts no limit


async def async_cost(scope: Message) -> float:
    return 2.5


@pytest.mark.parametrize("cost", [2.5, lambda scope: 2.5, async_cost])
def test_cost(cost: Any) -> None:
    start = call(limited(limits="5/minute", cost=cost), scope_of())[0]
    assert header(start, b"x-ratelimit-remaining") == b"2"


def test_cost_above_the_capacity_is_denied_for_ever() -> None:
    start = call(limited(cost=lambda scope: 3), scope_of())[0]
    assert start["status"] == 429
    assert header(start, b"retry-after") is None
    assert header(start, b"x-ratelimit-reset") == b"0"


async def async_denied(scope: Message, decision: Decision) -> Any:
    return JSONResponse({"retry": decision.retry_after}, 503, {"Cache-Control": "private"})


@pytest.mark.parametrize(
    "denied",
    [async_denied, lambda scope, decision: JSONResponse({"retry": decision.retry_after}, 503)],
)
def test_denied_response_of_ones_own(denied: Any) -> None:
    middleware = limited(limits="1/minute", denied=denied)
    call(middleware, scope_of())
    start, body = call(middleware, scope_of())
    assert start["status"] == 503
    assert body["body"] == b'{"retry":60.0}'
    assert header(start, b"retry-after") == b"60"
    assert header(start, b"cache-control") == (
        b"private" if denied is async_denied else b"no-store"
    )


def test_shared_limiter() -> None:
    limiter = RateLimiter("2/minute", clock=ManualClock())
    one, two = (RateLimitMiddleware(app, limiter=limiter) for _ in range(2))
    assert call(one, scope_of())[0]["status"] == 200
    assert call(two, scope_of())[0]["status"] == 200
    assert call(one, scope_of())[0]["status"] == 429
    assert one.limiter is limiter
    assert one.app is app


@pytest.mark.parametrize(
    ("root", "path", "exempt"),
    [
        ("", "/health", True),
        ("/api", "/api/health", True),
        ("/api", "/health", True),
        ("/api", "/api", False),
        ("/api", "/apihealth", False),
        ("/health", "/health", False),
        ("/api/", "/api/health", False),
        (None, "/health", True),
        (5, "/health", True),
    ],
)
def test_exempt_paths_are_those_of_routes(root: Any, path: str, exempt: bool) -> None:
    middleware = limited(exempt_paths=["/health"])
    start = call(middleware, scope_of(path=path, root_path=root))[0]
    assert (header(start, b"x-ratelimit-limit") is None) == exempt


def test_the_exempt_root() -> None:
    middleware = limited(exempt_paths=["/"])
    for path in ("/api", "/api/"):
        start = call(middleware, scope_of(path=path, root_path="/api"))[0]
        assert header(start, b"x-ratelimit-limit") is None


# --- websockets ------------------------------------------------------------------------------


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})


def test_websocket_gets_headers_when_accepted() -> None:
    accept = call(limited(echo), scope_of(type="websocket"))[0]
    assert accept["type"] == "websocket.accept"
    assert header(accept, b"x-ratelimit-remaining") == b"1"


@pytest.mark.parametrize(
    "extensions",
    [{}, None, {"other": {}}, 5, "websocket.http.response", ["websocket.http.response"]],
)
def test_denied_websocket_is_closed(extensions: object) -> None:
    middleware = limited(echo, limits="1/minute")
    scope = scope_of(type="websocket", extensions=extensions)
    call(middleware, scope)
    assert call(middleware, scope) == [
        {
            "type": "websocket.close",
            "code": 1008,
            "reason": "Rate limit exceeded. Please try again later.",
        }
    ]


@pytest.mark.parametrize("denied", [None, lambda scope, decision: PlainTextResponse("no", 429)])
def test_denied_websocket_gets_429_where_the_server_can(denied: Any) -> None:
    middleware = limited(echo, limits="1/minute", denied=denied)
    scope = scope_of(type="websocket", extensions={"websocket.http.response": {}})
    call(middleware, scope)
    start, body = call(middleware, scope)
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 429)
    assert header(start, b"retry-after") == b"60"
    assert body["type"] == "websocket.http.response.body"


# --- as without it ---------------------------------------------------------------------------


def test_other_scopes_pass_untouched() -> None:
    seen: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, receive, send))

    middleware = limited(inner)
    lifespan, receive, send = {"type": "lifespan"}, object(), object()
    asyncio.run(_call(middleware, lifespan, receive, send))
    assert seen == [(lifespan, receive, send)]


def test_scope_and_receive_are_the_servers_own() -> None:
    seen: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.extend((scope, receive))
        await send(BODY)

    scope, receive = scope_of(), object()

    async def send(message: Message) -> None:
        assert message is BODY

    asyncio.run(_call(limited(inner), scope, receive, send))
    assert seen[0] is scope
    assert seen[1] is receive


def test_exception_of_the_application_passes() -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        call(limited(failing), scope_of())


def test_exception_of_send_reaches_the_application() -> None:
    caught: list[Exception] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send(START)
        except OSError as error:
            caught.append(error)

    async def gone(message: Message) -> None:
        raise OSError("client is gone")

    asyncio.run(_call(limited(inner), scope_of(), None, gone))
    assert len(caught) == 1


def test_headers_sent_twice_are_the_servers_business() -> None:
    async def twice(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(START)

    assert [header(one, b"x-ratelimit-remaining") for one in call(limited(twice), scope_of())] == [
        b"1",
        b"1",
    ]


@pytest.mark.parametrize("message", [{}, {"type": 5}, {"type": "http.response.trailers"}])
def test_unknown_messages_pass(message: Message) -> None:
    async def odd(scope: Any, receive: Any, send: Any) -> None:
        await send(message)

    assert call(limited(odd), scope_of())[0] is message


def starlette(endpoint: Callable[[Request], Awaitable[Any]]) -> httpx.AsyncClient:
    application = Starlette(routes=[Route("/", endpoint)])
    application.add_middleware(RateLimitMiddleware, limits="100/minute")
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def test_streaming_and_background_task() -> None:
    ran: list[str] = []

    async def chunks() -> AsyncIterator[bytes]:
        for chunk in (b"a", b"b", b"c"):
            yield chunk

    async def endpoint(request: Request) -> StreamingResponse:
        return StreamingResponse(chunks(), background=BackgroundTask(ran.append, "task"))

    async with starlette(endpoint) as client:
        answer = await client.get("/")
    assert (answer.content, ran) == (b"abc", ["task"])
    assert answer.headers["x-ratelimit-remaining"] == "99"


async def test_context_variables_reach_the_application_and_come_back() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        assert variable.get() == "outer"
        variable.set("inner")

    variable.set("outer")
    await limited(inner)(scope_of(), None, None)
    assert variable.get() == "inner"


async def test_error_response_has_headers() -> None:
    async def endpoint(request: Request) -> None:
        raise LookupError

    async with starlette(endpoint) as client:
        missing = await client.get("/nowhere")
    assert missing.status_code == 404
    assert missing.headers["x-ratelimit-limit"] == "100"


# --- set-up ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"limits": None}, TypeError, "give one of limits, rules and limiter"),
        ({"limiter": RateLimiter("1/s")}, TypeError, "give one of limits, rules and limiter"),
        (
            {"limits": None, "limiter": RateLimiter("1/s"), "max_keys": 5},
            TypeError,
            "store, name, max_keys and clock belong to limits",
        ),
        ({"limits": None, "limiter": "x"}, TypeError, "limiter must be a RateLimiter, got 'x'"),
        ({"limits": "often"}, ValueError, "invalid limit 'often'"),
        ({"key": "name"}, ValueError, "key must be 'ip', .* or a callable, got 'name'"),
        ({"cost": 3}, ValueError, "cost 3 is above the capacity of the limit '2/minute'"),
        ({"cost": -1}, ValueError, "cost must be a finite number >= 0, got -1"),
        ({"cost": math.nan}, ValueError, "cost must be a finite number >= 0, got nan"),
        ({"cost": "1"}, TypeError, "cost must be a number, got '1'"),
        ({"headers": "all"}, ValueError, "headers must be one of .*, got 'all'"),
        ({"exempt_paths": "/health"}, TypeError, "exempt_paths must be several paths"),
        ({"exempt_paths": ["health"]}, ValueError, "begins with '/', got 'health'"),
        ({"exempt_paths": [5]}, ValueError, "begins with '/', got 5"),
        ({"store": "redis"}, ValueError, "store must be 'memory://' or the address of a Redis"),
        ({"limit": "1/s"}, TypeError, "limit"),
    ],
)
def test_bad_arguments(arguments: Message, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        limited(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"key": lambda scope: 5}, TypeError, "key must be str or bytes, not int"),
        ({"cost": lambda scope: None}, TypeError, "cost must be a number, not NoneType"),
        ({"cost": lambda scope: "1"}, TypeError, "cost must be a number, not str"),
        ({"cost": lambda scope: -1}, ValueError, "cost must be a finite number >= 0, got -1"),
        ({"key": lambda scope: scope["nothing"]}, KeyError, "nothing"),
        ({"cost": lambda scope: scope["nothing"]}, KeyError, "nothing"),
    ],
)
def test_mistakes_of_a_callable_are_raised(
    arguments: Message, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(limited(**arguments), scope_of())


def test_servers_take_it_for_asgi_3() -> None:
    """They look for a coroutine function under this name."""
    middleware: Any = limited(limits="1/minute")
    assert inspect.iscoroutinefunction(middleware.__call__)
    assert call(middleware.__call__, scope_of())[0]["status"] == 200
    assert call(middleware, scope_of())[0]["status"] == 429


def test_called_as_no_server_would() -> None:
    middleware: Any = limited()
    for arguments in ((), ({},), ("scope", None, None), ({}, None, None, None)):
        with pytest.raises(TypeError, match="an ASGI application is called with"):
            middleware(*arguments)
    with pytest.raises(RuntimeError, match="was not initialised"):
        AsgiMiddleware.__new__(AsgiMiddleware)({}, None, None)
    with pytest.raises(RuntimeError, match="cannot be initialised twice"):
        middleware.__init__(app, limits=Limit(1, 1))


def test_a_subclass_may_replace_the_call() -> None:
    """Also later: from CPython 3.12 on subclasses take the fast call of the engine."""

    def replaced(self: Any, *arguments: Any) -> Any:
        return arguments

    plain: Any = type("Plain", (RateLimitMiddleware,), {})
    defining: Any = type("Defining", (RateLimitMiddleware,), {"__call__": replaced})
    middleware = plain(app, limits="1/minute")
    assert call(middleware, scope_of())[0]["status"] == 200
    plain.__call__ = replaced
    for one in (middleware, defining(app, limits="1/minute")):
        assert one(1, 2, 3) == (1, 2, 3)


def test_gate_and_sender_are_collected() -> None:
    """Cycles through the C types are found: the application refers to its own middleware."""

    class Application:
        middleware: Any = None
        send: Any = None

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            self.send = send

    application = Application()
    application.middleware = limited(application)
    asyncio.run(_call(application.middleware, scope_of(), None, application))
    gone = weakref.ref(application)
    del application
    gc.collect()
    assert gone() is None


# --- Turned off ---


@pytest.mark.parametrize("more", [{}, {"status_path": "/status"}, {"denied": "problem"}])
def test_one_that_is_turned_off_is_not_there(more: dict[str, Any]) -> None:
    middleware = limited(limits="1/hour", enabled=False, **more)
    for _ in range(3):
        assert call(middleware, scope_of()) == [START, BODY]
    assert call(middleware, scope_of("/status")) == [START, BODY]
    assert middleware.governor is None


def test_mistakes_are_errors_also_when_disabled() -> None:
    for wrong in ({"limits": "1/eon"}, {"cost": 3}, {"key": "colour"}, {"exempt_paths": ["x"]}):
        with pytest.raises(ValueError, match=r".+"):
            limited(enabled=False, **wrong)
    with pytest.raises(TypeError, match="enabled must be True or False, got 'no'"):
        limited(enabled="no")


def test_the_500_of_starlette_has_headers_if_the_application_is_wrapped() -> None:
    def raising(request: Any) -> Any:
        raise RuntimeError("no page")

    def answer_of(app: Any) -> Any:
        return TestClient(app, raise_server_exceptions=False).get("/")

    inside = Middleware(RateLimitMiddleware, limits="5/minute")
    added = answer_of(Starlette(routes=[Route("/", raising)], middleware=[inside]))
    wrapped = answer_of(
        RateLimitMiddleware(Starlette(routes=[Route("/", raising)]), limits="5/minute")
    )
    assert (added.status_code, wrapped.status_code) == (500, 500)
    assert "x-ratelimit-remaining" not in added.headers
    assert wrapped.headers["x-ratelimit-remaining"] == "4"

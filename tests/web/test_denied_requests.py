"""on_denied on every front, the log of denied requests, and reset() of every front."""

import asyncio
import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from flask import Blueprint, Flask
from rate_limiter import Decision, ManualClock, RateLimiter, RateLimitPolicy, TokenBucketLimiter
from rate_limiter.asgi import DeniedRequest, RateLimitMiddleware
from rate_limiter.fastapi import RateLimit, RateLimits
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.policy import denied_requests
from rate_limiter.policy.denied_requests import DeniedLog
from rate_limiter.wsgi import RateLimitMiddleware as WsgiMiddleware
from starlette.applications import Starlette
from starlette.testclient import WebSocketDenialResponse
from support.calling import asgi_app, ask_asgi, ask_wsgi, wsgi_app
from support.odd_requests import PEER, environ_of, scope_of

Ask = Callable[[str], int]
LIMIT = {"limits": "1/hour"}


def of_asgi(**options: Any) -> tuple[Ask, Any]:
    app = RateLimitMiddleware(asgi_app, **(LIMIT | options))
    return lambda path: ask_asgi(app, scope_of(path=path, method="PUT")).status, app


def of_wsgi(**options: Any) -> tuple[Ask, Any]:
    app = WsgiMiddleware(wsgi_app, **(LIMIT | options))
    return lambda path: ask_wsgi(app, environ_of(PATH_INFO=path, REQUEST_METHOD="PUT")).status, app


def of_fastapi(**options: Any) -> tuple[Ask, Any]:
    app = FastAPI()
    limit = RateLimit(**(LIMIT | options))
    app.put("/{path:path}", dependencies=[Depends(limit)])(lambda: "ok")
    return lambda path: ask_asgi(app, scope_of(path=path, method="PUT")).status, limit


def of_fastapi_limits(**options: Any) -> tuple[Ask, Any]:
    app = FastAPI()
    limits = RateLimits(app, default="1/hour", **options)
    app.put("/{path:path}")(lambda: "ok")
    return lambda path: ask_asgi(app, scope_of(path=path, method="PUT")).status, limits


def of_flask(**options: Any) -> tuple[Ask, Any]:
    return _flask(FlaskRateLimiter(default_limits="1/hour", **options), lambda view: view)


def of_flask_decorator(**options: Any) -> tuple[Ask, Any]:
    limiter = FlaskRateLimiter(**options)
    return _flask(limiter, limiter.limit("1/hour"))


def _flask(limiter: FlaskRateLimiter, decorate: Any) -> tuple[Ask, Any]:
    app = Flask("denied")
    limiter.init_app(app)
    app.put("/<path:path>")(decorate(lambda path: "ok"))
    return (
        lambda path: ask_wsgi(app, environ_of(PATH_INFO=path, REQUEST_METHOD="PUT")).status,
        limiter,
    )


FRONTS = [of_asgi, of_wsgi, of_fastapi, of_fastapi_limits, of_flask, of_flask_decorator]
ASYNC = [of_asgi, of_fastapi, of_fastapi_limits]
BLOCKING = [of_wsgi, of_flask, of_flask_decorator]
RULES = {
    of_fastapi: "1/hour",
    of_flask_decorator: "1/hour",
}


@pytest.mark.parametrize("front", FRONTS)
def test_each_denial_is_reported(front: Any) -> None:
    seen: list[DeniedRequest] = []
    ask, _ = front(on_denied=seen.append)
    assert [ask("/a"), ask("/b"), ask("/c")] == [200, 429, 429]
    assert [(one.path, one.method, one.key) for one in seen] == [
        ("/b", "PUT", PEER),
        ("/c", "PUT", PEER),
    ]
    assert {one.rule for one in seen} == {RULES.get(front, "default")}
    assert not seen[0].decision.allowed
    assert 3500 < seen[0].decision.retry_after <= 3600


@pytest.mark.parametrize("front", ASYNC)
def test_async_functions_are_awaited(front: Any) -> None:
    seen: list[str] = []

    async def report(denied: DeniedRequest) -> None:
        await asyncio.sleep(0)
        seen.append(denied.path)

    ask, _ = front(on_denied=report)
    assert [ask("/a"), ask("/b")] == [200, 429]
    assert seen == ["/b"]


class AsyncCall:
    async def __call__(self, denied: DeniedRequest) -> None: ...


async def awaited(more: Any, denied: DeniedRequest) -> None: ...


@pytest.mark.parametrize("make", [WsgiMiddleware, FlaskRateLimiter])
@pytest.mark.parametrize(
    "function", [AsyncCall(), functools.partial(awaited, 1), AsyncCall().__call__]
)
def test_an_async_function_where_none_can_be_awaited(make: Any, function: Any) -> None:
    with pytest.raises(TypeError, match="on_denied must be a plain function, not an async one"):
        make(Flask("x"), on_denied=function)


@pytest.mark.parametrize("front", BLOCKING)
def test_a_coroutine_that_cannot_be_awaited(front: Any, caplog: pytest.LogCaptureFixture) -> None:
    ask, _ = front(on_denied=lambda denied: awaited(1, denied))
    assert [ask("/a"), ask("/b"), ask("/c")] == [200, 429, 429]
    (record,) = caplog.records
    assert record.message == "on_denied failed; later failures are not logged"
    assert "there is no event loop" in str(record.exc_text)


@pytest.mark.parametrize("front", FRONTS)
def test_errors_are_logged_once_and_change_nothing(
    front: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(denied: DeniedRequest) -> None:
        raise KeyError("pager")

    ask, _ = front(on_denied=fail)
    assert [ask("/a"), ask("/b"), ask("/c")] == [200, 429, 429]
    assert [one.message for one in caplog.records] == [
        "on_denied failed; later failures are not logged"
    ]


@pytest.mark.parametrize("front", FRONTS)
def test_what_is_no_function_is_refused(front: Any) -> None:
    with pytest.raises(TypeError, match="on_denied must be a callable, got 'pager'"):
        front(on_denied="pager")


def test_a_gateway_has_no_on_denied() -> None:
    policy = RateLimitPolicy(rate_per_sec=1, burst=2)
    buckets = TokenBucketLimiter("redis://127.0.0.1:1", policy)
    with pytest.raises(TypeError, match="on_denied has no effect with policy"):
        RateLimitMiddleware(asgi_app, buckets, policy, on_denied=print)
    with pytest.raises(TypeError, match="no limits to reset"):
        RateLimitMiddleware(asgi_app, buckets, policy).reset()


def test_shadow_rules_deny_nothing_and_unavailable_stores_do() -> None:
    seen: list[DeniedRequest] = []
    ask, _ = of_asgi(
        limits=None, rules={"default": {"limits": "1/hour", "shadow": True}}, on_denied=seen.append
    )
    assert [ask("/"), ask("/")] == [200, 200]
    assert seen == []
    ask, _ = of_asgi(store="redis://127.0.0.1:1", on_store_error="deny", on_denied=seen.append)
    assert ask("/") == 503
    assert [one.decision.store_unavailable for one in seen] == [True]


def test_a_websocket() -> None:
    seen: list[DeniedRequest] = []
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware, limits="1/hour", on_denied=seen.append)
    client = TestClient(app)
    assert client.get("/").status_code == 404
    with pytest.raises(WebSocketDenialResponse), client.websocket_connect("/chat"):
        pass
    assert [(one.method, one.path) for one in seen] == [("WEBSOCKET", "/chat")]


# --- The log ---


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Any:
    now_s = [0.0]
    monkeypatch.setattr(denied_requests, "denied_log", DeniedLog(lambda: now_s[0]))
    logger = logging.getLogger("rate_limiter.denied")
    logger.setLevel(logging.INFO)
    yield now_s
    logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize("front", FRONTS)
def test_the_log_is_off_by_default(front: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)  # of the root logger
    ask, _ = front()
    assert [ask("/a"), ask("/b")] == [200, 429]
    assert not [one for one in caplog.records if one.name == "rate_limiter.denied"]


@pytest.mark.parametrize("front", FRONTS)
def test_the_log_escapes_and_shortens(
    front: Any, log: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ask, _ = front(clock=ManualClock())
    long = "/" + 500 * "x"
    assert [ask("/a"), ask("/b\x1b[2J"), ask(long)] == [200, 429, 429]
    first, second = (one.message for one in caplog.records)
    rule = RULES.get(front, "default")
    assert first == (f"denied 'PUT' '/b\\x1b[2J': rule='{rule}' key='{PEER}' retry_after=3600")
    assert f"'/{199 * 'x'}...'" in second


def test_the_log_of_any_values(log: Any, caplog: pytest.LogCaptureFixture) -> None:
    never = Decision(False, retry_after=math.inf)
    one = DeniedRequest(b"a\n\xff", "r\u202e%s", never, "\ud800\r\n", "GET\x00")
    DeniedLog().write(one)
    assert caplog.records[0].message == (
        "denied 'GET\\x00' '\\ud800\\r\\n': rule='r\\u202e%s' key='a\\n\\\\xff' retry_after=never"
    )


def test_the_log_is_bounded(log: Any, caplog: pytest.LogCaptureFixture) -> None:
    ask, _ = of_wsgi()
    for _ in range(101):
        ask("/a")
    assert len(caplog.records) == denied_requests.RECORDS_PER_S
    log[0] = 1.5
    ask("/b")
    assert len(caplog.records) == denied_requests.RECORDS_PER_S + 1
    assert caplog.records[-1].message.endswith(" (90 more before it)")


def test_a_filter_that_fails_changes_nothing(log: Any) -> None:
    def fail(record: logging.LogRecord) -> bool:
        raise KeyError("filter")

    logger = logging.getLogger("rate_limiter.denied")
    logger.addFilter(fail)
    try:
        ask, _ = of_asgi()
        assert [ask("/a"), ask("/b")] == [200, 429]
    finally:
        logger.removeFilter(fail)


# --- Reset ---


@pytest.mark.parametrize("front", FRONTS)
def test_reset_of_a_front(front: Any) -> None:
    ask, limits = front()
    assert [ask("/a"), ask("/a")] == [200, 429]
    limits.reset()
    assert [ask("/a"), ask("/a")] == [200, 429]
    limits.reset(PEER)
    assert [ask("/a"), ask("/a")] == [200, 429]
    limits.reset("somebody else")
    assert ask("/a") == 429
    with pytest.raises(ValueError, match="stores hashes of keys"):
        limits.reset(prefix="a")
    with pytest.raises(TypeError, match="key must be"):
        limits.reset(None)


def test_reset_of_rules_and_a_limiter() -> None:
    rules = {"default": {"limits": "1/hour"}, "/b": {"limits": "1/hour"}}
    ask, app = of_asgi(limits=None, rules=rules)
    assert [ask("/a"), ask("/b"), ask("/a"), ask("/b")] == [200, 200, 429, 429]
    app.reset()
    assert [ask("/a"), ask("/b")] == [200, 200]
    limiter = RateLimiter("1/hour")
    ask, app = of_asgi(limits=None, limiter=limiter)
    assert ask("/a") == 200
    app.reset()
    assert limiter.allow(PEER)


def test_the_middleware_of_an_application() -> None:
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware, limits="1/hour")
    with pytest.raises(LookupError, match="when it starts"):
        RateLimitMiddleware.of(app)
    client = TestClient(app)
    assert [client.get("/").status_code for _ in range(2)] == [404, 429]
    RateLimitMiddleware.of(app).reset()
    assert client.get("/").status_code == 404
    around = RateLimitMiddleware(asgi_app, limits="1/hour")
    assert RateLimitMiddleware.of(around) is around
    with pytest.raises(LookupError, match="no RateLimitMiddleware"):
        RateLimitMiddleware.of(Starlette())


def test_reset_of_blueprints_and_of_several_applications() -> None:
    limiter = FlaskRateLimiter(default_limits="1/hour")
    apps = [Flask("one"), Flask("two")]
    blueprint = Blueprint("b", __name__)
    limiter.limit("1/hour")(blueprint)
    blueprint.get("/b")(lambda: "b")
    for app in apps:
        limiter.init_app(app)
        app.register_blueprint(blueprint)
        app.get("/")(lambda: "ok")

    def statuses() -> list[int]:
        return [app.test_client().get(path).status_code for app in apps for path in ("/", "/b")]

    assert statuses() == [200, 200, 200, 429]  # both share the blueprint's
    limiter.reset()
    assert statuses() == [200, 200, 200, 429]


def test_reset_of_a_redis_before_any_request(server: Any) -> None:
    def make() -> tuple[Ask, Any]:
        return of_flask_decorator(store=server.url, on_store_error="raise")

    ask, _ = make()
    assert [ask("/a"), ask("/a")] == [200, 429]
    ask, limiter = make()  # another process
    limiter.reset(prefix="192.")
    assert [ask("/a"), ask("/a")] == [200, 429]

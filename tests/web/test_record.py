"""Several limits of one request: one record, the headers of the tightest limit, all or nothing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from flask import Flask, Response, abort, g
from flask import request as flask_request
from rate_limiter import ManualClock
from rate_limiter.asgi import RateLimitMiddleware
from rate_limiter.fastapi import RateLimit
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.wsgi import RateLimitMiddleware as WsgiMiddleware
from support.calling import Answer, ask_asgi, ask_wsgi
from support.odd_requests import environ_of, scope_of

Ask: TypeAlias = Callable[..., Answer]
TIGHT = {"limits": "4/hour", "key": "header:X-User"}
WIDE = {"limits": "9/hour"}
NAMES = ["limit", "remaining", "reset_after", "key", "rule"]


def described(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in NAMES}


# --- Applications with every kind of response ---


def fastapi_app(*limits: Any) -> FastAPI:
    app = FastAPI(dependencies=[Depends(one) for one in limits])

    @app.get("/value")
    def value() -> str:
        return "ok"

    @app.get("/response")
    def response() -> JSONResponse:
        return JSONResponse("ok", 201)

    @app.get("/stream")
    def stream() -> StreamingResponse:
        return StreamingResponse(iter(["o", "k"]))

    @app.get("/abort")
    def aborted() -> None:
        raise HTTPException(404)

    @app.get("/raise")
    def raising() -> None:
        raise RuntimeError("planned")

    @app.get("/number")
    def number(n: int) -> int:
        return n

    @app.get("/record")
    def record(request: Request) -> dict[str, Any]:
        found = request.state.rate_limit
        assert found is request.scope["rate_limiter"]
        return described(found)

    return app


def flask_app(wrap: Callable[[Any], Any] = lambda view: view) -> Flask:
    app = Flask("record")
    app.logger.disabled = True
    views: dict[str, Any] = {
        "value": lambda: "ok",
        "response": lambda: Response("ok", 201),
        "stream": lambda: Response(iter(["o", "k"])),
        "abort": lambda: abort(404),
        "raise": lambda: 1 / 0,
        "number": lambda: abort(422),
    }
    for name, view in views.items():
        app.add_url_rule(f"/{name}", name, wrap(view))

    def record() -> dict[str, Any]:
        found = flask_request.environ["rate_limiter"]
        assert g.get("rate_limit", found) is found
        return described(found)

    app.add_url_rule("/record", "record", wrap(record))
    return app


# --- Fronts, each with two limits ---


def asking_asgi(app: Any) -> Ask:
    def ask(path: str, user: str = "ann", method: str = "GET") -> Answer:
        scope = scope_of([("x-user", user)], path=path, method=method)
        return ask_asgi(raised_later(app), scope)

    return ask


def raised_later(app: Any) -> Any:
    """Return an application without the error that Starlette raises after its 500."""

    async def called(scope: Any, receive: Any, send: Any) -> None:
        with contextlib.suppress(RuntimeError):
            await app(scope, receive, send)

    return called


def asking_wsgi(app: Any) -> Ask:
    return lambda path, user="ann", method="GET": ask_wsgi(
        app, environ_of([("x-user", user)], PATH_INFO=path, REQUEST_METHOD=method)
    )


def two_asgi_middlewares(first: Any, second: Any) -> Ask:
    clock = ManualClock()
    inner = RateLimitMiddleware(fastapi_app(), clock=clock, **second)
    return asking_asgi(RateLimitMiddleware(inner, clock=clock, **first))


def added_middleware_and_route(first: Any, second: Any) -> Ask:
    clock = ManualClock()
    app = fastapi_app(RateLimit(clock=clock, **second))
    app.add_middleware(RateLimitMiddleware, clock=clock, **first)
    return asking_asgi(app)


def two_dependencies(first: Any, second: Any) -> Ask:
    clock = ManualClock()
    return asking_asgi(
        fastapi_app(RateLimit(clock=clock, **first), RateLimit(clock=clock, **second))
    )


def two_wsgi_middlewares(first: Any, second: Any) -> Ask:
    clock = ManualClock()
    inner = WsgiMiddleware(flask_app(), clock=clock, **second)
    return asking_wsgi(WsgiMiddleware(inner, clock=clock, **first))


def flask_limiter(options: Any, clock: ManualClock) -> FlaskRateLimiter:
    return FlaskRateLimiter(
        default_limits=options["limits"], key=options.get("key", "ip"), clock=clock
    )


def wsgi_middleware_and_flask(first: Any, second: Any) -> Ask:
    clock = ManualClock()
    app = flask_app()
    flask_limiter(second, clock).init_app(app)
    return asking_wsgi(WsgiMiddleware(app, clock=clock, **first))


def two_flask_limiters(first: Any, second: Any) -> Ask:
    clock = ManualClock()
    app = flask_app()
    for options in (first, second):
        flask_limiter(options, clock).init_app(app)
    return asking_wsgi(app)


def two_flask_decorators(first: Any, second: Any) -> Ask:
    limiter = FlaskRateLimiter(clock=ManualClock())
    outer, inner = (
        limiter.limit(one["limits"], key=one.get("key"), name=one["limits"])
        for one in (first, second)
    )
    # The decorators of all views share their buckets.
    app = flask_app(lambda view: outer(inner(view)))
    limiter.init_app(app)
    return asking_wsgi(app)


ANY_REQUEST = [two_asgi_middlewares, two_wsgi_middlewares]
"""These also limit requests without a route."""
STACKS = [
    *ANY_REQUEST,
    added_middleware_and_route,
    two_dependencies,
    wsgi_middleware_and_flask,
    two_flask_limiters,
    two_flask_decorators,
]
every_stack = pytest.mark.parametrize("stack", STACKS)
both_orders = pytest.mark.parametrize("limits", [(TIGHT, WIDE), (WIDE, TIGHT)], ids=["tw", "wt"])

RESPONSES = {
    ("GET", "/value"): 200,
    ("GET", "/response"): 201,
    ("GET", "/stream"): 200,
    ("GET", "/abort"): 404,
    ("GET", "/raise"): 500,
    ("GET", "/number"): 422,
    ("HEAD", "/value"): 200,
}
NO_ROUTE = {("GET", "/nowhere"): 404, ("POST", "/value"): 405}


def responses_of(stack: Any) -> dict[tuple[str, str], int]:
    """Return requests that both limits decide about, with the statuses of their responses."""
    found = RESPONSES | (NO_ROUTE if stack in ANY_REQUEST else {})
    if stack in (two_asgi_middlewares, added_middleware_and_route, two_dependencies):
        return {
            one: status for one, status in found.items() if one[0] != "HEAD"
        }  # no route allows it
    return found


def shown(answer: Answer) -> tuple[list[str], list[str]]:
    return answer.values("X-RateLimit-Limit"), answer.values("X-RateLimit-Remaining")


@every_stack
@both_orders
def test_headers_are_those_of_the_tightest_once(stack: Any, limits: Any) -> None:
    for (method, path), status in responses_of(stack).items():
        ask = stack(*limits)
        answers = [ask(path, method=method) for _ in range(5)]
        assert [one.status for one in answers] == [status] * 4 + [429], path
        assert [shown(one) for one in answers] == [
            (["4"], ["3"]),
            (["4"], ["2"]),
            (["4"], ["1"]),
            (["4"], ["0"]),
            (["4"], ["0"]),
        ], path
        assert [len(one.values("Retry-After")) for one in answers] == [0, 0, 0, 0, 1]
        others = [ask(path, f"user {n}", method) for n in range(6)]
        del others[1]  # both limits have three left
        assert [shown(one)[0] for one in others] == [["4"], ["9"], ["9"], ["9"], ["9"]]
        assert [one.status for one in others] == [status] * 4 + [429]


@every_stack
@both_orders
def test_a_denial_takes_from_none(stack: Any, limits: Any) -> None:
    ask = stack(*limits)
    assert [ask("/value").status for _ in range(9)] == [200] * 4 + [429] * 5
    others = [ask("/value", f"user {n}").status for n in range(9)]
    assert others == [200] * 5 + [429] * 4
    # What the wide limit denied was not taken from the tight one.
    assert ask("/value", "user 8").values("X-RateLimit-Limit") == ["9"]


@every_stack
@both_orders
def test_the_application_reads_the_tightest_limit(stack: Any, limits: Any) -> None:
    ask = stack(*limits)
    record = json.loads(ask("/record").body)
    is_named = stack in (two_dependencies, two_flask_decorators)
    key = {"key": "header:x-user:ann", "limit": 4, "remaining": 3, "reset_after": 900}
    assert {name: record[name] for name in key} == key
    assert record["rule"] in ("default", "4/hour")
    assert not is_named or record["rule"] == "4/hour"


FINAL = [
    {"rules": {"default": {"limits": "9/hour", "refund": "4xx"}}},
    {"limits": "9/hour", "cost_after": lambda finished: 0 if finished.failed else None},
]


@pytest.mark.parametrize("outer", FINAL, ids=["refund", "cost_after"])
@pytest.mark.parametrize("front", ["middleware", "route", "wsgi"])
def test_what_a_denial_gave_back_is_not_given_back_after_the_response(
    front: str, outer: dict[str, Any]
) -> None:
    clock = ManualClock()
    ask: Ask
    middleware: Any
    if front == "wsgi":
        inner = WsgiMiddleware(flask_app(), limits="4/hour", clock=clock)
        middleware = WsgiMiddleware(inner, clock=clock, **outer)
        ask = asking_wsgi(middleware)
    else:
        limit = RateLimit("4/hour", clock=clock)
        app: Any = fastapi_app(*([limit] if front == "route" else []))
        if front == "middleware":
            app = RateLimitMiddleware(app, limits="4/hour", clock=clock)
        middleware = RateLimitMiddleware(app, clock=clock, **outer)
        ask = asking_asgi(middleware)
    policy = middleware.policy if front == "wsgi" else middleware._policy
    (limiter,) = policy.limiters().values()
    assert [ask("/value").status for _ in range(9)] == [200] * 4 + [429] * 5
    assert limiter.peek("192.0.2.1").remaining == 5


def test_a_key_that_is_a_dependency() -> None:
    calls: list[str] = []

    async def current_user(request: Request) -> str:
        user = request.headers.get("x-user", "")
        if not user:
            raise HTTPException(401)
        calls.append(user)
        return user

    app = FastAPI()
    limit = RateLimit("1/hour", key=Depends(current_user), cost=lambda connection: 1)

    @app.get("/", dependencies=[Depends(limit)])
    async def view(user: str = Depends(current_user)) -> str:
        return user

    answers = [ask_asgi(app, scope_of([("x-user", user)])) for user in ("ann", "ann", "bob", "")]
    assert [one.status for one in answers] == [200, 429, 200, 401]
    assert [one.body for one in answers[::2]] == [b'"ann"', b'"bob"']
    assert calls == ["ann", "ann", "bob"]  # once for the limit and the route
    assert answers[0].values("X-RateLimit-Remaining") == ["0"]


def test_the_headers_of_a_dependency_are_on_the_error_of_a_later_one() -> None:
    def refused() -> None:
        raise HTTPException(401)

    app = FastAPI(dependencies=[Depends(RateLimit("2/hour")), Depends(refused)])
    app.get("/")(lambda: "ok")
    answers = [ask_asgi(app, scope_of()) for _ in range(3)]
    assert [one.status for one in answers] == [401, 401, 429]
    assert [shown(one)[1] for one in answers] == [["1"], ["0"], ["0"]]


OWN = [("X-RateLimit-Limit", "77"), ("X-RateLimit-Remaining", "76")]


def own_asgi() -> Answer:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(name.lower().encode(), value.encode()) for name, value in OWN]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    return ask_asgi(RateLimitMiddleware(app, limits="9/hour"), scope_of())


def own_wsgi() -> Answer:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", OWN)
        return [b"ok"]

    return ask_wsgi(WsgiMiddleware(app, limits="9/hour"), environ_of())


def own_fastapi() -> Answer:
    app = FastAPI(dependencies=[Depends(RateLimit("9/hour"))])
    app.get("/")(lambda: JSONResponse("ok", headers=dict(OWN)))
    return ask_asgi(app, scope_of())


def own_flask() -> Answer:
    app = Flask("own")
    app.get("/")(lambda: Response("ok", headers=dict(OWN)))
    FlaskRateLimiter(app, default_limits="9/hour")
    return ask_wsgi(app, environ_of())


@pytest.mark.parametrize("ask", [own_asgi, own_wsgi, own_fastapi, own_flask])
def test_the_applications_own_headers_stay_alone(ask: Callable[[], Answer]) -> None:
    answer = ask()
    assert shown(answer) == (["77"], ["76"])
    assert not answer.values("X-RateLimit-Reset")

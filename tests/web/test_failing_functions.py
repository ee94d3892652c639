"""A user's function that raises: logged with its rule, answered with 500; nothing stays taken."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import JSONResponse
from flask import Flask, abort
from rate_limiter import Decision, ManualClock, RateLimiter, RateLimitExceeded
from rate_limiter.asgi import RateLimitMiddleware
from rate_limiter.fastapi import RateLimit
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.wsgi import RateLimitMiddleware as WsgiMiddleware
from support.calling import asgi_app, ask_asgi, ask_wsgi, wsgi_app
from support.odd_requests import PEER, environ_of, scope_of

Stack: TypeAlias = tuple[Callable[[], int], RateLimiter]
"""How to ask for a status, and the limiter that decides first."""


def status_of(ask: Callable[[], int]) -> int:
    """Return a status, 500 for an error that reaches the server."""
    try:
        return ask()
    except (KeyError, ValueError, TypeError, ZeroDivisionError):
        return 500


def of_asgi(**options: Any) -> Stack:
    first = RateLimiter("5/hour", clock=ManualClock())
    app = RateLimitMiddleware(RateLimitMiddleware(asgi_app, limits="2/hour", **options), first)
    return lambda: ask_asgi(app, scope_of()).status, first


def of_wsgi(**options: Any) -> Stack:
    first = RateLimiter("5/hour", clock=ManualClock())
    app = WsgiMiddleware(WsgiMiddleware(wsgi_app, limits="2/hour", **options), first)
    return lambda: ask_wsgi(app, environ_of()).status, first


def of_fastapi(**options: Any) -> Stack:
    first = RateLimiter("5/hour", clock=ManualClock())
    app = FastAPI()
    depends = [Depends(RateLimit(limiter=first)), Depends(RateLimit("2/hour", **options))]
    app.get("/", dependencies=depends)(lambda: "ok")
    return lambda: ask_asgi(app, scope_of()).status, first


def without_argument(function: Any) -> Any:
    if isinstance(function, list):
        return [without_argument(one) for one in function]
    return (lambda: function(None)) if callable(function) else function


def of_flask(**options: Any) -> Stack:
    limiter = FlaskRateLimiter()
    plain = {name: without_argument(one) for name, one in options.items()}
    outer, inner = limiter.limit("5/hour"), limiter.limit("2/hour", **plain)
    return _flask(limiter, outer(inner(lambda: "ok")))


def of_several_flask_limiters(**options: Any) -> Stack:
    plain = {name: without_argument(one) for name, one in options.items()}
    first = FlaskRateLimiter(default_limits="5/hour")
    return _flask(first, lambda: "ok", FlaskRateLimiter(default_limits="2/hour", **plain))


def _flask(limiter: FlaskRateLimiter, view: Any, *more: FlaskRateLimiter) -> Stack:
    app = Flask("failing")
    for one in (limiter, *more):
        one.init_app(app)
    app.add_url_rule("/", "view", view)
    limits = getattr(view, "_rate_limiter_limits", ())
    state = app.extensions["rate_limiter"].states[0]
    policy = limits[0].policy(state) if limits else state.defaults
    (first,) = policy.limiters().values()
    return lambda: ask_wsgi(app, environ_of()).status, first


def raising(request: Any) -> Any:
    raise KeyError("user")


async def raising_later(request: Any) -> Any:
    raise KeyError("user")


FRONTS = [of_asgi, of_wsgi, of_fastapi, of_flask, of_several_flask_limiters]
CAUSES: dict[str, tuple[dict[str, Any], str]] = {
    "key": ({"key": raising}, "the key of the rule '{}' raised KeyError('user')"),
    "key in a chain": (
        {"key": [raising, "ip"]},
        "the key of the rule '{}' raised KeyError('user')",
    ),
    "cost": ({"cost": raising}, "the cost of the rule '{}' raised KeyError('user')"),
    "cost that is no number": (
        {"cost": lambda request: "many"},
        "the limit of the rule '{}' raised TypeError('cost must be a number, not str')",
    ),
    "key that is no text": (
        {"key": lambda request: 5},
        "the limit of the rule '{}' raised TypeError('key must be str or bytes, not int')",
    ),
}


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize(("options", "message"), CAUSES.values(), ids=CAUSES)
def test_a_function_that_raises(
    front: Any, options: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    ask, first = front(**options)
    assert [status_of(ask) for _ in range(9)] == [500] * 9
    assert first.peek(PEER).remaining == 5
    rule = "2/hour" if front in (of_fastapi, of_flask) else "default"
    logged = [one.message for one in caplog.records if one.name == "rate_limiter"]
    assert logged.count(message.format(rule)) == 9


@pytest.mark.parametrize("front", [of_asgi, of_fastapi])
@pytest.mark.parametrize("part", ["key", "cost"])
def test_an_async_function_that_raises(
    front: Any, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    ask, first = front(**{part: raising_later})
    assert [status_of(ask) for _ in range(9)] == [500] * 9
    assert first.peek(PEER).remaining == 5
    assert f"the {part} of the rule" in caplog.text


@pytest.mark.parametrize("front", [of_fastapi, of_flask, of_several_flask_limiters])
def test_an_error_that_the_framework_answers_is_not_logged(
    front: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def cost(request: Any) -> float:
        if front is of_fastapi:
            raise HTTPException(422, "pages must be a number")
        abort(422)

    ask, first = front(cost=cost)
    # The answer counts: else a client could guess credentials without end.
    assert [ask() for _ in range(9)] == [422] * 5 + [429] * 4
    assert first.peek(PEER).remaining < 1
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


def test_what_a_function_raised_keeps_its_traceback() -> None:
    ask, _ = of_asgi(key=raising)
    with pytest.raises(KeyError) as raised:
        ask()
    assert raised.traceback[-1].name == "raising"


def test_a_wait_without_end_fits_into_json() -> None:
    never, soon = (
        Decision(False, 1, limit=2, retry_after=math.inf),
        Decision(False, retry_after=1.2),
    )
    assert [one.retry_after_s for one in (never, soon, Decision(True))] == [None, 2, 0]
    assert RateLimitExceeded(never).retry_after_s is None

    app = FastAPI()
    app.get("/", dependencies=[Depends(RateLimit("2/hour", cost=lambda request: 3))])(lambda: "ok")

    @app.exception_handler(RateLimitExceeded)
    def exceeded(request: Any, error: RateLimitExceeded) -> JSONResponse:
        return JSONResponse({"wait_s": error.retry_after_s}, 429, getattr(error, "headers", None))

    answer = ask_asgi(app, scope_of())
    assert (answer.status, answer.body) == (429, b'{"wait_s":null}')
    assert not answer.values("Retry-After")


@pytest.mark.parametrize("front", FRONTS)
def test_advice_for_a_key_that_raises_is_logged_once(
    front: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ask, _ = front(key=raising)
    for _ in range(3):
        status_of(ask)
    assert caplog.text.count("let authentication run first") == 1

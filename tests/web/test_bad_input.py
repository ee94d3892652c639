"""Requests that no server would pass on: nothing crashes, hangs, raises or lifts a limit."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeAlias

import pytest
from fastapi import HTTPException
from rate_limiter import ManualClock
from rate_limiter.asgi import RateLimitMiddleware
from rate_limiter.fastapi import RateLimit, SettlingMiddleware
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.wsgi import RateLimitMiddleware as WsgiMiddleware
from starlette.requests import HTTPConnection
from support.calling import asgi_app, ask_asgi, ask_wsgi, wsgi_app
from support.flask_app import app_of
from support.odd_requests import HEADERS, PATHS, broken, environ_of, long_headers, scope_of
from support.tokens import HS

Ask: TypeAlias = Callable[[dict[str, Any]], int]
CLOCK = ManualClock()


def of_asgi(**options: Any) -> Ask:
    app = RateLimitMiddleware(asgi_app, clock=CLOCK, **options)
    return lambda scope: ask_asgi(app, scope).status


def of_wsgi(**options: Any) -> Ask:
    app = WsgiMiddleware(wsgi_app, clock=CLOCK, **options)
    return lambda environ: ask_wsgi(app, environ).status


def of_fastapi(**options: Any) -> Ask:
    """Return what calls a limit as FastAPI does, which could not read such requests itself."""
    limit = RateLimit(clock=CLOCK, **options)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        status = 200
        try:
            await limit(HTTPConnection(scope))
        except HTTPException as error:
            status = error.status_code
        await send({"type": "http.response.start", "status": status, "headers": []})

    return lambda scope: ask_asgi(SettlingMiddleware(app), scope).status


def of_flask(**options: Any) -> Ask:
    if "limits" in options:
        options["default_limits"] = options.pop("limits")
    return flask_app(FlaskRateLimiter(clock=CLOCK, **options))


def flask_app(limiter: FlaskRateLimiter) -> Ask:
    app = app_of(limiter)
    app.config["PROPAGATE_EXCEPTIONS"] = True
    app.add_url_rule("/", "view", lambda path="": "ok")
    app.add_url_rule("/<path:path>", "view")
    return lambda environ: ask_wsgi(app, environ).status


LIMITS = {"limits": "2/hour"}
RULES = {
    "rules": {
        "default": {"limits": "2/hour"},
        "/login": {"limits": "2/hour", "methods": ["POST"]},
        "pro": {"limits": "2/hour", "tier": "pro"},
        "vip": {"limits": "2/hour", "keys": ["header:x-api-key:vip"]},
    }
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": LIMITS,
    "all for one": LIMITS | {"key": "all"},
    "header": LIMITS | {"key": "header:X-API-Key"},
    "chain": LIMITS | {"key": ["cookie:sid", "header:Authorization", "ip"]},
    "cookie": LIMITS | {"key": "cookie:sid"},
    "token": LIMITS | {"key": "jwt:sub", "jwt": HS},
    "proxies": LIMITS | {"trusted_proxies": ["192.0.2.0/24", "10.0.0.0/8"]},
    "forwarded": LIMITS | {"trusted_proxies": ["192.0.2.1"], "proxy_header": "forwarded"},
    "headers": LIMITS | {"headers": "both", "reset": "epoch", "cors": True},
    "two limits": {"limits": ["2/hour", "9/day"], "headers": "ietf"},
    "cost_after": LIMITS | {"cost_after": lambda finished: None},
}
WITH_RULES: dict[str, dict[str, Any]] = {
    "rules": RULES | {"tier": "header:X-Plan"},
    "bypass": LIMITS
    | {
        "bypass": ["ip:198.51.100.0/24", "header:X-Secret=s", "jwt:role=admin"],
        "jwt": HS,
    },
    "paths": LIMITS | {"exempt_paths": ["/health"], "status_path": "/me", "metrics": "bad-input"},
    "answer": LIMITS | {"denied": {"key": "{key}", "wait": "{retry_after}"}},
}
OF_SCOPES = [(of_asgi, OPTIONS | WITH_RULES), (of_fastapi, OPTIONS)]
OF_ENVIRONS = [(of_wsgi, OPTIONS | WITH_RULES), (of_flask, OPTIONS | WITH_RULES)]


def cases(fronts: Any) -> Any:
    return pytest.mark.parametrize(
        ("front", "options"),
        [
            pytest.param(front, options, id=f"{front.__name__}-{name}")
            for front, table in fronts
            for name, options in table.items()
        ],
    )


LIMITED = [200, 200, 429]


def answers(ask: Ask, request: dict[str, Any]) -> Any:
    """Return the statuses of three equal requests with full buckets, or what one raised."""
    CLOCK.advance(100_000)  # more than a day
    try:
        return [ask(deepcopy(request)) for _ in range(3)]
    except Exception as error:
        return repr(error)[:100]


def unlimited(front: Any, options: dict[str, Any], requests: dict[str, Any]) -> dict[str, Any]:
    """Return the answers to requests that are not limited, or raise. There must be none.

    Flask itself cannot read some of them: then the limit must not make a difference.
    """
    ask = front(**options)
    found = {what: answers(ask, one) for what, one in requests.items()}
    wrong = {what: one for what, one in found.items() if one != LIMITED}
    if front is not of_flask:
        return wrong
    bare = flask_app(FlaskRateLimiter(enabled=False))
    return {what: one for what, one in wrong.items() if answers(bare, requests[what]) != one}


@cases(OF_SCOPES)
def test_broken_scopes(front: Any, options: dict[str, Any]) -> None:
    requests = {what: one for what, one in broken(scope_of(HEADERS)) if one.get("type") == "http"}
    assert unlimited(front, options, requests) == {}


@cases(OF_ENVIRONS)
def test_broken_environs(front: Any, options: dict[str, Any]) -> None:
    assert unlimited(front, options, dict(broken(environ_of(HEADERS)))) == {}


@cases(OF_SCOPES)
def test_odd_headers_and_paths_of_scopes(front: Any, options: dict[str, Any]) -> None:
    requests = {name: scope_of(headers) for name, headers in long_headers().items()}
    requests |= {path[:20]: scope_of(HEADERS, path=path) for path in PATHS}
    assert unlimited(front, options, requests) == {}


@cases(OF_ENVIRONS)
def test_odd_headers_and_paths_of_environs(front: Any, options: dict[str, Any]) -> None:
    requests = {name: environ_of(headers) for name, headers in long_headers().items()}
    requests |= {path[:20]: environ_of(HEADERS, PATH_INFO=path) for path in PATHS}
    assert unlimited(front, options, requests) == {}

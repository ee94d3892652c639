"""A limit of zero on every front: 429 for everybody, with finite headers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from flask import Flask
from rate_limiter.asgi import RateLimitMiddleware
from rate_limiter.fastapi import RateLimit
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.wsgi import RateLimitMiddleware as WsgiMiddleware
from support.calling import Answer, asgi_app, ask_asgi, ask_wsgi, wsgi_app
from support.odd_requests import environ_of, scope_of

Front = Callable[..., Answer]


def on_asgi(limits: str, **options: Any) -> Answer:
    return ask_asgi(RateLimitMiddleware(asgi_app, limits=limits, **options), scope_of(()))


def on_wsgi(limits: str, **options: Any) -> Answer:
    return ask_wsgi(WsgiMiddleware(wsgi_app, limits=limits, **options), environ_of(()))


def on_flask(limits: str, **options: Any) -> Answer:
    app = Flask("zero")
    app.get("/")(lambda: "ok")
    FlaskRateLimiter(app, default_limits=limits, **options)
    return ask_wsgi(app, environ_of(()))


def on_fastapi(limits: str, **options: Any) -> Answer:
    app = FastAPI()
    app.get("/", dependencies=[Depends(RateLimit(limits, **options))])(lambda: "ok")
    return ask_asgi(app, scope_of(()))


@pytest.mark.parametrize("front", [on_asgi, on_wsgi, on_flask, on_fastapi])
@pytest.mark.parametrize(
    "limits",
    ["0/minute", "0/minute; window=fixed", "0/hour; window=sliding", "9/minute; 0/month"],
)
@pytest.mark.parametrize("reset", ["seconds", "epoch"])
def test_zero_is_denied_with_finite_headers(front: Front, limits: str, reset: str) -> None:
    answer = front(limits, headers="both", reset=reset)
    fields = {name.lower(): value for name, value in answer.headers}
    assert answer.status == 429
    assert "retry-after" not in fields
    assert fields["x-ratelimit-limit"] == fields["x-ratelimit-remaining"] == "0"
    for name, value in fields.items():
        if "ratelimit" in name:
            assert not re.search("inf|nan|^-|=-", value), (name, value)
    json.loads(answer.body)

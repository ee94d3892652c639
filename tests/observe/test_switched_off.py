"""A limiter that is switched off by an argument is visible in the metrics."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from rate_limiter.fastapi import RateLimit
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.middleware import RateLimitMiddleware
from rate_limiter.observe.registry import readings
from rate_limiter.wsgi import RateLimitMiddleware as WsgiMiddleware


def on_asgi(**options: Any) -> None:
    RateLimitMiddleware(None, limits="1/hour", **options)  # type: ignore[arg-type]


def on_wsgi(**options: Any) -> None:
    WsgiMiddleware(None, limits="1/hour", **options)  # type: ignore[arg-type]


def on_fastapi(**options: Any) -> None:
    RateLimit("1/hour", **options)


def on_flask(**options: Any) -> None:
    FlaskRateLimiter(Flask("off"), default_limits="1/hour", **options)


def on_flask_by_setting(enabled: bool = True) -> None:
    app = Flask("off")
    app.config["RATE_LIMITER_ENABLED"] = enabled
    FlaskRateLimiter(app, default_limits="1/hour")


@pytest.mark.parametrize("make", [on_asgi, on_wsgi, on_fastapi, on_flask, on_flask_by_setting])
def test_it_is_shown(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rate_limiter.observe.registry._limits_off", False)

    def shown() -> list[float]:
        return [one.value for one in readings() if one.name == "disabled"]

    make()
    assert shown() == [0]
    make(enabled=False)
    assert shown() == [1]

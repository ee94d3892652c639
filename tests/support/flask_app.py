"""Flask applications with a limiter, and requests to them."""

from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from rate_limiter import ManualClock
from rate_limiter.flask import FlaskRateLimiter


def limiter_of(**arguments: Any) -> FlaskRateLimiter:
    return FlaskRateLimiter(**({"clock": ManualClock()} | arguments))


def app_of(limiter: FlaskRateLimiter, **config: Any) -> Flask:
    app = Flask(__name__)
    app.config.update(config)
    limiter.init_app(app)
    return app


def statuses(app: Flask, path: str, n: int, method: str = "GET", **arguments: Any) -> list[int]:
    client = app.test_client()
    codes = []
    for _ in range(n):
        with client.open(path, method=method, **arguments) as response:
            codes.append(response.status_code)
    return codes


def get(app: Flask, path: str = "/", **arguments: Any) -> Any:
    client: FlaskClient = app.test_client()
    return client.get(path, **arguments)

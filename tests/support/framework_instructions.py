"""Requests to FastAPI and Flask between marks, for callgrind: see path_instructions.py.

The numbers of the frameworks differ by version, so each limit is compared with what does nothing in
its place: an empty dependency, or hooks that set three headers.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.requests import HTTPConnection
from flask import Flask
from rate_limiter.fastapi import RateLimit
from rate_limiter.flask import FlaskRateLimiter
from support.odd_requests import environ_of
from support.path_instructions import SCOPE, receive, send

CALLS = 50
WARM_UP = 100
CASES = (
    "FastAPI",
    "FastAPI, empty dependency",
    "FastAPI, limit",
    "Flask",
    "Flask, hooks",
    "Flask, default limits",
    "Flask, decorator",
)
ENOUGH = "1000000/second"
ENVIRON = environ_of([("host", "api.example.com")])


async def nothing(connection: HTTPConnection) -> None: ...


def limit() -> RateLimit:
    made = RateLimit(ENOUGH)
    made._checks.is_done = True  # of the first requests only
    return made


def fastapi(*dependencies: Any) -> FastAPI:
    app = FastAPI()

    @app.get("/", dependencies=[Depends(one) for one in dependencies])
    async def view() -> dict[str, str]:
        return {"message": "hello"}

    return app


def flask(decorate: Callable[[Any], Any] = lambda view: view) -> Flask:
    app = Flask("instructions")

    @app.get("/")
    @decorate
    def view() -> str:
        return "ok"

    return app


def flask_with_hooks() -> Flask:
    app = flask()
    app.before_request(lambda: None)

    @app.after_request
    def add_headers(response: Any) -> Any:
        response.headers["X-RateLimit-Limit"] = "100"
        response.headers["X-RateLimit-Remaining"] = "99"
        response.headers["X-RateLimit-Reset"] = "1"
        return response

    return app


def flask_with_defaults() -> Flask:
    app = flask()
    FlaskRateLimiter(app, default_limits=ENOUGH, setup_checks=False)
    return app


def flask_with_decorator() -> Flask:
    limiter = FlaskRateLimiter(setup_checks=False)
    app = flask(limiter.limit(ENOUGH))
    limiter.init_app(app)
    return app


def applications() -> Iterator[tuple[Callable[[Any], None], Any]]:
    """Return the applications of the cases, each with what sends a request to it."""
    for app in (fastapi(), fastapi(nothing), fastapi(limit())):
        yield ask_asgi, app
    for make in (flask, flask_with_hooks, flask_with_defaults, flask_with_decorator):
        yield ask_wsgi, make()


def ask_asgi(app: Any) -> None:
    try:
        app({**SCOPE}, receive, send).send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


def start_response(status: str, headers: Any, exc_info: Any = None) -> None: ...


def ask_wsgi(app: Any) -> None:
    body = app({**ENVIRON}, start_response)
    for _ in body:
        pass
    body.close()


def main() -> None:
    cases = list(applications())
    for ask, app in cases:
        for _ in repeat(None, WARM_UP):
            ask(app)
    gc.collect()
    gc.disable()
    for ask, app in cases:
        ask(app)
        os.getppid()
        for _ in repeat(None, CALLS):
            ask(app)
        os.getppid()


if __name__ == "__main__":
    main()

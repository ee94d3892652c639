"""Each front of a limit, and how to ask it with a request that no client library would send."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pytest
from fastapi import Depends, FastAPI, Request
from flask import Flask
from flask import request as flask_request
from rate_limiter import ManualClock
from rate_limiter.fastapi import RateLimit
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.middleware import RateLimitMiddleware
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from werkzeug.test import EnvironBuilder, run_wsgi_app

Headers: TypeAlias = Sequence[tuple[str, str]]
PEER = "192.0.2.1"


def ask_asgi(app: Any, headers: Headers = (), peer: str = PEER, **scope: Any) -> tuple[int, str]:
    """Return status and body of an answer; of a websocket 101 or 403 and its first message."""
    sent: list[Any] = []
    given = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
        "client": (peer, 1),
    } | scope
    if given["type"] == "websocket":
        del given["method"]

    async def receive() -> Any:
        return {"type": "websocket.connect" if given["type"] == "websocket" else "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> None:
        await app(given, receive, send)

    asyncio.run(run())
    if given["type"] == "websocket":
        is_open = sent[0]["type"] == "websocket.accept"
        return (101, sent[1]["text"]) if is_open else (403, "")
    return sent[0]["status"], b"".join(one.get("body", b"") for one in sent).decode()


def ask_flask(app: Flask, headers: Headers = (), peer: str = PEER, **environ: Any) -> Any:
    """Return status and body of an answer. A `path` goes to the application as it is."""
    path = environ.pop("path", "/")
    builder = EnvironBuilder(headers=list(headers), environ_base={"REMOTE_ADDR": peer}, **environ)
    made = builder.get_environ() | {"PATH_INFO": path.encode().decode("latin-1")}
    body, status, _ = run_wsgi_app(app, made, buffered=True)
    return int(status.split()[0]), b"".join(body).decode()


def on_asgi(limits: str, read: Callable[[Any], str], **arguments: Any) -> Any:
    """Return a function that sends requests to an application behind the middleware."""
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse(read(request)))])
    gate = RateLimitMiddleware(app, limits=limits, clock=ManualClock(), **arguments)
    return lambda *headers, **more: ask_asgi(gate, headers, **more)


def on_rules(limits: str, read: Callable[[Any], str], **arguments: Any) -> Any:
    """Return a function that sends requests to an application with rules."""
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse(read(request)))])
    rules = {"default": {"limits": limits}}
    gate = RateLimitMiddleware(app, rules=rules, clock=ManualClock(), **arguments)
    return lambda *headers, **more: ask_asgi(gate, headers, **more)


def on_fastapi(limits: str, read: Callable[[Any], str], **arguments: Any) -> Any:
    """Return a function that sends requests to a route that depends on a limit."""
    app = FastAPI()
    dependency = Depends(RateLimit(limits, clock=ManualClock(), **arguments))

    @app.get("/", dependencies=[dependency])
    def view(request: Request) -> PlainTextResponse:
        return PlainTextResponse(read(request))

    return lambda *headers, **more: ask_asgi(app, headers, **more)


def on_flask(limits: str, read: Callable[[Any], str], **arguments: Any) -> Any:
    """Return a function that sends requests to an application with default limits."""
    app = Flask("bypasses")
    app.get("/")(lambda: read(flask_request))
    FlaskRateLimiter(app, default_limits=limits, clock=ManualClock(), **arguments)
    return lambda *headers, **more: ask_flask(app, headers, **more)


FRONTS = [on_asgi, on_rules, on_fastapi, on_flask]
every_front = pytest.mark.parametrize("front", FRONTS)

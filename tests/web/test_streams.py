"""Responses are sent as the application makes them, and cost_after sees what was really sent."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import io
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.util import FileWrapper

import pytest
from fastapi import Depends, FastAPI
from flask import Flask, Response, g, request, send_file, stream_with_context
from rate_limiter import ManualClock
from rate_limiter.fastapi import RateLimit
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.middleware import RateLimitMiddleware
from rate_limiter.policy.settling import Finished
from starlette import responses
from starlette.applications import Starlette
from starlette.routing import Route
from werkzeug.test import create_environ

LIMITS = "100/hour"
BROKEN = "planned"
MANY = 1000
"""Chunks of a stream that is not read to its end."""


def chunks() -> Iterator[bytes]:
    yield from (b"one,", b"two,", b"six.")


def broken_chunks() -> Iterator[bytes]:
    yield b"one,"
    raise RuntimeError(BROKEN)


# --- Every front, the same requests --------------------------------------------------------------


def star_response(path: str) -> Any:
    """Return what the ASGI applications answer."""
    if path == "/stream":
        return responses.StreamingResponse(chunks())
    if path == "/broken":
        return responses.StreamingResponse(broken_chunks())
    if path == "/short":
        return responses.StreamingResponse(chunks(), headers={"Content-Length": "20"})
    if path in ("/204", "/304"):
        return responses.Response(None, int(path[1:]))
    return responses.PlainTextResponse("whole")


def flask_response(path: str) -> Response:
    """Return the same of Flask."""
    if path == "/stream":
        return Response(chunks())
    if path == "/broken":
        return Response(broken_chunks())
    if path == "/short":
        return Response(chunks(), headers={"Content-Length": "20"})
    if path in ("/204", "/304"):
        return Response(None, int(path[1:]))
    return Response("whole")


def asgi_ask(app: Any, method: str, path: str) -> None:
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [],
        "client": ("192.0.2.1", 5),
        "asgi": {"version": "3.0", "spec_version": "2.4"},
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        await asyncio.sleep(0)

    with contextlib.suppress(RuntimeError):
        asyncio.run(app(scope, receive, send))


def wsgi_ask(app: Any, method: str, path: str) -> None:
    body = app(create_environ(path, method=method), lambda status, headers, *error: None)
    try:
        with contextlib.suppress(RuntimeError):
            list(body)
    finally:
        body.close()


def of_asgi(cost_after: Any) -> Callable[[str, str], None]:
    async def view(request: Any) -> Any:
        return star_response(request.url.path)

    app = Starlette(routes=[Route("/{path:path}", view)])
    limited = RateLimitMiddleware(app, limits=LIMITS, cost_after=cost_after)
    return lambda method, path: asgi_ask(limited, method, path)


def of_fastapi(cost_after: Any) -> Callable[[str, str], None]:
    app = FastAPI()
    limit = RateLimit(LIMITS, cost_after=cost_after)

    @app.api_route("/{path:path}", methods=["GET", "HEAD"], dependencies=[Depends(limit)])
    async def view(path: str) -> Any:
        return star_response(f"/{path}")

    return lambda method, path: asgi_ask(app, method, path)


def flask_app(cost_after: Any, *, is_decorated: bool) -> Flask:
    app = Flask("streams")
    defaults = {} if is_decorated else {"default_limits": LIMITS, "cost_after": cost_after}
    limiter = FlaskRateLimiter(app, setup_checks=False, **defaults)

    def view(path: str) -> Response:
        return flask_response(f"/{path}")

    limited = limiter.limit(LIMITS, cost_after=cost_after)(view) if is_decorated else view
    app.add_url_rule("/<path:path>", view_func=limited)
    return app


def of_flask(cost_after: Any) -> Callable[[str, str], None]:
    app = flask_app(cost_after, is_decorated=False)
    return lambda method, path: wsgi_ask(app, method, path)


def of_flask_decorator(cost_after: Any) -> Callable[[str, str], None]:
    app = flask_app(cost_after, is_decorated=True)
    return lambda method, path: wsgi_ask(app, method, path)


FRONTS = [of_asgi, of_fastapi, of_flask, of_flask_decorator]


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize(
    ("method", "path", "status", "body_bytes"),
    [
        ("GET", "/whole", 200, 5),
        ("GET", "/stream", 200, 12),
        ("GET", "/short", 200, 12),
        ("GET", "/204", 204, 0),
        ("GET", "/304", 304, 0),
        ("HEAD", "/whole", 200, 0),
        ("HEAD", "/stream", 200, 0),
    ],
)
def test_what_cost_after_gets(
    front: Any, method: str, path: str, status: int, body_bytes: int
) -> None:
    seen: list[Finished] = []
    front(seen.append)(method, path)
    (finished,) = seen
    assert (finished.status, finished.body_bytes) == (status, body_bytes)
    assert (finished.error, finished.disconnected, finished.failed) == (None, False, False)
    assert (finished.cost, finished.scope["method"]) == (1, method)
    assert finished.key in ("192.0.2.1", "127.0.0.1", "unknown")
    assert all(isinstance(part, bytes) for pair in finished.headers for part in pair)


@pytest.mark.parametrize("front", FRONTS)
def test_a_stream_that_breaks(front: Any) -> None:
    seen: list[Finished] = []
    front(seen.append)("GET", "/broken")
    (finished,) = seen
    assert (finished.status, finished.body_bytes, finished.disconnected) == (200, 4, False)
    assert str(finished.error) == BROKEN
    assert finished.failed


@pytest.mark.parametrize("front", FRONTS)
def test_a_cost_after_that_raises_is_logged(front: Any, caplog: pytest.LogCaptureFixture) -> None:
    front(lambda finished: 1 / 0)("GET", "/stream")
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("rate_limiter", logging.ERROR)
    assert record.message == "the cost of a request could not be settled"
    assert "ZeroDivisionError" in caplog.text


# --- Flask ---------------------------------------------------------------------------------------


class Call:
    """One call of a WSGI application, whose body is taken step by step."""

    def __init__(self, app: Any, path: str = "/", method: str = "GET", **environ: Any) -> None:
        self.headers: dict[str, str] = {}
        self.status = ""
        made = create_environ(path, method=method) | environ
        self.body = app(made, self._start)
        self.chunks = iter(self.body)

    def _start(self, status: str, headers: Iterable[tuple[str, str]], *error: Any) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers}


def limited(view: Callable[[], Any], **arguments: Any) -> tuple[Flask, list[Finished]]:
    """Return an application with one view, and what its cost_after has seen."""
    seen: list[Finished] = []
    app = Flask("streams")
    cost_after = arguments.pop("cost_after", seen.append)
    FlaskRateLimiter(app, default_limits=LIMITS, setup_checks=False, cost_after=cost_after)
    app.add_url_rule("/", view_func=view, endpoint="view")
    return app, seen


@pytest.mark.parametrize("cost_after", [None, lambda finished: None])
def test_flask_sends_chunk_by_chunk(cost_after: Any) -> None:
    made: list[int] = []

    def events() -> Iterator[bytes]:
        for number in range(1, MANY):
            made.append(number)
            yield b"data: %d\n\n" % number

    app, _ = limited(lambda: Response(events(), mimetype="text/event-stream"))
    call = Call(app)
    assert call.headers["x-ratelimit-remaining"] == "99"
    assert "content-length" not in call.headers
    assert made == []
    assert [next(call.chunks) for _ in range(2)] == [b"data: 1\n\n", b"data: 2\n\n"]
    assert made == [1, 2]
    call.body.close()


def test_a_client_that_leaves_flask() -> None:
    ended: list[str] = []

    def events() -> Iterator[bytes]:
        try:
            for _ in range(MANY):
                yield b"tick"
        finally:
            ended.append("stream")

    app, seen = limited(lambda: Response(events()))
    call = Call(app)
    assert [next(call.chunks) for _ in range(3)] == [b"tick"] * 3
    assert (seen, ended) == ([], [])
    call.body.close()
    assert ended == ["stream"]
    (finished,) = seen
    assert (finished.body_bytes, finished.disconnected, finished.error) == (12, True, None)
    call.body.close()
    del call
    gc.collect()
    assert len(seen) == 1


def test_flask_settles_after_what_the_application_does_on_close() -> None:
    order: list[str] = []

    def view() -> Response:
        response = Response(chunks())
        response.call_on_close(lambda: order.append("application"))
        return response

    app, _ = limited(view, cost_after=lambda finished: order.append("limiter"))
    call = Call(app)
    list(call.chunks)
    assert order == []
    call.body.close()
    assert order == ["application", "limiter"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_response_of_known_length_is_settled_before_the_next_request(method: str) -> None:
    app, seen = limited(lambda: "whole")
    kept = [app.test_client().open("/", method=method) for _ in range(3)]  # and never closed
    assert len(seen) == len(kept)
    assert not any(one.disconnected for one in seen)


def test_a_stream_that_a_server_drops_without_closing_it() -> None:
    app, seen = limited(lambda: Response(chunks()))
    call = Call(app)
    assert next(call.chunks) == b"one,"
    del call
    gc.collect()
    assert [(one.body_bytes, one.disconnected) for one in seen] == [(4, True)]


@pytest.mark.parametrize("is_stream", [False, True])
def test_cost_after_of_flask_reads_request_and_g(is_stream: bool) -> None:
    costs: list[float] = []

    def cost_after(finished: Finished) -> float:
        costs.append(g.rows * len(request.args["name"]))
        return costs[-1]

    def rows() -> Iterator[str]:
        g.rows = 0
        for _ in range(4):
            g.rows += 1
            yield request.args["name"]

    def view() -> Any:
        return Response(stream_with_context(rows())) if is_stream else "".join(rows())

    app, _ = limited(view, cost_after=cost_after)
    torn_down: list[int] = []
    app.teardown_request(lambda error: torn_down.append(len(costs)))
    with app.test_client().get("/?name=abc") as response:
        assert response.text == "abc" * 4
    assert costs == [12]
    assert set(torn_down) == {0}  # with a stream, Flask calls it twice
    assert app.test_client().get("/?name=a").headers["X-RateLimit-Remaining"] == "87"


@pytest.mark.parametrize("file_wrapper", [None, FileWrapper])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_file_of_flask(tmp_path: Path, file_wrapper: Any, method: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100_000))
    app, seen = limited(lambda: send_file(path, conditional=True))
    environ = {} if file_wrapper is None else {"wsgi.file_wrapper": file_wrapper}
    call = Call(app, method=method, **environ)
    assert call.headers["content-length"] == "100000"
    expected = 100_000 if method == "GET" else 0
    assert sum(map(len, call.chunks)) == expected
    call.body.close()
    (finished,) = seen
    assert (finished.body_bytes, finished.disconnected) == (expected, False)


def test_a_range_of_a_file_of_flask() -> None:
    app, seen = limited(
        lambda: send_file(io.BytesIO(b"0123456789"), mimetype="text/plain", conditional=True)
    )
    call = Call(app, HTTP_RANGE="bytes=2-5")
    assert (call.status[:3], list(call.chunks)) == ("206", [b"2345"])
    call.body.close()
    assert [(one.status, one.body_bytes) for one in seen] == [(206, 4)]


def test_a_server_that_does_not_ask_for_the_body_of_a_head() -> None:
    app, seen = limited(lambda: Response(chunks()))
    Call(app, method="HEAD").body.close()
    assert [(one.body_bytes, one.disconnected) for one in seen] == [(0, False)]


def test_a_flask_application_that_raises() -> None:
    def view() -> str:
        raise RuntimeError(BROKEN)

    app, seen = limited(view)
    call = Call(app)
    list(call.chunks)
    call.body.close()
    assert [(one.status, str(one.error), one.failed) for one in seen] == [(500, BROKEN, True)]
    app.testing = True
    with pytest.raises(RuntimeError, match=BROKEN):
        Call(app)
    assert [(one.status, str(one.error)) for one in seen[1:]] == [(None, BROKEN)]


def test_a_flask_application_whose_teardown_raises() -> None:
    app, seen = limited(lambda: "ok")

    @app.teardown_request
    def broken(error: BaseException | None) -> None:
        raise RuntimeError(BROKEN)

    with pytest.raises(RuntimeError, match=BROKEN):
        Call(app)
    assert [str(one.error) for one in seen] == [BROKEN]


class Quiet(WSGIRequestHandler):
    """Do not log requests."""

    def log_message(self, *arguments: Any) -> None:
        pass


def test_events_of_flask_on_a_server() -> None:
    def events() -> Iterator[bytes]:
        for _ in range(MANY):
            yield b"data: tick\n\n"
            time.sleep(0.01)

    app, seen = limited(lambda: Response(events(), mimetype="text/event-stream"))
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        serving = threading.Thread(target=server.handle_request)
        serving.start()
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        connection.request("GET", "/")
        response = connection.getresponse()
        assert response.read(24) == b"data: tick\n\n" * 2
        assert response.getheader("Content-Length") is None
        response.close()
        connection.close()
        serving.join(60)
        assert not serving.is_alive()
    (finished,) = seen
    assert finished.disconnected
    assert finished.body_bytes >= 24


# --- ASGI ----------------------------------------------------------------------------------------


async def test_a_file_that_the_server_sends_from_its_path() -> None:
    seen: list[Finished] = []
    messages = iter(
        [
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"7")],
            },
            {"type": "http.response.pathsend", "path": "/file"},
        ]
    )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)
        await receive()

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None: ...

    middleware = RateLimitMiddleware(
        app, limits=LIMITS, cost_after=seen.append, clock=ManualClock()
    )
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": None}
    await middleware(scope, receive, send)
    assert [(one.body_bytes, one.disconnected) for one in seen] == [(7, False)]


async def test_chunks_for_a_client_that_has_left_do_not_count() -> None:
    seen: list[Finished] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"sent", "more_body": True})
        await receive()
        await send({"type": "http.response.body", "body": b"lost"})

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None: ...

    middleware = RateLimitMiddleware(
        app, limits=LIMITS, cost_after=seen.append, clock=ManualClock()
    )
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": None}
    await middleware(scope, receive, send)
    assert [(one.body_bytes, one.disconnected) for one in seen] == [(4, True)]

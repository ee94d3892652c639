"""The live page: what the limiters of a host do now, in a browser.

    app.mount("/rate-limit/live", dashboard(token=os.environ["LIVE_PAGE_TOKEN"]))

It needs a token, and limiters with ``metrics=``. See docs/live-page.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any, TypeAlias

from rate_limiter.checks.arguments import checked_path
from rate_limiter.observe.live_access import Client, Denied, PageRequest
from rate_limiter.observe.live_page import (
    BODY_MAX,
    PATHS,
    LivePage,
    PageAnswer,
    refusal,
    seconds_of,
    stream_headers,
)

__all__ = ["Dashboard", "WsgiDashboard", "dashboard", "page_paths", "wsgi_dashboard"]

STREAMS_MAX = 100
"""Event streams of a process; another one gets 503, and its page polls."""
EVERY_S = 2.0
STREAM_S = 15.0
"""Time after which a stream ends, and the browser opens the next one.

So a server that stops need not wait longer, and a session that has ended is noticed.
"""
SEND_MAX_S = 10.0
"""Time that a slow reader has for an event before its stream ends."""

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def dashboard(
    token: str,
    *,
    allow_reset: bool = False,
    client: Client | None = None,
    secure_cookie: bool = False,
) -> Dashboard:
    """Return the live page as an ASGI application to mount.

    Args:
        token: at least 16 printable ASCII characters; anyone with the token sees the page.
        allow_reset: viewers may reset the limits of a client.
        client: a ClientAddress that finds the client whose wrong tokens are counted, where
            requests come over a proxy; by default the peer is the client.
        secure_cookie: browsers send the cookie over TLS alone. This is always so if requests come
            over TLS; set it if a proxy ends TLS before.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """
    page = LivePage(
        token,
        allow_reset=allow_reset,
        client=client,
        secure_cookie=secure_cookie,
        streams=True,
    )
    return Dashboard(page)


def wsgi_dashboard(
    token: str,
    *,
    allow_reset: bool = False,
    client: Client | None = None,
    secure_cookie: bool = False,
) -> WsgiDashboard:
    """Return the live page as a WSGI application to mount.

    The page polls instead of receiving events: a stream would hold a thread of the server.

    Args:
        token, allow_reset, client, secure_cookie: as for dashboard().

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """
    page = LivePage(
        token,
        allow_reset=allow_reset,
        client=client,
        secure_cookie=secure_cookie,
        streams=False,
    )
    return WsgiDashboard(page)


def page_paths(mount: str) -> frozenset[str]:
    """Return all paths of a page that is mounted at a path, for ``exempt_paths=``.

    Raises:
        TypeError, ValueError: `mount` is no path.
    """
    base = checked_path("mount", mount).rstrip("/")
    return frozenset(base + path for path in PATHS if base + path)


class Dashboard:
    """The live page as an ASGI application, made by dashboard()."""

    def __init__(self, page: LivePage) -> None:
        self._page = page
        self._streams = threading.BoundedSemaphore(STREAMS_MAX)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await _live_through(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = _request_of_scope(scope, await _body_of(scope, receive))
        if request.path == "/events" and request.method == "GET" and _on_asyncio():
            await self._stream(request, receive, send)
            return
        if _on_asyncio():  # the page reads files, and may wait for a store
            answer = await asyncio.to_thread(self._page.answer, request)
        else:
            answer = self._page.answer(request)
        await _send(answer, request, send)

    async def _stream(self, request: PageRequest, receive: Receive, send: Send) -> None:
        try:
            self._page.access.check(request)
            if not self._streams.acquire(blocking=False):
                raise Denied(503, f"{STREAMS_MAX} event streams are open in this process", 30)
        except Denied as denied:
            await _send(refusal(denied), request, send)
            return
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            since_s = seconds_of(request.header("last-event-id") or "")
            await self._send_events(since_s, gone, send)
        finally:
            self._streams.release()
            gone.cancel()

    async def _send_events(self, since_s: float, gone: asyncio.Future[None], send: Send) -> None:
        headers = _encoded(stream_headers())
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        ends_s = asyncio.get_running_loop().time() + STREAM_S
        while not gone.done() and asyncio.get_running_loop().time() < ends_s:
            text, since_s = await asyncio.to_thread(self._page.event, since_s)
            message = {"type": "http.response.body", "body": text.encode(), "more_body": True}
            if not await _is_sent(send(message)):
                return  # the server closes the connection
            await asyncio.wait({gone}, timeout=EVERY_S)
        if not gone.done():
            await send({"type": "http.response.body", "body": b""})


async def _is_sent(sent: Awaitable[None]) -> bool:
    """Wait until a message is sent; return False if a slow reader takes too long.

    asyncio.wait_for of Python 3.11 may lose a cancellation, so it is not used here.
    """
    sending = asyncio.ensure_future(sent)
    try:
        done, _ = await asyncio.wait({sending}, timeout=SEND_MAX_S)
    finally:
        sending.cancel()
    for one in done:
        one.result()
    return bool(done)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _live_through(receive: Receive, send: Send) -> None:
    """Answer the lifespan events of a server that serves the page alone."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


def _on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # trio
        return False
    return True


async def _body_of(scope: Scope, receive: Receive) -> bytes:
    """Return the body of a POST, or the first part of one that is too long."""
    body = b""
    while scope["method"] == "POST" and len(body) <= BODY_MAX:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return body


def _request_of_scope(scope: Scope, body: bytes) -> PageRequest:
    root, path = scope.get("root_path", "").rstrip("/"), scope["path"]
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    client = scope.get("client")
    return PageRequest(
        scope["method"],
        path[len(root) :] if path == root or path.startswith(f"{root}/") else path,
        scope.get("query_string", b"").decode("latin-1"),
        root,
        headers,
        body,
        client[0] if client else None,
        scope.get("scheme") == "https",
    )


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


async def _send(answer: PageAnswer, request: PageRequest, send: Send) -> None:
    headers = [*answer.headers, ("content-length", str(len(answer.body)))]
    status = {"type": "http.response.start", "status": answer.status, "headers": _encoded(headers)}
    await send(status)
    body = b"" if request.method == "HEAD" else answer.body
    await send({"type": "http.response.body", "body": body})


class WsgiDashboard:
    """The live page as a WSGI application, made by wsgi_dashboard()."""

    def __init__(self, page: LivePage) -> None:
        self._page = page

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer a request."""
        request = _request_of_environ(environ)
        answer = self._page.answer(request)
        headers = [*answer.headers, ("content-length", str(len(answer.body)))]
        start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", headers)
        return [b"" if request.method == "HEAD" else answer.body]


def _request_of_environ(environ: dict[str, Any]) -> PageRequest:
    headers = {
        name[5:].replace("_", "-").lower(): [value]
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    if environ.get("CONTENT_TYPE"):
        headers["content-type"] = [environ["CONTENT_TYPE"]]
    return PageRequest(
        environ["REQUEST_METHOD"],
        _text(environ.get("PATH_INFO", "")),
        environ.get("QUERY_STRING", ""),
        _text(environ.get("SCRIPT_NAME", "")).rstrip("/"),
        headers,
        _body_of_environ(environ),
        environ.get("REMOTE_ADDR") or None,
        environ.get("wsgi.url_scheme") == "https",
    )


def _body_of_environ(environ: dict[str, Any]) -> bytes:
    """Return the body of a POST, or the first part of one that is too long."""
    if environ["REQUEST_METHOD"] != "POST":
        return b""
    length = BODY_MAX + 1
    with contextlib.suppress(ValueError):
        length = min(length, max(0, int(environ.get("CONTENT_LENGTH") or 0)))
    body: bytes = environ["wsgi.input"].read(length)
    return body


def _text(path: str) -> str:
    """Return a path, whose bytes WSGI passes as latin-1."""
    return path.encode("latin-1").decode("utf-8", "replace")

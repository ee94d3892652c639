"""Call ASGI and WSGI applications as a server does, with any scope or environ."""

from __future__ import annotations

import asyncio
import atexit
from typing import Any, NamedTuple

# Making a loop for each request would take most of the time of a test.
_LOOP = asyncio.new_event_loop()
atexit.register(_LOOP.close)


class Answer(NamedTuple):
    """A response; header names are in lower case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for found, value in self.headers if found == name.lower()]


def ask_asgi(app: Any, scope: dict[str, Any]) -> Answer:
    """Return the answer of an ASGI application; 101 for an accepted websocket."""
    start: dict[str, Any] = {"status": 1008}
    chunks: list[bytes] = []

    messages = ["websocket.connect" if scope.get("type") == "websocket" else "http.request"]

    async def receive() -> Any:
        if not messages:
            await asyncio.Event().wait()  # the client stays
        return {"type": messages.pop()}

    async def send(message: Any) -> None:
        if message["type"].endswith("response.start"):
            start.update(message)
        elif message["type"] == "websocket.accept":
            start.update({"status": 101, "headers": message.get("headers", [])})
        chunks.append(message.get("body", b""))

    _LOOP.run_until_complete(app(scope, receive, send))
    headers = [
        (bytes(a).decode("latin-1").lower(), b.decode()) for a, b in start.get("headers", ())
    ]
    return Answer(start["status"], headers, b"".join(chunks))


def ask_wsgi(app: Any, environ: dict[str, Any]) -> Answer:
    """Return the answer of a WSGI application."""
    starts: list[tuple[str, Any]] = []
    body = app(environ, lambda status, headers, *error: starts.append((status, headers)))
    try:
        content = b"".join(body)
    finally:
        getattr(body, "close", lambda: None)()
    status, headers = starts[-1]
    return Answer(int(status[:3]), [(name.lower(), value) for name, value in headers], content)


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    """Respond with 200."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def wsgi_app(environ: Any, start_response: Any) -> Any:
    """Respond with 200."""
    start_response("200 OK", [])
    return [b"ok"]

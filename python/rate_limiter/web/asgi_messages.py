"""Types of ASGI, and functions that read and send its messages.

See https://asgi.readthedocs.io/en/latest/specs/www.html for the messages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from hashlib import sha256
from inspect import isawaitable
from typing import Any, TypeAlias

from rate_limiter._core import client_key
from rate_limiter.policy.denials import Answer
from rate_limiter.policy.headers import DENIED_DETAIL

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
AnyASGIApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
"""Accepts frameworks that have their own types for these, such as Litestar."""

_STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")


def client_of(scope: Scope) -> str:
    """Return the key of the peer of a request."""
    client = scope.get("client")
    return client_key(client[0] if client else None)


def first_forwarded(scope: Scope) -> str:
    """Return the first element of ``X-Forwarded-For``, else the peer's address, else ``unknown``.

    Trust it only behind a proxy that sets the header. An element that is longer than any address
    is replaced by its digest.
    """
    for name, value in scope["headers"]:
        if name == b"x-forwarded-for":
            first: str = value.decode("latin-1").split(",")[0].strip()
            if first:
                return first if len(first) <= 100 else "sha256:" + sha256(value).hexdigest()
            break
    client = scope.get("client")
    return str(client[0]) if client and client[0] else "unknown"


def is_websocket(scope: Scope) -> bool:
    """Return whether a request is for a websocket."""
    return bool(scope["type"] == "websocket")


def takes_response(scope: Scope) -> bool:
    """Return whether the server of a websocket can send a response instead of accepting it."""
    extensions = scope.get("extensions")
    return isinstance(extensions, Mapping) and "websocket.http.response" in extensions


async def turned_away(scope: Scope, receive: Receive, send: Send) -> bool:
    """Close a websocket whose server cannot send a response; return True if it was closed."""
    if not is_websocket(scope):
        return False
    await receive()  # servers may wait until "websocket.connect" is received
    if takes_response(scope):
        return False
    await send({"type": "websocket.close", "code": 1008, "reason": DENIED_DETAIL})
    return True


async def send_answer(
    answer: Answer, scope: Scope, send: Send, more: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Send a whole response, with more headers."""
    prefix = "websocket." if is_websocket(scope) else ""
    headers = [
        *more,
        (b"content-type", answer.media_type.encode("latin-1")),
        (b"content-length", str(len(answer.body)).encode()),
    ]
    await send(
        {"type": f"{prefix}http.response.start", "status": answer.status, "headers": headers}
    )
    body = b"" if scope.get("method") == "HEAD" else answer.body
    await send({"type": f"{prefix}http.response.body", "body": body})


async def send_users_answer(
    answer: ASGIApp | Awaitable[ASGIApp], scope: Scope, receive: Receive, send: Send
) -> None:
    """Send the response that a user's `denied` returned, awaited if needed."""
    app: Any = await answer if isawaitable(answer) else answer
    await app(scope, receive, send)


def starts_response(message: Message) -> bool:
    """Return whether a message has the headers of a response."""
    return message["type"] in _STARTS

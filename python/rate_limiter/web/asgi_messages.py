"""Types of ASGI, and functions that read and send its messages.

See https://asgi.readthedocs.io/en/latest/specs/www.html for the messages.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from hashlib import sha256
from inspect import isawaitable
from typing import Any, TypeAlias

from rate_limiter._core import client_key
from rate_limiter.policy.denials import Answer
from rate_limiter.policy.headers import DENIED_DETAIL, NO_STORE_DETAIL

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

DENIED = Answer(429, "application/json", json.dumps({"detail": DENIED_DETAIL}).encode())
NO_STORE = Answer(503, "application/json", json.dumps({"detail": NO_STORE_DETAIL}).encode())

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


async def turned_away(scope: Scope, receive: Receive, send: Send) -> bool:
    """Close a websocket whose server cannot send a response; return True if it was closed."""
    if not is_websocket(scope):
        return False
    await receive()  # servers may wait until "websocket.connect" is received
    if "websocket.http.response" in (scope.get("extensions") or {}):
        return False
    await send({"type": "websocket.close", "code": 1008, "reason": DENIED_DETAIL})
    return True


async def send_answer(answer: Answer, scope: Scope, send: Send) -> None:
    """Send a whole response."""
    prefix = "websocket." if is_websocket(scope) else ""
    headers = [
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


def with_headers(message: Message, values: Mapping[str, str]) -> Message:
    """Return a message with headers added, except those that the application has set.

    If the application has set ``X-RateLimit-Limit``, no ``X-RateLimit-*`` header is added.
    """
    given = list(message.get("headers") or ())
    names = {bytes(name).lower() for name, _ in given}
    own_limit = b"x-ratelimit-limit" in names
    added = []
    for name, value in values.items():
        lower = name.lower().encode("latin-1")
        is_own = lower in names and lower != b"access-control-expose-headers"
        if not is_own and not (own_limit and lower.startswith(b"x-ratelimit-")):
            added.append((lower, value.encode("latin-1")))
    return {**message, "headers": given + added}

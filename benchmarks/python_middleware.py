"""The rival of the ASGI middleware in benchmarks/memory.py: the same behaviour in plain Python.

It uses the same C engine, so only the middleware differs: the coroutine, the headers and the
wrapper of `send`.
"""

import math
from collections.abc import Awaitable, Callable
from typing import Any

from rate_limiter import RateLimiter


class PythonMiddleware:
    """Limit by the peer's address and add headers, all in Python."""

    def __init__(self, app: Callable[..., Awaitable[None]], limiter: RateLimiter) -> None:
        self._app = app
        self._limiter = limiter
        self._exempt_paths = frozenset({"/health"})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in self._exempt_paths:
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        key = client[0] if client else "unknown"
        decision = self._limiter.hit(key)

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                if not any(name.lower() == b"x-ratelimit-limit" for name, _ in headers):
                    headers += (
                        (b"x-ratelimit-limit", b"%d" % decision.limit),
                        (b"x-ratelimit-remaining", b"%d" % decision.remaining),
                        (b"x-ratelimit-reset", b"%d" % math.ceil(decision.reset_after)),
                    )
                message = {**message, "headers": headers}
            await send(message)

        if decision:
            await self._app(scope, receive, send_with_headers)
        else:
            await send_with_headers({"type": "http.response.start", "status": 429})
            await send_with_headers({"type": "http.response.body", "body": b""})

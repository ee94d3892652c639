"""A WSGI application behind the middleware, for servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rate_limiter.wsgi import RateLimitMiddleware


def streaming(environ: Any, start_response: Any) -> Iterator[bytes]:
    """Respond in two chunks, and begin with the first one."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"o"
    yield b"k"


app = RateLimitMiddleware(streaming, limits="20/day", cost_after=lambda finished: 1)

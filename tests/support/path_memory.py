"""Count what requests leave in memory, beside cycles.

python -m support.path_memory 1000000    (in the folder tests)
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable
from typing import Any

from fastapi import Depends, FastAPI
from flask import Flask
from rate_limiter.asgi import RateLimitMiddleware
from rate_limiter.fastapi import RateLimit
from rate_limiter.flask import FlaskRateLimiter
from rate_limiter.wsgi import RateLimitMiddleware as WsgiMiddleware
from support.calling import asgi_app, ask_asgi, ask_wsgi, wsgi_app
from support.odd_requests import HEADERS, environ_of, scope_of
from support.tokens import HS

ALLOWED, DENIED = "1000000000/second", "1/day"
WARM_UP = 200
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "chain": {"key": ["header:X-API-Key", "cookie:sid", "jwt:sub", "ip"], "jwt": HS},
    "function": {"key": lambda *request: "key", "cost": lambda *request: 1},
    "proxies": {"trusted_proxies": ["192.0.2.0/24", "10.0.0.0/8"], "headers": "both"},
    "settled": {"cost_after": lambda finished: 1},
}


def of_asgi(**options: Any) -> Callable[[], object]:
    app = RateLimitMiddleware(asgi_app, **options)
    return lambda: ask_asgi(app, scope_of(HEADERS))


def of_wsgi(**options: Any) -> Callable[[], object]:
    app = WsgiMiddleware(wsgi_app, **options)
    return lambda: ask_wsgi(app, environ_of(HEADERS))


def of_fastapi(**options: Any) -> Callable[[], object]:
    app = FastAPI()

    @app.get("/", dependencies=[Depends(RateLimit(**options))])
    async def view() -> str:
        return "ok"

    return lambda: ask_asgi(app, scope_of(HEADERS))


def of_flask(limits: str, **options: Any) -> Callable[[], object]:
    app = Flask("memory")
    FlaskRateLimiter(app, default_limits=limits, **options)
    app.add_url_rule("/", "view", lambda: "ok")
    return lambda: ask_wsgi(app, environ_of(HEADERS))


FRONTS = [of_asgi, of_wsgi, of_fastapi, of_flask]


def blocks_left(step: Callable[[], object], n: int) -> int:
    """Return how many more blocks of memory there are after `n` calls."""
    for _ in range(WARM_UP):
        step()
    gc.collect()
    gc.disable()
    try:
        before = sys.getallocatedblocks()
        for _ in range(n):
            step()
        gc.collect()  # the cycles that Flask makes, and free lists
        return sys.getallocatedblocks() - before
    finally:
        gc.enable()


def main() -> None:
    """Print the blocks that each front leaves."""
    logging.disable()
    n = int(sys.argv[1])
    for front in FRONTS:
        for name, options in OPTIONS.items():
            for limits in (ALLOWED, DENIED):
                left = blocks_left(front(limits=limits, **options), n)
                print(f"{front.__name__} {name} {limits}: {left} blocks after {n} requests")


if __name__ == "__main__":
    main()

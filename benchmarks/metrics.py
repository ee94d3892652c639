"""Measure the cost of metrics per decision: `python benchmarks/metrics.py [--rounds N]`.

Prints ratios of times taken in one run, with alternating cases, to the same calls without a meter.
The rival calls a Counter and a Histogram of prometheus_client at each decision.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
from collections.abc import Callable
from time import perf_counter
from typing import Any

from fastapi import FastAPI
from prometheus_client import Counter, Histogram
from rate_limiter import RateLimiter
from rate_limiter.middleware import RateLimitMiddleware
from rate_limiter.observe.registry import watch
from ratios import ratios

LIMITS = "1000000000/second"
CALLS = 1000


def asking(allow: Callable[[str], bool]) -> Callable[[], None]:
    """Return a function that makes a thousand decisions."""
    keys = ["192.0.2.1"] * CALLS

    def run() -> None:
        for key in keys:
            allow(key)

    return run


def counted_by_prometheus_client(limiter: RateLimiter) -> Callable[[str], bool]:
    """Return an allow() that counts and times in Python."""
    allowed = Counter("allowed", "Allowed.", ["dimension"], registry=None).labels("api")
    blocked = Counter("blocked", "Blocked.", ["dimension"], registry=None).labels("api")
    seconds = Histogram("seconds", "Seconds.", ["dimension"], registry=None).labels("api")

    def allow(key: str) -> bool:
        began_s = perf_counter()
        passes = limiter.allow(key)
        seconds.observe(perf_counter() - began_s)
        (allowed if passes else blocked).inc()
        return passes

    return allow


def measured() -> RateLimiter:
    limiter = RateLimiter(LIMITS)
    watch(limiter, "benchmark")
    return limiter


def serving(app: Any) -> Callable[[], None]:
    """Return a function that sends a thousand requests through an application."""
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "headers": [(b"host", b"x")],
        "client": ("192.0.2.1", 1),
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None: ...

    async def ask() -> None:
        for _ in range(CALLS):
            await app(dict(scope), receive, send)

    return lambda: asyncio.run(ask())


async def bare(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def fastapi_app(**settings: Any) -> FastAPI:
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware, limits=LIMITS, setup_checks=False, **settings)

    @app.get("/")
    async def index() -> str:
        return "ok"

    return app


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=301)
    rounds = parser.parse_args().rounds
    print(f"CPython {platform.python_version()}, {platform.machine()}; {rounds} rounds")
    print("\nallow(), as a ratio to one that is not measured")
    plain = RateLimiter(LIMITS)
    ratios(
        {
            "not measured": asking(plain.allow),
            "measured": asking(measured().allow),
            "by prometheus_client, in Python": asking(counted_by_prometheus_client(plain)),
        },
        "not measured",
        rounds,
    )
    settings: dict[str, Any] = {"limits": LIMITS, "setup_checks": False}
    print("\na request through the middleware alone, as a ratio to one that is not measured")
    ratios(
        {
            "not measured": serving(RateLimitMiddleware(bare, **settings)),
            "measured": serving(RateLimitMiddleware(bare, metrics="middleware", **settings)),
        },
        "not measured",
        rounds,
    )
    print("\na request to FastAPI, without a server, as a ratio to one that is not measured")
    ratios(
        {
            "not measured": serving(fastapi_app()),
            "measured": serving(fastapi_app(metrics="fastapi")),
        },
        "not measured",
        max(3, rounds // 10),
    )


if __name__ == "__main__":
    main()

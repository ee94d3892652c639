"""Fixtures for tests that run on every store, blocking and awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rate_limiter import AsyncRateLimiter, RateLimiter
from support.redis_servers import RedisServer


@pytest.fixture(params=["memory", "shared", "redis"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., RateLimiter]:
    """Return a function that makes a limiter on one of the stores."""

    def made(limits: Any, name: str = "", **settings: Any) -> RateLimiter:
        if request.param == "shared":
            store = f"shared://{tmp_path}/app"
            return RateLimiter(limits, store=store, name=name, max_keys=1000, **settings)
        if request.param == "redis":
            server: RedisServer = request.getfixturevalue("server")
            settings = {"on_store_error": "raise", **settings}
            return RateLimiter(limits, store=server.url, name=name, **settings)
        return RateLimiter(limits, **settings)

    return made


@pytest.fixture(params=["threads", "tasks"])
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return a function that calls a method of a limiter, blocking or awaited."""

    def run(limiter: RateLimiter, method: str, *args: Any, **kwargs: Any) -> Any:
        if request.param == "threads":
            return getattr(limiter, method)(*args, **kwargs)

        async def awaited() -> Any:
            return await getattr(AsyncRateLimiter.of(limiter), method)(*args, **kwargs)

        return asyncio.run(awaited())

    return run

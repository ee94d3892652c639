"""What the tests of a failing Redis share: a limiter on it, and how long a decision may take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rate_limiter import Decision, RateLimiter
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from support.redis_servers import wait_until

ALLOWED = b"*2\r\n:1\r\n:1000\r\n"
TIMEOUT_S = 0.1
# What a busy machine may add to the best of some calls, and to the worst of them.
BEST_S = 0.1
WORST_S = 3.0


def limiter_on(url: str, policy: str = "raise", limits: str = "100000/day") -> RedisRateLimiter:
    limiter = RateLimiter(limits, store=url, on_store_error=policy)
    assert isinstance(limiter, RedisRateLimiter)
    return limiter


def is_back(limiter: RateLimiter, ask: Callable[..., Any]) -> None:
    """Wait until Redis decides again, and see that it says so."""
    wait_until(lambda: isinstance(ask(limiter)[0], Decision), "the engine is back")
    assert isinstance(limiter, RedisRateLimiter)
    assert limiter.store.health()["status"] == "ok"

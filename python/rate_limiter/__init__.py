"""Exact and fast rate limiting: token buckets on a C engine.

from rate_limiter import RateLimiter

limiter = RateLimiter("100/minute")
if limiter.allow("user:42"):
    ...
"""

from typing import TYPE_CHECKING

from rate_limiter._core import Decision, StoreError
from rate_limiter.checks.lazy_names import lazy_names
from rate_limiter.exceptions import RateLimitExceeded
from rate_limiter.limit import Limit
from rate_limiter.limiting.async_limiter import AsyncRateLimiter
from rate_limiter.limiting.clocks import ManualClock
from rate_limiter.limiting.hit_all import Decisions, hit_all, hit_all_async
from rate_limiter.limiting.limiter import RateLimiter
from rate_limiter.limiting.reservation import AsyncReservation, Reservation

if TYPE_CHECKING:
    from rate_limiter.asgi import RateLimitMiddleware
    from rate_limiter.seeds.gateway.limiter import TokenBucketLimiter as TokenBucketLimiter
    from rate_limiter.seeds.gateway.policy import RateLimitPolicy as RateLimitPolicy
    from rate_limiter.seeds.pluggable.config import RateLimitConfig as RateLimitConfig
    from rate_limiter.seeds.pluggable.token_bucket import (
        TokenBucketRateLimiter as TokenBucketRateLimiter,
    )
    from rate_limiter.seeds.pluggable.token_bucket_async import (
        AsyncTokenBucketRateLimiter as AsyncTokenBucketRateLimiter,
    )
    from rate_limiter.seeds.quickstart import RateLimiterMiddleware as RateLimiterMiddleware
    from rate_limiter.seeds.quickstart import TokenBucket as TokenBucket

__version__ = "0.1.0"

__all__ = [
    "AsyncRateLimiter",
    "AsyncReservation",
    "Decision",
    "Decisions",
    "Limit",
    "ManualClock",
    "RateLimitExceeded",
    "RateLimitMiddleware",
    "RateLimiter",
    "Reservation",
    "StoreError",
    "__version__",
    "hit_all",
    "hit_all_async",
]

# Imported when they are first used. All but the first are the demos' names: programs written for
# the demos import them, and new ones should not, so neither dir() nor the reference lists them.
_LAZY = {
    "RateLimitMiddleware": "rate_limiter.asgi",
    "AsyncTokenBucketRateLimiter": "rate_limiter.seeds.pluggable.token_bucket_async",
    "RateLimitConfig": "rate_limiter.seeds.pluggable.config",
    "RateLimitPolicy": "rate_limiter.seeds.gateway.policy",
    "RateLimiterMiddleware": "rate_limiter.seeds.quickstart",
    "TokenBucket": "rate_limiter.seeds.quickstart",
    "TokenBucketLimiter": "rate_limiter.seeds.gateway.limiter",
    "TokenBucketRateLimiter": "rate_limiter.seeds.pluggable.token_bucket",
}

__getattr__ = lazy_names(__name__, _LAZY)


def __dir__() -> list[str]:
    """Return the names without those of the demos."""
    return sorted({*globals(), *__all__})

"""Exact and fast rate limiting: token buckets on a C engine.

from rate_limiter import RateLimiter

limiter = RateLimiter("100/minute")
if limiter.allow("user:42"):
    ...
"""

from rate_limiter._core import Decision, ManualClock, StoreError
from rate_limiter.exceptions import RateLimitExceeded
from rate_limiter.limit import Limit
from rate_limiter.limiting.async_limiter import AsyncRateLimiter
from rate_limiter.limiting.hit_all import Decisions, hit_all, hit_all_async
from rate_limiter.limiting.limiter import RateLimiter
from rate_limiter.limiting.reservation import AsyncReservation, Reservation
from rate_limiter.seeds.gateway.limiter import TokenBucketLimiter
from rate_limiter.seeds.gateway.policy import RateLimitPolicy
from rate_limiter.seeds.pluggable.config import RateLimitConfig
from rate_limiter.seeds.pluggable.token_bucket import TokenBucketRateLimiter
from rate_limiter.seeds.pluggable.token_bucket_async import AsyncTokenBucketRateLimiter
from rate_limiter.seeds.quickstart import RateLimiterMiddleware, TokenBucket

__version__ = "0.1.0"

__all__ = [
    "AsyncRateLimiter",
    "AsyncReservation",
    "AsyncTokenBucketRateLimiter",
    "Decision",
    "Decisions",
    "Limit",
    "ManualClock",
    "RateLimitConfig",
    "RateLimitExceeded",
    "RateLimitPolicy",
    "RateLimiter",
    "RateLimiterMiddleware",
    "Reservation",
    "StoreError",
    "TokenBucket",
    "TokenBucketLimiter",
    "TokenBucketRateLimiter",
    "__version__",
    "hit_all",
    "hit_all_async",
]

"""The interfaces of the pluggable-limiter demo."""

from rate_limiter.seeds.pluggable.interfaces import (
    BucketState,
    IAsyncRateLimitStore,
    IRateLimiter,
    IRateLimitStore,
)

__all__ = ["BucketState", "IAsyncRateLimitStore", "IRateLimitStore", "IRateLimiter"]

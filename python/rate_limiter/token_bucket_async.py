"""The awaited token bucket of the pluggable-limiter demo."""

from rate_limiter.seeds.pluggable.token_bucket_async import AsyncTokenBucketRateLimiter

__all__ = ["AsyncTokenBucketRateLimiter"]

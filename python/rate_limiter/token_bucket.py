"""The token buckets of the pluggable-limiter and API-gateway demos."""

from rate_limiter._core import Decision
from rate_limiter.seeds.gateway.limiter import TokenBucketLimiter
from rate_limiter.seeds.pluggable.token_bucket import TokenBucketRateLimiter

__all__ = ["Decision", "TokenBucketLimiter", "TokenBucketRateLimiter"]

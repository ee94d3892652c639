"""Limiters in Redis, with exact keys."""

from rate_limiter.limiting.redis_limiter import RedisRateLimiter

__all__ = ["RedisRateLimiter"]

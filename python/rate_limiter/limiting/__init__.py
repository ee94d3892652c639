"""Limiters in memory, in shared memory and in Redis, sync and async; and waiting for tokens."""

from rate_limiter.limiting import redis_limiter as _redis_limiter  # for RateLimiter(store=...)

__all__: list[str] = []

del _redis_limiter

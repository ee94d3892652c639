"""Limiters: in memory and shared memory, in Redis, awaited; and waiting for tokens."""

from rate_limiter.limiting import redis_limiter as _redis_limiter  # RateLimiter(store=...) makes it

__all__: list[str] = []

del _redis_limiter

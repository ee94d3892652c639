"""Buckets in Redis."""

from rate_limiter.stores.redis_store import RedisStore

__all__ = ["RedisStore"]

"""The awaited Redis store of the pluggable-limiter demo."""

from rate_limiter.seeds.pluggable.redis_store_async import AsyncRedisStore

__all__ = ["AsyncRedisStore"]

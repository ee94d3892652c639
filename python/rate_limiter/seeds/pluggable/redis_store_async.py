"""AsyncRedisStore: buckets in a Redis, for asyncio programs."""

from __future__ import annotations

import asyncio
from typing import Any

from rate_limiter.seeds.pluggable.interfaces import BucketState, IAsyncRateLimitStore
from rate_limiter.stores.redis_store import RedisStore


class AsyncRedisStore(IAsyncRateLimitStore):
    """Keep buckets in a Redis. Arguments and exceptions are those of RedisStore.

    Safe to share between tasks, event loops and threads.
    """

    def __init__(
        self,
        redis_client_or_url: object = "redis://localhost",
        prefix: str = "ratelimit",
        *,
        on_store_error: str = "memory",
    ) -> None:
        self.redis = RedisStore(redis_client_or_url, prefix, on_store_error=on_store_error)

    async def get_state(self, key: str) -> BucketState:
        """Return the tokens of `key` and the time they were counted. See RedisStore."""
        return await asyncio.to_thread(self.redis.get_state, key)

    async def set_state(self, key: str, tokens: float | None, last_refill: float) -> None:
        """Set the tokens of `key` as of the time `last_refill`. See RedisStore."""
        await asyncio.to_thread(self.redis.set_state, key, tokens, last_refill)

    async def ping(self) -> bool:
        """Send PING; return True if Redis answered within its deadline."""
        return await asyncio.to_thread(self.redis.ping)

    def health(self) -> dict[str, Any]:
        """Return the health of the Redis. See RedisStore.health."""
        return self.redis.health()

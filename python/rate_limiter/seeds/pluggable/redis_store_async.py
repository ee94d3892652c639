"""AsyncRedisStore: buckets in a Redis, for asyncio programs."""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import Any

from rate_limiter.checks.words import OnStoreError
from rate_limiter.seeds.pluggable.interfaces import BucketState, IAsyncRateLimitStore
from rate_limiter.stores.redis_store import RedisStore


class AsyncRedisStore(IAsyncRateLimitStore):
    """Keep buckets in a Redis. Exceptions are those of RedisStore.

    Safe to share between tasks, event loops and threads.

    Args:
        redis_url: an address or a redis-py client, as for RedisStore.
        prefix, on_store_error: as for RedisStore.

    Attributes:
        prefix: as given.
        store: the RedisStore.
    """

    def __init__(
        self,
        redis_url: object = "redis://localhost",
        prefix: str = "ratelimit",
        *,
        on_store_error: OnStoreError = "memory",
    ) -> None:
        self.store: RedisStore = RedisStore(redis_url, prefix, on_store_error=on_store_error)
        self.prefix: str = self.store.prefix

    @cached_property
    def redis(self) -> Any:
        """A redis-py client of the same Redis: the given one, or a new one for an address."""
        if self.store.redis is not None:
            return self.store.redis
        from redis.asyncio import Redis

        return Redis.from_url(self.store.address, decode_responses=True)

    async def get_state(self, key: str) -> BucketState:
        """Return the tokens of `key` and the time they were counted. See RedisStore."""
        return await asyncio.to_thread(self.store.get_state, key)

    async def set_state(self, key: str, tokens: float | None, last_refill: float) -> None:
        """Set the tokens of `key` as of the time `last_refill`. See RedisStore."""
        await asyncio.to_thread(self.store.set_state, key, tokens, last_refill)

    async def ping(self) -> bool:
        """Send PING; return True if Redis answered within its deadline."""
        return await asyncio.to_thread(self.store.ping)

    def health(self) -> dict[str, Any]:
        """Return the health of the Redis. See RedisStore.health."""
        return self.store.health()

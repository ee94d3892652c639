"""AsyncTokenBucketRateLimiter: a limiter on a store of your choice, for asyncio programs."""

from __future__ import annotations

from rate_limiter.seeds.pluggable.config import RateLimitConfig
from rate_limiter.seeds.pluggable.interfaces import IAsyncRateLimitStore
from rate_limiter.seeds.pluggable.memory_store_async import AsyncInMemoryStore
from rate_limiter.seeds.pluggable.redis_store_async import AsyncRedisStore
from rate_limiter.seeds.pluggable.stored_bucket import AsyncStoredBucket
from rate_limiter.seeds.pluggable.token_bucket import (
    MemoryBucket,
    RedisBucket,
    bucket_headers,
    check_config_and_store,
    decides_in_engine,
)


class AsyncTokenBucketRateLimiter:
    """Limit each key by a token bucket whose state is in a store; every method is awaited.

    With an AsyncInMemoryStore or an AsyncRedisStore the C engine decides. Your own store needs
    only `get_state` and `set_state`; this limiter uses it from one task at a time.

    Args:
        config: capacity and refill rate of the buckets.
        store: an AsyncInMemoryStore, an AsyncRedisStore, or any object with the methods of
            IAsyncRateLimitStore.

    Raises:
        TypeError: an argument is something else, or the store's methods are not asynchronous.
    """

    def __init__(self, config: RateLimitConfig, store: IAsyncRateLimitStore) -> None:
        check_config_and_store(config, store, asynchronous=True)
        self.config = config
        self.store = store
        self._memory: MemoryBucket | None = None
        if decides_in_engine(store, AsyncInMemoryStore):
            self._memory = MemoryBucket(config, store.memory)
        self._redis: RedisBucket | None = None
        if decides_in_engine(store, AsyncRedisStore):
            self._redis = RedisBucket(config, store.redis)
        self._stored = AsyncStoredBucket(config, store)

    async def allow_request(self, key: str, weight: float | None = None) -> bool:
        """Take tokens; return True if allowed. See TokenBucketRateLimiter.allow_request."""
        cost = self.config.tokens_per_request if weight is None else weight
        if self._memory is not None:
            return self._memory.take(key, cost)
        if self._redis is not None:
            return await self._redis.take_async(key, cost)
        return await self._stored.take(key, cost)

    async def get_remaining_tokens(self, key: str) -> float:
        """Return the tokens in the bucket of `key`: the capacity for a new key."""
        if self._memory is not None:
            return self._memory.remaining(key)
        if self._redis is not None:
            return await self._redis.remaining_async(key)
        return await self._stored.remaining(key)

    async def get_headers(self, key: str) -> dict[str, str]:
        """Return headers that describe the bucket of `key`. See bucket_headers."""
        return bucket_headers(self.config, await self.get_remaining_tokens(key))

"""AsyncTokenBucketRateLimiter: a limiter on a store of your choice, for asyncio programs."""

from __future__ import annotations

from typing import Any, TypeAlias

from rate_limiter.seeds.buckets import Remade
from rate_limiter.seeds.pluggable.config import RateLimitConfig
from rate_limiter.seeds.pluggable.engine_bucket import MemoryBucket, RedisBucket
from rate_limiter.seeds.pluggable.interfaces import IAsyncRateLimitStore
from rate_limiter.seeds.pluggable.memory_store_async import AsyncInMemoryStore
from rate_limiter.seeds.pluggable.redis_store_async import AsyncRedisStore
from rate_limiter.seeds.pluggable.stored_bucket import AsyncStoredBucket
from rate_limiter.seeds.pluggable.token_bucket import (
    bucket_headers,
    check_config_and_store,
    default_weight,
    has_methods_of,
    methods_of,
)

AsyncBucket: TypeAlias = MemoryBucket | RedisBucket | AsyncStoredBucket

_MEMORY = methods_of(AsyncInMemoryStore)
_REDIS = methods_of(AsyncRedisStore)


class AsyncTokenBucketRateLimiter:
    """Limit each key by a token bucket whose state is in a store; every method is awaited.

    With an AsyncInMemoryStore or an AsyncRedisStore the C engine decides. Your own store needs
    only `get_state` and `set_state`; this limiter uses it from one task at a time.

    Args:
        config: capacity and refill rate of the buckets: a RateLimitConfig, or any object with
            its attributes.
        store: an AsyncInMemoryStore, an AsyncRedisStore, or any object with the methods of
            IAsyncRateLimitStore.

    Attributes:
        config, store: as given. The next request follows a change.

    Raises:
        TypeError: an argument is something else, or the store's methods are not asynchronous.
    """

    def __init__(self, config: RateLimitConfig, store: IAsyncRateLimitStore) -> None:
        check_config_and_store(config, store, asynchronous=True)
        self.config = config
        self.store = store
        self._made = Remade(_bucket)
        self._bucket()  # so that a mistake is an error here

    def _bucket(self) -> AsyncBucket:
        return self._made.of(self.store, self.config.capacity, self.config.refill_rate)

    async def allow_request(self, key: str, weight: float | None = None) -> bool:
        """Take tokens; return True if allowed. See TokenBucketRateLimiter.allow_request."""
        cost = default_weight(self.config) if weight is None else weight
        return await self._bucket().take_async(key, cost)

    async def get_remaining_tokens(self, key: str) -> float:
        """Return the tokens in the bucket of `key`: the capacity for a new key."""
        return min(await self._bucket().remaining_async(key), self.config.capacity)

    async def get_headers(self, key: str) -> dict[str, str]:
        """Return headers that describe the bucket of `key`. See bucket_headers."""
        return bucket_headers(self.config, await self.get_remaining_tokens(key))


def _bucket(store: Any, capacity: float, refill_rate: float) -> AsyncBucket:
    if has_methods_of(store, _MEMORY):
        return MemoryBucket(store.memory, capacity, refill_rate)
    if has_methods_of(store, _REDIS):
        return RedisBucket(store.store, capacity, refill_rate)
    return AsyncStoredBucket(store, capacity, refill_rate)

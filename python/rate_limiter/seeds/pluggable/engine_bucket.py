"""The token bucket on a store of this package: one call of the engine for each decision."""

from __future__ import annotations

from rate_limiter._core import Decision
from rate_limiter.limit import Limit
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from rate_limiter.seeds.buckets import key_of
from rate_limiter.seeds.pluggable.memory_store import InMemoryStore
from rate_limiter.stores.redis_store import RedisStore


class MemoryBucket:
    """Buckets of an InMemoryStore."""

    def __init__(self, store: InMemoryStore, capacity: float, refill_rate: float) -> None:
        self._store = store
        self._engine = store.engine(Limit(capacity, refill_rate))

    def take(self, key: str, cost: float) -> bool:
        """Take `cost` tokens; return True if the request is allowed."""
        name = key if type(key) is str else key_of(key)
        self._store.settle(name)
        return self._engine.allow(name, cost)

    def remaining(self, key: str) -> float:
        """Return the tokens now."""
        name = key_of(key)
        self._store.settle(name)
        return self._engine.peek(name, 0).remaining

    async def take_async(self, key: str, cost: float) -> bool:
        """Do what take() does, which never waits."""
        return self.take(key, cost)

    async def remaining_async(self, key: str) -> float:
        """Do what remaining() does, which never waits."""
        return self.remaining(key)


class RedisBucket:
    """Buckets of a RedisStore."""

    def __init__(self, store: RedisStore, capacity: float, refill_rate: float) -> None:
        limit = Limit(capacity, refill_rate)
        store.register(limit)
        self._engine = RedisRateLimiter(limit, store=store, exact_prefix=f"{store.prefix}:")

    def take(self, key: str, cost: float) -> bool:
        """Take `cost` tokens; return True if the request is allowed."""
        return self._engine.allow(key_of(key), cost)

    def remaining(self, key: str) -> float:
        """Return the tokens now."""
        return self._engine.peek(key_of(key), 0).remaining

    async def take_async(self, key: str, cost: float) -> bool:
        """Do what take() does, without blocking the event loop."""
        return bool(await self._engine.call_async("allow", key_of(key), cost))

    async def remaining_async(self, key: str) -> float:
        """Do what remaining() does, without blocking the event loop."""
        decision: Decision = await self._engine.call_async("peek", key_of(key), 0)
        return decision.remaining

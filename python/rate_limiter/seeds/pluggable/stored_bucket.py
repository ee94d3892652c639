"""The token bucket on a user's store: read the state, compute, write it back.

The stores of this package do not use this module. Between reading and writing, a limiter serves
one caller at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rate_limiter.limit import Limit, check_cost
from rate_limiter.limiting.waiting import LONGEST_SLEEP_BEHIND_S, Lines, TaskWaiter
from rate_limiter.seeds.pluggable.config import RateLimitConfig
from rate_limiter.seeds.pluggable.interfaces import (
    IAsyncRateLimitStore,
    IRateLimitStore,
)
from rate_limiter.stores.bucket_state import BucketState, checked_state
from rate_limiter.stores.redis_store import RedisStore


def refilled(
    capacity: float, refill_rate: float, tokens: float, last_refill: float, now_s: float
) -> float:
    """Return the tokens now. A clock that was set back refills nothing."""
    return min(capacity, tokens + max(0.0, now_s - last_refill) * refill_rate)


class _Arithmetic:
    """The common part of the blocking and the asynchronous bucket."""

    def __init__(self, config: RateLimitConfig) -> None:
        self._capacity = float(config.capacity)
        self._refill_rate = float(config.refill_rate)

    def _now(self, state: BucketState) -> tuple[float, float]:
        """Return the tokens now, and the time to write with them.

        The time never goes back: the bucket would refill twice for the repeated period.
        """
        now_s = time.time()
        known = checked_state(state)
        if known is None:
            return self._capacity, now_s
        tokens, last_refill = known
        tokens = refilled(self._capacity, self._refill_rate, tokens, last_refill, now_s)
        return tokens, max(now_s, last_refill)


class StoredBucket(_Arithmetic):
    """Buckets in a store with `get_state` and `set_state`."""

    def __init__(self, config: RateLimitConfig, store: IRateLimitStore | RedisStore) -> None:
        super().__init__(config)
        self._store = store
        self._lock = threading.Lock()  # held from reading a state until it is written

    def take(self, key: str, cost: float) -> bool:
        """Take `cost` tokens; return True if allowed. A denied request writes nothing."""
        check_cost(cost, ())
        with self._lock:
            tokens, now_s = self._now(self._store.get_state(key))
            if tokens < cost:
                return False
            self._store.set_state(key, tokens - cost, now_s)
            return True

    def remaining(self, key: str) -> float:
        """Return the tokens now."""
        with self._lock:
            return max(0.0, self._now(self._store.get_state(key))[0])


class AsyncStoredBucket(_Arithmetic):
    """Buckets in a store whose `get_state` and `set_state` are asynchronous."""

    limits: tuple[Limit, ...] = ()  # a waiter here has no limits

    def __init__(self, config: RateLimitConfig, store: IAsyncRateLimitStore) -> None:
        super().__init__(config)
        self._store = store
        self._lines = Lines()

    async def take(self, key: str, cost: float) -> bool:
        """Take `cost` tokens; return True if allowed. A denied request writes nothing."""
        check_cost(cost, ())
        async with self._exclusive():
            tokens, now_s = self._now(await self._store.get_state(key))
            if tokens < cost:
                return False
            await self._store.set_state(key, tokens - cost, now_s)
            return True

    async def remaining(self, key: str) -> float:
        """Return the tokens now."""
        async with self._exclusive():
            return max(0.0, self._now(await self._store.get_state(key))[0])

    @asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[None]:
        """Lock the part between reading and writing. (An asyncio.Lock serves one loop only.)"""
        waiter = TaskWaiter(self)
        try:
            waiter.join()
            while not waiter.is_first():
                await waiter.sleep(LONGEST_SLEEP_BEHIND_S)
            yield
        finally:
            waiter.leave()

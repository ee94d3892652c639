"""The token bucket on a user's store: read the state, compute, write it back.

The stores of this package do not use this module. Between reading and writing, a limiter serves
one caller at a time.
"""

from __future__ import annotations

import threading
import time

from rate_limiter.limit import check_cost
from rate_limiter.seeds.exclusive import Exclusive
from rate_limiter.seeds.pluggable.interfaces import IAsyncRateLimitStore, IRateLimitStore
from rate_limiter.stores.bucket_state import BucketState, checked_state
from rate_limiter.stores.redis_store import RedisStore


def refilled(
    capacity: float, refill_rate: float, tokens: float, last_refill: float, now_s: float
) -> float:
    """Return the tokens now. A clock that was set back refills nothing."""
    return min(capacity, tokens + max(0.0, now_s - last_refill) * refill_rate)


class _Arithmetic:
    """The common part of the blocking and the asynchronous bucket."""

    def __init__(self, capacity: float, refill_rate: float) -> None:
        self._capacity = float(capacity)
        self._refill_rate = float(refill_rate)

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

    def __init__(
        self, store: IRateLimitStore | RedisStore, capacity: float, refill_rate: float
    ) -> None:
        super().__init__(capacity, refill_rate)
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

    def __init__(self, store: IAsyncRateLimitStore, capacity: float, refill_rate: float) -> None:
        super().__init__(capacity, refill_rate)
        self._store = store
        self._exclusive = Exclusive()

    async def take_async(self, key: str, cost: float) -> bool:
        """Take `cost` tokens; return True if allowed. A denied request writes nothing."""
        check_cost(cost, ())
        async with self._exclusive.held():
            tokens, now_s = self._now(await self._store.get_state(key))
            if tokens < cost:
                return False
            await self._store.set_state(key, tokens - cost, now_s)
            return True

    async def remaining_async(self, key: str) -> float:
        """Return the tokens now."""
        async with self._exclusive.held():
            return max(0.0, self._now(await self._store.get_state(key))[0])

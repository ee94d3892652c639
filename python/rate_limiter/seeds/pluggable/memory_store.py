"""InMemoryStore: buckets in the memory of this process, on the C engine."""

from __future__ import annotations

import threading
import time

from rate_limiter.limit import Limit
from rate_limiter.limiting.limiter import RateLimiter
from rate_limiter.seeds.buckets import key_of
from rate_limiter.seeds.pluggable.interfaces import BucketState, IRateLimitStore
from rate_limiter.seeds.pluggable.stored_bucket import refilled
from rate_limiter.stores.bucket_state import checked_state


class InMemoryStore(IRateLimitStore):
    """Keep buckets in the memory of this process.

    Limiters with the same capacity and refill rate on one store share their buckets; those with
    others have their own buckets. A key that is not a str or bytes counts by its text. Safe to
    share between threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines: dict[Limit, RateLimiter] = {}  # guarded by the lock
        # States set by hand, until a limiter uses their key. Guarded by the lock.
        self._given: dict[str | bytes, tuple[float, float]] = {}

    def get_state(self, key: str) -> BucketState:
        """Return the tokens of `key` and the time they were counted.

        The tokens are None for a key that is not stored, which is the same as a full bucket.
        """
        name = key_of(key)
        now_s = time.time()
        with self._lock:
            if name in self._given:
                tokens, last_refill = self._given[name]
                return {"tokens": tokens, "last_refill": last_refill}
            for limit, engine in self._engines.items():
                remaining = engine.peek(name, 0).remaining
                if remaining < limit.capacity:
                    return {"tokens": remaining, "last_refill": now_s}
        return {"tokens": None, "last_refill": now_s}

    def set_state(self, key: str, tokens: float | None, last_refill: float) -> None:
        """Set the tokens of `key` as of the time `last_refill` (seconds since the epoch).

        Tokens of None remove the key: its buckets are full.

        Raises:
            TypeError, ValueError: something is not a number, or not finite.
        """
        name = key_of(key)
        given = checked_state({"tokens": tokens, "last_refill": last_refill})
        with self._lock:
            if given is not None:
                self._given[name] = given
                return
            self._given.pop(name, None)
            for engine in self._engines.values():
                engine.reset(name)

    def engine(self, limit: Limit) -> RateLimiter:
        """Return the limiter with the buckets of a limit."""
        with self._lock:
            if limit not in self._engines:
                self._engines[limit] = RateLimiter(limit)
            return self._engines[limit]

    def settle(self, key: str | bytes) -> None:
        """Move a state that was set by hand to the engine. Called before `key` is used."""
        if self._given and key in self._given:
            self._settle(key)

    def _settle(self, key: str | bytes) -> None:
        with self._lock:
            given = self._given.get(key)
            if given is None:
                return
            for limit, engine in self._engines.items():
                tokens = refilled(limit.capacity, limit.refill_rate, *given, time.time())
                missing = limit.capacity - max(tokens, 0.0)
                engine.reset(key)
                # A request that has passed settle() may run between the two calls and take tokens
                # from the bucket, which is full for a moment: then start again.
                while not engine.allow(key, missing):
                    engine.reset(key)
            # Last, so that until now every other request for the key waits for the lock.
            del self._given[key]

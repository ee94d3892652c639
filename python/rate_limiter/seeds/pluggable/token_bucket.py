"""TokenBucketRateLimiter: a limiter on a store of your choice."""

from __future__ import annotations

import inspect
import math
from typing import TypeGuard, TypeVar

from rate_limiter._core import Decision
from rate_limiter.checks.redaction import shown
from rate_limiter.limit import Limit
from rate_limiter.limiting.limiter import RateLimiter
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from rate_limiter.seeds.gateway.limiter import TokenBucketLimiter
from rate_limiter.seeds.pluggable.config import RateLimitConfig
from rate_limiter.seeds.pluggable.interfaces import IRateLimiter, IRateLimitStore
from rate_limiter.seeds.pluggable.memory_store import InMemoryStore
from rate_limiter.seeds.pluggable.stored_bucket import StoredBucket
from rate_limiter.stores.redis_store import RedisStore

__all__ = ["TokenBucketLimiter", "TokenBucketRateLimiter"]

_METHODS = ("get_state", "set_state")
_Store = TypeVar("_Store")


class MemoryBucket:
    """Buckets of an InMemoryStore: one call of the engine for each decision."""

    def __init__(self, config: RateLimitConfig, store: InMemoryStore) -> None:
        self._store = store
        self._engine: RateLimiter = store.engine(config)

    def take(self, key: str, cost: float) -> bool:
        """Take `cost` tokens; return True if the request is allowed."""
        self._store.settle(key)
        return self._engine.allow(key, cost)

    def remaining(self, key: str) -> float:
        """Return the tokens now."""
        self._store.settle(key)
        return self._engine.peek(key, 0).remaining


class RedisBucket:
    """Buckets of a RedisStore: one call of the engine for each decision."""

    def __init__(self, config: RateLimitConfig, store: RedisStore) -> None:
        limit = Limit(config.capacity, config.refill_rate)
        store.register(limit)
        self.engine = RedisRateLimiter(limit, store=store, exact_prefix=f"{store.prefix}:")

    def take(self, key: str, cost: float) -> bool:
        """Take `cost` tokens; return True if the request is allowed."""
        return self.engine.allow(key, cost)

    def remaining(self, key: str) -> float:
        """Return the tokens now."""
        return self.engine.peek(key, 0).remaining

    async def take_async(self, key: str, cost: float) -> bool:
        """Take `cost` tokens; return True if the request is allowed."""
        return bool(await self.engine.call_async("allow", key, cost))

    async def remaining_async(self, key: str) -> float:
        """Return the tokens now."""
        decision: Decision = await self.engine.call_async("peek", key, 0)
        return decision.remaining


class TokenBucketRateLimiter(IRateLimiter):
    """Limit each key by a token bucket whose state is in a store.

    With an InMemoryStore or a RedisStore the C engine decides. Your own store needs only
    `get_state` and `set_state`; this limiter uses it from one thread at a time.

    Args:
        config: capacity and refill rate of the buckets.
        store: an InMemoryStore, a RedisStore, or any object with the methods of IRateLimitStore.

    Raises:
        TypeError: an argument is something else, or the store's methods are asynchronous.
    """

    def __init__(self, config: RateLimitConfig, store: IRateLimitStore | RedisStore) -> None:
        check_config_and_store(config, store, asynchronous=False)
        self.config = config
        self.store = store
        self._bucket: MemoryBucket | RedisBucket | StoredBucket
        if decides_in_engine(store, InMemoryStore):
            self._bucket = MemoryBucket(config, store)
        elif decides_in_engine(store, RedisStore):
            self._bucket = RedisBucket(config, store)
        else:
            self._bucket = StoredBucket(config, store)

    def allow_request(self, key: str, weight: float | None = None) -> bool:
        """Take tokens from the bucket of `key`; return True if the request is allowed.

        Args:
            key: the client.
            weight: tokens the request takes; the configuration's `tokens_per_request` if None.
                A weight above the capacity is always denied.

        Raises:
            TypeError, ValueError: a bad key or weight.
        """
        return self._bucket.take(key, self.config.tokens_per_request if weight is None else weight)

    def get_remaining_tokens(self, key: str) -> float:
        """Return the tokens in the bucket of `key`: the capacity for a new key."""
        return self._bucket.remaining(key)

    def get_headers(self, key: str) -> dict[str, str]:
        """Return headers that describe the bucket of `key`. See bucket_headers."""
        return bucket_headers(self.config, self._bucket.remaining(key))


def bucket_headers(config: RateLimitConfig, remaining: float) -> dict[str, str]:
    """Return the headers for a bucket with `remaining` tokens.

    ``X-RateLimit-Limit`` is the capacity, ``X-RateLimit-Remaining`` the tokens with two decimals
    at most, rounded down, and ``X-RateLimit-Reset`` the seconds until the bucket is full with two
    decimals: ``inf`` for a bucket that is not full and never refilled.
    """
    missing = config.capacity - remaining
    if missing <= 0:
        reset_s = 0.0
    elif config.refill_rate == 0:
        reset_s = math.inf
    else:
        reset_s = missing / config.refill_rate
    # 5 tokens less 0.4 are 4.5999... in binary, but the header must be "4.6".
    hundredths = math.floor(round(remaining * 100, 3))
    return {
        "X-RateLimit-Limit": _decimals(config.capacity),
        "X-RateLimit-Remaining": _decimals(hundredths / 100),
        "X-RateLimit-Reset": f"{reset_s:.2f}",
    }


def decides_in_engine(store: object, kind: type[_Store]) -> TypeGuard[_Store]:
    """Return True if `store` is of this kind and does not override its methods.

    A subclass that overrides them is a user's store: its methods are called.
    """
    return isinstance(store, kind) and all(
        getattr(type(store), name) is getattr(kind, name) for name in _METHODS
    )


def check_config_and_store(config: object, store: object, *, asynchronous: bool) -> None:
    """Check the arguments of a limiter.

    Raises:
        TypeError: an argument is something else, or the store's methods are (not) asynchronous.
    """
    if not isinstance(config, RateLimitConfig):
        raise TypeError(f"config must be a RateLimitConfig, got {shown(config)}")
    for name in _METHODS:
        method = getattr(store, name, None)
        if not callable(method):
            raise TypeError(f"store must have a method {name}, got {shown(store)}")
        if inspect.iscoroutinefunction(method) != asynchronous:
            limiter, other = "TokenBucketRateLimiter", "AsyncTokenBucketRateLimiter"
            if asynchronous:
                limiter, other = other, limiter
            raise TypeError(f"{limiter} cannot use {shown(store)}; it is for {other}")


def _decimals(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")

"""TokenBucketRateLimiter: a limiter on a store of your choice."""

from __future__ import annotations

import inspect
import math
from typing import Any, TypeAlias

from rate_limiter.checks.redaction import shown
from rate_limiter.seeds.buckets import Remade
from rate_limiter.seeds.gateway.limiter import TokenBucketLimiter
from rate_limiter.seeds.pluggable.config import RateLimitConfig
from rate_limiter.seeds.pluggable.engine_bucket import MemoryBucket, RedisBucket
from rate_limiter.seeds.pluggable.interfaces import (
    IAsyncRateLimitStore,
    IRateLimiter,
    IRateLimitStore,
)
from rate_limiter.seeds.pluggable.memory_store import InMemoryStore
from rate_limiter.seeds.pluggable.stored_bucket import StoredBucket
from rate_limiter.stores.redis_store import RedisStore

__all__ = ["TokenBucketLimiter", "TokenBucketRateLimiter"]

Bucket: TypeAlias = MemoryBucket | RedisBucket | StoredBucket

_METHODS = ("get_state", "set_state")


class TokenBucketRateLimiter(IRateLimiter):
    """Limit each key by a token bucket whose state is in a store.

    With an InMemoryStore or a RedisStore the C engine decides. Your own store needs only
    `get_state` and `set_state`; this limiter uses it from one thread at a time.

    Args:
        config: capacity and refill rate of the buckets: a RateLimitConfig, or any object with
            its attributes.
        store: an InMemoryStore, a RedisStore, or any object with the methods of IRateLimitStore.

    Attributes:
        config, store: as given. The next request follows a change.

    Raises:
        TypeError: an argument is something else, or the store's methods are asynchronous.
    """

    def __init__(self, config: RateLimitConfig, store: IRateLimitStore | RedisStore) -> None:
        check_config_and_store(config, store, asynchronous=False)
        self.config = config
        self.store = store
        self._made = Remade(_bucket)
        self._bucket()  # so that a mistake is an error here

    def _bucket(self) -> Bucket:
        return self._made.of(self.store, self.config.capacity, self.config.refill_rate)

    def allow_request(self, key: str, weight: float | None = None) -> bool:
        """Take tokens from the bucket of `key`; return True if the request is allowed.

        Args:
            key: the client. A value that is not a str or bytes counts by its text, except in your
                own store, which gets it unchanged.
            weight: tokens the request takes; the configuration's `tokens_per_request` if None.
                A weight above the capacity is always denied.

        Raises:
            TypeError, ValueError: a bad weight.
        """
        return self._bucket().take(key, default_weight(self.config) if weight is None else weight)

    def get_remaining_tokens(self, key: str) -> float:
        """Return the tokens in the bucket of `key`: the capacity for a new key."""
        return min(self._bucket().remaining(key), self.config.capacity)

    def get_headers(self, key: str) -> dict[str, str]:
        """Return headers that describe the bucket of `key`. See bucket_headers."""
        return bucket_headers(self.config, self.get_remaining_tokens(key))


def _bucket(store: Any, capacity: float, refill_rate: float) -> Bucket:
    if has_methods_of(store, _MEMORY):
        return MemoryBucket(store, capacity, refill_rate)
    if has_methods_of(store, _REDIS):
        return RedisBucket(store, capacity, refill_rate)
    return StoredBucket(store, capacity, refill_rate)


def default_weight(config: RateLimitConfig) -> float:
    """Return the weight of a request that has none."""
    return getattr(config, "tokens_per_request", 1.0)


def bucket_headers(config: RateLimitConfig, remaining: float) -> dict[str, str]:
    """Return the headers for a bucket with `remaining` tokens.

    ``X-RateLimit-Limit`` is the capacity, ``X-RateLimit-Remaining`` the tokens with two decimals
    at most, rounded down, and ``X-RateLimit-Reset`` the seconds until the bucket is full with two
    decimals: ``0.00`` for a bucket that is full or never refilled.
    """
    missing = max(0.0, config.capacity - remaining)
    reset_s = missing / config.refill_rate if config.refill_rate else 0.0
    # 5 tokens less 0.4 are 4.5999... in binary, but the header must be "4.6".
    hundredths = math.floor(round(remaining * 100, 3))
    return {
        "X-RateLimit-Limit": _decimals(config.capacity),
        "X-RateLimit-Remaining": _decimals(hundredths / 100),
        "X-RateLimit-Reset": f"{reset_s if math.isfinite(reset_s) else 0.0:.2f}",
    }


def methods_of(kind: type) -> tuple[object, ...]:
    """Return the two methods of a store."""
    return tuple(getattr(kind, name) for name in _METHODS)


# Taken now: tests may replace them in the class.
_MEMORY = methods_of(InMemoryStore)
_REDIS = methods_of(RedisStore)


def has_methods_of(store: object, methods: tuple[object, ...]) -> bool:
    """Return True if the store's methods are these.

    Those of a subclass or a test that overrides them are a user's: they are called.
    """
    found = tuple(getattr(getattr(store, name), "__func__", None) for name in _METHODS)
    return found == methods


def check_config_and_store(config: object, store: object, *, asynchronous: bool) -> None:
    """Check the arguments of a limiter.

    Raises:
        TypeError: an argument is something else, or the store's methods are (not) asynchronous.
    """
    if not (hasattr(config, "capacity") and hasattr(config, "refill_rate")):
        raise TypeError(f"config must be a RateLimitConfig, got {shown(config)}")
    for name in _METHODS:
        method = getattr(store, name, None)
        if not callable(method):
            raise TypeError(f"store must have a method {name}, got {shown(store)}")
        if _is_asynchronous(store, method) != asynchronous:
            limiter, other = "TokenBucketRateLimiter", "AsyncTokenBucketRateLimiter"
            if asynchronous:
                limiter, other = other, limiter
            raise TypeError(f"{limiter} cannot use {shown(store)}; it is for {other}")


def _is_asynchronous(store: object, method: Any) -> bool:
    # A decorator may have wrapped the method in a function that returns its coroutine.
    return isinstance(store, IAsyncRateLimitStore) or inspect.iscoroutinefunction(
        inspect.unwrap(method)
    )


def _decimals(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")

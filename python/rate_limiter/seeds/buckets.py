"""What the classes of several demos share: keys, empty buckets, limiters on exact keys of Redis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from rate_limiter.limit import Limit
from rate_limiter.limiting.redis_keys import time_to_fill_s
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from rate_limiter.stores.redis_store import RedisStore

_LONGEST_S = 2.0**33
"""Seconds: a bucket that takes longer to fill is refused."""

_Value = TypeVar("_Value")


def key_of(identifier: object) -> str | bytes:
    """Return an identifier as a key: its text, if it is neither str nor bytes."""
    return identifier if isinstance(identifier, (str, bytes)) else str(identifier)


def exact_limiter(
    store: RedisStore, prefix: str, capacity: float, refill_rate: float, ttl_s: float = 0
) -> RedisRateLimiter:
    """Return a limiter whose keys in Redis are `prefix` and the client's key.

    A key stays in Redis for `ttl_s`, and until its bucket is full.

    Raises:
        TypeError, ValueError: an argument is not a number, or out of range.
    """
    limit = Limit(capacity, refill_rate)
    ttl_s = max(ttl_s, min(time_to_fill_s(limit), _LONGEST_S))
    return RedisRateLimiter(limit, store=store, exact_prefix=prefix, min_ttl_s=ttl_s)


class Remade(Generic[_Value]):
    """A value made from arguments that a program may change at any time.

    Args:
        make: returns the value for the arguments.
    """

    def __init__(self, make: Callable[..., _Value]) -> None:
        self._make = make
        self._made: tuple[tuple[object, ...], _Value] | None = None

    def of(self, *arguments: object) -> _Value:
        """Return the value for these arguments, a new one if they are not those of last time."""
        made = self._made
        if made is None or made[0] != arguments:
            self._made = made = (arguments, self._make(*arguments))
        return made[1]

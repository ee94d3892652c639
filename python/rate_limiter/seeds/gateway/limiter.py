"""TokenBucketLimiter: the buckets of a policy in Redis, by their full keys."""

from __future__ import annotations

from functools import partial
from typing import Protocol, runtime_checkable

from rate_limiter._core import Decision
from rate_limiter.checks.redaction import shown
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from rate_limiter.seeds.buckets import Remade, exact_limiter, key_of
from rate_limiter.stores.redis_store import RedisStore


@runtime_checkable
class BucketPolicy(Protocol):
    """What a limiter needs of a RateLimitPolicy."""

    rate_per_sec: float
    burst: int
    ttl_seconds: int
    cost: int
    prefix: str


class TokenBucketLimiter:
    """Limit by a policy. Keys are the keys in Redis, as `rate_limiter.keys` builds them.

    While Redis is unavailable, the same limit in process memory decides. A subclass may override
    `check`: RateLimitMiddleware then calls it in a thread.

    Args:
        r: a redis-py client, sync or asyncio, or an address: see RedisStore.
        policy: a RateLimitPolicy: capacity and refill rate of the buckets, and the cost of a
            request. If it is changed later, the next request follows the change.
        tracing: as for RedisStore.

    Attributes:
        r, policy: as given.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
    """

    def __init__(self, r: object, policy: BucketPolicy, *, tracing: bool = False) -> None:
        if not isinstance(policy, BucketPolicy):
            raise TypeError(f"policy must be a RateLimitPolicy, got {shown(policy)}")
        self.r = r
        self.policy = policy
        store = RedisStore(r, policy.prefix, tracing=tracing)
        self._limiter = Remade(partial(exact_limiter, store, ""))
        self._current_limiter()  # so that a mistake is an error here

    @property
    def limiter(self) -> RedisRateLimiter:
        """The limiter that decides by the present policy."""
        return self._current_limiter()

    def _current_limiter(self) -> RedisRateLimiter:
        policy = self.policy
        return self._limiter.of(policy.burst, policy.rate_per_sec, policy.ttl_seconds)

    def check(self, key: str) -> Decision:
        """Take the policy's cost from the bucket of `key`; return a Decision.

        The Decision has ``allowed``, ``remaining`` (tokens, with their fraction) and
        ``retry_after_ms``, after which the same request passes.
        """
        return self.limiter.hit(key_of(key), self.policy.cost)

    async def check_async(self, key: str) -> Decision:
        """Do what check() does, without blocking the event loop."""
        decision: Decision = await self.limiter.call_async("hit", key_of(key), self.policy.cost)
        return decision

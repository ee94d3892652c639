"""TokenBucketLimiter: the buckets of a policy in Redis, by their full keys."""

from __future__ import annotations

import asyncio

from rate_limiter._core import Decision
from rate_limiter.checks.redaction import shown
from rate_limiter.limit import Limit
from rate_limiter.limiting.redis_limiter import RedisRateLimiter, time_to_fill_s
from rate_limiter.seeds.gateway.policy import RateLimitPolicy
from rate_limiter.stores.redis_store import RedisStore


class TokenBucketLimiter:
    """Limit by a policy. Keys are the keys in Redis, as `rate_limiter.keys` builds them.

    While Redis is unavailable, the same limit in process memory decides.

    Args:
        r: a redis-py client, sync or asyncio, or an address: see RedisStore.
        policy: capacity and refill rate of the buckets, and the cost of a request.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
    """

    def __init__(self, r: object, policy: RateLimitPolicy) -> None:
        if not isinstance(policy, RateLimitPolicy):
            raise TypeError(f"policy must be a RateLimitPolicy, got {shown(policy)}")
        self.policy = policy
        limit = Limit(policy.burst, policy.rate_per_sec)
        self.limiter = RedisRateLimiter(
            limit,
            store=RedisStore(r, policy.prefix),
            exact_prefix="",
            min_ttl_s=max(policy.ttl_seconds, time_to_fill_s(limit)),
        )

    def check(self, key: str) -> Decision:
        """Take the policy's cost from the bucket of `key`; return a Decision.

        The Decision has ``allowed``, ``remaining`` (tokens, with their fraction) and
        ``retry_after_ms``, after which the same request passes.
        """
        return self.limiter.hit(key, self.policy.cost)

    async def check_async(self, key: str) -> Decision:
        """Do what check() does, without blocking the event loop."""
        if type(self).check is not TokenBucketLimiter.check:  # a subclass decides
            return await asyncio.to_thread(self.check, key)
        decision: Decision = await self.limiter.call_async("hit", key, self.policy.cost)
        return decision

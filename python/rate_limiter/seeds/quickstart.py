"""TokenBucket and RateLimiterMiddleware of the token-bucket middleware demo."""

from __future__ import annotations

import math

from rate_limiter._core import Decision
from rate_limiter.limit import Limit
from rate_limiter.limiting.redis_limiter import RedisRateLimiter, time_to_fill_s
from rate_limiter.stores.redis_store import RedisStore
from rate_limiter.web.asgi_messages import ASGIApp, first_forwarded
from rate_limiter.web.asgi_middleware import RateLimitMiddleware

PREFIX = "rate_limit:"
"""Prefix of the keys in Redis."""


class TokenBucket:
    """Limit each identifier by a token bucket in Redis, under the key ``rate_limit:{identifier}``.

    While Redis is unavailable, the same limit in process memory decides.

    Args:
        redis_client: a redis-py client, sync or asyncio, or an address: see RedisStore.
        capacity: tokens a bucket holds.
        refill_rate: tokens per second.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
    """

    def __init__(self, redis_client: object, capacity: float, refill_rate: float) -> None:
        self.capacity = capacity
        self.refill_rate = refill_rate
        limit = Limit(capacity, refill_rate)
        self.limiter = RedisRateLimiter(
            limit,
            store=RedisStore(redis_client),
            exact_prefix=PREFIX,
            min_ttl_s=time_to_fill_s(limit),
        )

    def consume(self, identifier: str, tokens: float = 1) -> bool:
        """Take tokens from the bucket of `identifier`; return True if the request is allowed.

        Raises:
            TypeError, ValueError: a bad identifier or number.
        """
        return self.limiter.allow(identifier, tokens)

    def get_remaining(self, identifier: str) -> int:
        """Return the number of whole tokens in the bucket of `identifier`."""
        return math.floor(self.limiter.peek(identifier, 0).remaining)

    async def consume_async(self, identifier: str, tokens: float = 1) -> Decision:
        """Take tokens without blocking the event loop; return a Decision."""
        decision: Decision = await self.limiter.call_async("hit", identifier, tokens)
        return decision


class RateLimiterMiddleware(RateLimitMiddleware):
    """Limit every path but ``/health`` by a TokenBucket in Redis, per client.

    The client is the first element of ``X-Forwarded-For``, which any client can set: use the
    middleware behind a proxy that overwrites the header. Without the header, the client is the
    peer's address.

    Args:
        app: the ASGI application.
        redis_client: a redis-py client, sync or asyncio, or an address: see RedisStore.
        capacity: tokens a bucket holds.
        refill_rate: tokens per second.
    """

    def __init__(
        self, app: ASGIApp, redis_client: object, capacity: int = 10, refill_rate: float = 2.0
    ) -> None:
        bucket = TokenBucket(redis_client, capacity, refill_rate)
        super().__init__(
            app, limiter=bucket.limiter, key=first_forwarded, exempt_paths=("/health",)
        )

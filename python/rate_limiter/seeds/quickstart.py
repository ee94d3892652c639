"""TokenBucket and RateLimiterMiddleware of the token-bucket middleware demo."""

from __future__ import annotations

import math
from functools import partial

from rate_limiter._core import Decision
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from rate_limiter.seeds.buckets import Remade, exact_limiter, key_of
from rate_limiter.stores.redis_store import RedisStore
from rate_limiter.web.asgi_messages import ASGIApp, first_forwarded
from rate_limiter.web.asgi_middleware import RateLimitMiddleware

PREFIX = "rate_limit:"
"""Prefix of the keys in Redis."""


class TokenBucket:
    """Limit each identifier by a token bucket in Redis, under the key ``rate_limit:{identifier}``.

    An identifier that is not a str or bytes counts by its text. While Redis is unavailable, the
    same limit in process memory decides.

    Args:
        redis_client: a redis-py client, sync or asyncio, or an address: see RedisStore.
        capacity: tokens a bucket holds; 0 denies every request.
        refill_rate: tokens per second.

    Attributes:
        redis_client: as given.
        capacity, refill_rate: as given. The next request follows a change.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
    """

    def __init__(self, redis_client: object, capacity: float, refill_rate: float) -> None:
        self.redis_client = redis_client
        self.capacity = capacity
        self.refill_rate = refill_rate
        self._limiter = Remade(partial(exact_limiter, RedisStore(redis_client), PREFIX))
        self._limiter.of(capacity, refill_rate)  # so that a mistake is an error here

    @property
    def limiter(self) -> RedisRateLimiter:
        """The limiter that decides by the present capacity and refill rate."""
        return self._limiter.of(self.capacity, self.refill_rate)

    def consume(self, identifier: str, tokens: float = 1) -> bool:
        """Take tokens from the bucket of `identifier`; return True if the request is allowed.

        Raises:
            TypeError, ValueError: a bad number.
        """
        return self.limiter.allow(key_of(identifier), tokens)

    def get_remaining(self, identifier: str) -> int:
        """Return the number of whole tokens in the bucket of `identifier`."""
        return math.floor(self.limiter.peek(key_of(identifier), 0).remaining)

    async def consume_async(self, identifier: str, tokens: float = 1) -> Decision:
        """Take tokens without blocking the event loop; return a Decision."""
        decision: Decision = await self.limiter.call_async("hit", key_of(identifier), tokens)
        return decision


class RateLimiterMiddleware(RateLimitMiddleware):
    """Limit every path but ``/health`` by a TokenBucket in Redis, per client.

    The client is the first element of ``X-Forwarded-For``, which any client can set: use the
    middleware behind a proxy that overwrites the header. Without the header, the client is the
    peer's address.

    Args:
        app: the ASGI application.
        redis_client: a redis-py client, sync or asyncio, or an address: see RedisStore.
        capacity: tokens a bucket holds; 0 denies every request.
        refill_rate: tokens per second.
    """

    def __init__(
        self, app: ASGIApp, redis_client: object, capacity: int = 10, refill_rate: float = 2.0
    ) -> None:
        limiter = TokenBucket(redis_client, capacity, refill_rate).limiter
        super().__init__(
            app,
            limiter=limiter,
            key=first_forwarded,
            exempt_paths=("/health",),
        )

"""RateLimitConfig: one bucket for each key, as TokenBucketRateLimiter takes it."""

from __future__ import annotations

from dataclasses import dataclass

from rate_limiter.limit import Limit, check_cost


@dataclass
class RateLimitConfig:
    """Say how large the buckets are and how fast they refill.

    Args:
        capacity: tokens a bucket holds.
        refill_rate: tokens per second; 0 never refills.
        tokens_per_request: tokens a request takes when its weight is not given.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is out of range, or a request would take more than a bucket holds.
    """

    capacity: int
    refill_rate: float
    tokens_per_request: float = 1.0

    def __post_init__(self) -> None:
        limit = Limit(self.capacity, self.refill_rate)
        try:
            check_cost(self.tokens_per_request, (limit,))
        except (TypeError, ValueError) as error:
            raise type(error)(f"tokens_per_request: {error}") from None


@dataclass(frozen=True)
class RateLimitPolicy:
    """Say what a gateway allows each client, and how its state is kept.

    Args:
        rate_per_sec: tokens per second, above 0.
        burst: tokens a bucket holds, at least 1.
        ttl_seconds: how long an idle bucket is kept in Redis, at least 10 s; longer where filling
            it takes longer.
        cost: tokens a request takes, at least 1 and at most `burst`.
        prefix: what keys begin with.

    Raises:
        ValueError: an argument is out of range.
    """

    rate_per_sec: float
    burst: int
    ttl_seconds: int = 3600
    cost: int = 1
    prefix: str = "rl:tb"

    def __post_init__(self) -> None:
        for name, least in (("burst", 1), ("ttl_seconds", 10), ("cost", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number from {least} on, got {value!r}")
        try:
            Limit(self.burst, self.rate_per_sec)
        except TypeError as error:
            raise ValueError(str(error)) from None
        if self.rate_per_sec <= 0:
            raise ValueError(f"rate_per_sec must be above 0, got {self.rate_per_sec!r}")
        if self.cost > self.burst:
            raise ValueError(
                f"cost must be at most burst, or no request would pass: got cost={self.cost} and "
                f"burst={self.burst}"
            )
        if not isinstance(self.prefix, str) or not self.prefix:
            raise ValueError(f"prefix must be a text that is not empty, got {self.prefix!r}")

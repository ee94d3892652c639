"""RateLimitConfig: the buckets of a TokenBucketRateLimiter."""

from __future__ import annotations

from dataclasses import dataclass

from rate_limiter.limit import Limit, check_cost


@dataclass
class RateLimitConfig:
    """The capacity and the refill rate of buckets, one bucket per key.

    Args:
        capacity: tokens a bucket holds; 0 denies every request.
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
            check_cost(self.tokens_per_request, (limit,) if self.capacity else ())
        except (TypeError, ValueError) as error:
            raise type(error)(f"tokens_per_request: {error}") from None

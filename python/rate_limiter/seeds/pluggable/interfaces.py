"""What a limiter offers, and what a store must offer to be used with one."""

from __future__ import annotations

from abc import ABC, abstractmethod

from rate_limiter.stores.bucket_state import BucketState
from rate_limiter.stores.redis_store import RedisStore

__all__ = ["BucketState", "IAsyncRateLimitStore", "IRateLimitStore", "IRateLimiter"]


class IRateLimiter(ABC):
    """A limiter with one bucket for each key."""

    @abstractmethod
    def allow_request(self, key: str, weight: float = 1.0) -> bool:
        """Take `weight` tokens from the bucket of `key`; tell whether that was allowed."""

    @abstractmethod
    def get_remaining_tokens(self, key: str) -> float:
        """Return the tokens in the bucket of `key`, taking none."""

    @abstractmethod
    def get_headers(self, key: str) -> dict[str, str]:
        """Return headers that tell of the bucket of `key`, taking nothing from it."""


class IRateLimitStore(ABC):
    """A place for the state of buckets. These two methods are all that a limiter needs."""

    @abstractmethod
    def get_state(self, key: str) -> BucketState:
        """Return the state of `key`."""

    @abstractmethod
    def set_state(self, key: str, tokens: float, last_refill: float) -> None:
        """Keep the state of `key`."""


IRateLimitStore.register(RedisStore)


class IAsyncRateLimitStore(ABC):
    """A place for the state of buckets that is awaited."""

    @abstractmethod
    async def get_state(self, key: str) -> BucketState:
        """Return the state of `key`."""

    @abstractmethod
    async def set_state(self, key: str, tokens: float, last_refill: float) -> None:
        """Keep the state of `key`."""

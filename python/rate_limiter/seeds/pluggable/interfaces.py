"""Interfaces of limiters and of their stores."""

from __future__ import annotations

from abc import ABC, abstractmethod

from rate_limiter.stores.bucket_state import BucketState
from rate_limiter.stores.redis_store import RedisStore

__all__ = ["BucketState", "IAsyncRateLimitStore", "IRateLimitStore", "IRateLimiter"]


class IRateLimiter(ABC):
    """A limiter with one bucket for each key."""

    @abstractmethod
    def allow_request(self, key: str, weight: float = 1.0) -> bool:
        """Take `weight` tokens from the bucket of `key`; return True if the request is allowed."""

    @abstractmethod
    def get_remaining_tokens(self, key: str) -> float:
        """Return the tokens in the bucket of `key`."""

    @abstractmethod
    def get_headers(self, key: str) -> dict[str, str]:
        """Return headers that describe the bucket of `key`."""


class IRateLimitStore(ABC):
    """A store for the state of buckets. A limiter needs only these two methods."""

    @abstractmethod
    def get_state(self, key: str) -> BucketState:
        """Return the state of `key`."""

    @abstractmethod
    def set_state(self, key: str, tokens: float, last_refill: float) -> None:
        """Store the state of `key`."""


IRateLimitStore.register(RedisStore)


class IAsyncRateLimitStore(ABC):
    """An asynchronous store for the state of buckets."""

    @abstractmethod
    async def get_state(self, key: str) -> BucketState:
        """Return the state of `key`."""

    @abstractmethod
    async def set_state(self, key: str, tokens: float, last_refill: float) -> None:
        """Store the state of `key`."""

"""The awaited in-memory store of the pluggable-limiter demo."""

from rate_limiter.seeds.pluggable.memory_store_async import AsyncInMemoryStore

__all__ = ["AsyncInMemoryStore"]

"""The in-memory store of the pluggable-limiter demo."""

from rate_limiter.seeds.pluggable.memory_store import InMemoryStore

__all__ = ["InMemoryStore"]

"""AsyncInMemoryStore: buckets in the memory of this process, for asyncio programs."""

from __future__ import annotations

from rate_limiter.seeds.pluggable.interfaces import BucketState, IAsyncRateLimitStore
from rate_limiter.seeds.pluggable.memory_store import InMemoryStore


class AsyncInMemoryStore(IAsyncRateLimitStore):
    """Keep buckets in the memory of this process. See InMemoryStore.

    Safe to share between tasks, event loops and threads: no method waits.
    """

    def __init__(self) -> None:
        self.memory: InMemoryStore = InMemoryStore()

    async def get_state(self, key: str) -> BucketState:
        """Return the tokens of `key` and the time they were counted."""
        return self.memory.get_state(key)

    async def set_state(self, key: str, tokens: float | None, last_refill: float) -> None:
        """Set the tokens of `key` as of the time `last_refill` (seconds since the epoch)."""
        self.memory.set_state(key, tokens, last_refill)

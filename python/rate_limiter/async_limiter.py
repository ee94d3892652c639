"""AsyncRateLimiter: limits for asyncio programs."""

from __future__ import annotations

from collections.abc import Iterable

from rate_limiter._core import Decision, ManualClock
from rate_limiter.limit import Limit, Limits
from rate_limiter.limiter import MEMORY, RateLimiter
from rate_limiter.waiting import TaskWaiter, turns


class AsyncRateLimiter:
    """Decide, per client key, whether a request may pass; every method is awaited.

    Safe to share between tasks, event loops and threads. The arguments are those of RateLimiter.

    Attributes:
        limits: the limits, as a tuple.
    """

    __slots__ = ("__weakref__", "_limiter")

    def __init__(
        self,
        limits: Limits,
        *,
        store: str = MEMORY,
        max_keys: int = 1_000_000,
        clock: str | ManualClock = "monotonic",
    ) -> None:
        self._limiter = RateLimiter(limits, store=store, max_keys=max_keys, clock=clock)

    @property
    def limits(self) -> tuple[Limit, ...]:
        return self._limiter.limits

    async def allow(self, key: str | bytes, cost: float = 1) -> bool:
        """Take `cost` tokens; tell whether that was allowed. See RateLimiter.allow."""
        return self._limiter.allow(key, cost)

    async def hit(self, key: str | bytes, cost: float = 1) -> Decision:
        """Take `cost` tokens; return a Decision. See RateLimiter.hit."""
        return self._limiter.hit(key, cost)

    async def peek(self, key: str | bytes, cost: float = 1) -> Decision:
        """Return the Decision that hit() would make, consuming nothing. See RateLimiter.peek."""
        return self._limiter.peek(key, cost)

    async def refund(self, key: str | bytes, cost: float = 1) -> None:
        """Give tokens back, up to the capacity. See RateLimiter.refund."""
        self._limiter.refund(key, cost)

    async def reset(self, key: str | bytes) -> None:
        """Make the bucket of `key` full. See RateLimiter.reset."""
        self._limiter.reset(key)

    async def allow_many(self, keys: Iterable[str | bytes], cost: float = 1) -> list[bool]:
        """Decide for each of several keys. See RateLimiter.allow_many."""
        return self._limiter.allow_many(keys, cost)

    async def acquire(
        self, key: str | bytes, cost: float = 1, timeout: float | None = None
    ) -> Decision:
        """Wait until the request may pass, in order of arrival per key.

        A task that is cancelled while it waits takes nothing and delays nobody. Arguments and
        exceptions are those of RateLimiter.acquire; it needs a running asyncio loop.
        """
        waiter = TaskWaiter()
        steps = turns(self._limiter, self._limiter._lines, waiter, key, cost, timeout)
        try:
            while True:
                await waiter.sleep(next(steps))
        except StopIteration as done:
            decision: Decision = done.value
            return decision
        finally:
            steps.close()

    def stats(self) -> dict[str, int]:
        """Return counts of keys, memory and decisions. See RateLimiter.stats."""
        return self._limiter.stats()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'; '.join(map(str, self.limits))!r})"

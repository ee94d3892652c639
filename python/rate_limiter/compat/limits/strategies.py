"""Strategies of `limits`: how requests are counted against an item.

Each counts exactly under threads, tasks and processes. A denied request takes nothing, unless the
storage has `count_denied`.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar, cast

from rate_limiter._core import Decision
from rate_limiter.compat.limits.storage import Storage
from rate_limiter.compat.limits.util import RateLimitItem, WindowStats
from rate_limiter.limit import Limit
from rate_limiter.limiting.limiter import RateLimiter as EngineLimiter


class RateLimiter:
    """Count requests in a storage. Base class of the strategies.

    Identifiers are strings, bytes or numbers that together name a client. The same item with the
    same identifiers is one count, in all strategies objects of one kind and storage.

    Methods whose names end with ``_async`` do not block the event loop.

    Args:
        storage: where the counts are.

    Raises:
        TypeError: `storage` is none of this package.
    """

    _windows: ClassVar[Any]

    def __init__(self, storage: Storage) -> None:
        if not isinstance(storage, Storage):
            raise TypeError(
                "storage must be made by rate_limiter.compat.limits.storage, got an object of "
                f"{type(storage).__module__}.{type(storage).__qualname__}"
            )
        self.storage = storage
        self._limiters: dict[tuple[Any, ...], EngineLimiter] = {}

    def limiter_of(self, item: RateLimitItem) -> EngineLimiter:
        """Return the limiter of the engine that counts an item.

        Raises:
            ValueError: the amount or the window is too large for the engine.
        """
        values = (item.amount, item.multiples, type(item))
        limiter = self._limiters.get(values)
        if limiter is None:
            limit = self._windows(
                item.amount, item.get_expiry(), count_denied=self.storage.count_denied
            )
            limiter = self._limiters[values] = self.storage.limiter_of(limit)
        return limiter

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Take `cost`; return True if that did not exceed the limit."""
        return self.decide(item, *identifiers, cost=cost).allowed

    def decide(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> Decision:
        """Do what hit() does; return the Decision."""
        return self.limiter_of(item).hit(item.key_for(*identifiers), cost)

    async def decide_async(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> Decision:
        """Do what decide() does."""
        limiter, key = self.limiter_of(item), item.key_for(*identifiers)
        if limiter.is_remote:
            return cast(Decision, await cast(Any, limiter).call_async("hit", key, cost))
        return limiter.hit(key, cost)

    def give_back(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> None:
        """Return what a request has taken, such as when another limit denied it."""
        self.limiter_of(item).refund(item.key_for(*identifiers), cost)

    async def give_back_async(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> None:
        """Do what give_back() does."""
        limiter, key = self.limiter_of(item), item.key_for(*identifiers)
        if limiter.is_remote:
            await cast(Any, limiter).call_async("refund", key, cost)
        else:
            limiter.refund(key, cost)

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Return what hit() would, without taking anything."""
        return self.limiter_of(item).peek(item.key_for(*identifiers), cost).allowed

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        """Return when the window ends and what is left of it."""
        return self.stats_of(item, self.limiter_of(item).peek(item.key_for(*identifiers), 0))

    def stats_of(
        self, item: RateLimitItem, decision: Decision, decided_at: float | None = None
    ) -> WindowStats:
        """Return the state of the window according to a Decision, by default of just now."""
        # A sliding window is empty later than its length; a denied client may retry earlier, or
        # never if the cost is above the amount.
        seconds = min(decision.retry_after or decision.reset_after, item.get_expiry())
        at = time.time() if decided_at is None else decided_at
        return WindowStats(at + seconds, int(decision.remaining))

    def clear(self, item: RateLimitItem, *identifiers: str) -> None:
        """Forget what is counted for these identifiers."""
        self.limiter_of(item).reset(item.key_for(*identifiers))


def _fixed_window(amount: int, window_s: int, count_denied: bool) -> Limit:
    return Limit.fixed_window(amount, window_s, start="first", count_denied=count_denied)


class FixedWindowRateLimiter(RateLimiter):
    """Count in windows that begin with the first request of a client."""

    _windows = staticmethod(_fixed_window)


class MovingWindowRateLimiter(RateLimiter):
    """Count the requests in the window before each request: see Limit.sliding_window."""

    _windows = staticmethod(Limit.sliding_window)


class SlidingWindowCounterRateLimiter(RateLimiter):
    """Count as MovingWindowRateLimiter does."""

    _windows = staticmethod(Limit.sliding_window)


STRATEGIES: dict[str, type[RateLimiter]] = {
    "fixed-window": FixedWindowRateLimiter,
    "moving-window": MovingWindowRateLimiter,
    "sliding-window-counter": SlidingWindowCounterRateLimiter,
}

"""Strategies of `limits`: how requests are counted against an item.

Each counts exactly under threads, tasks and processes. A denied request takes nothing, unless the
storage has `count_denied`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, cast

from rate_limiter import _core
from rate_limiter._core import Decision, GivenLimits
from rate_limiter.compat.limits.storage import Counter, Storage
from rate_limiter.compat.limits.util import RateLimitItem, WindowStats
from rate_limiter.limit import Limit
from rate_limiter.limiting.hit_all import Request, take_in_redis, take_in_redis_async
from rate_limiter.limiting.limiter import RateLimiter as EngineLimiter

_TOGETHER_MAX = 32  # requests that the engine decides in one step


class Hit:
    """What a request takes under one limit."""

    __slots__ = ("cost", "counter", "key")

    def __init__(self, counter: Counter, key: str, cost: int) -> None:
        self.counter, self.key, self.cost = counter, key, cost

    def take(self) -> Decision:
        """Take the cost, or nothing if that exceeds the limit."""
        limiter, given = self.counter
        return limiter.hit(self.key, self.cost, given)

    def give_back(self) -> None:
        """Return what the request has taken."""
        limiter, given = self.counter
        limiter.refund(self.key, self.cost, given)

    async def give_back_async(self) -> None:
        """Do what give_back() does without blocking the event loop."""
        if self.counter.limiter.is_remote:
            await self.call_async("refund")
        else:
            self.give_back()

    async def call_async(self, method: str) -> Any:
        """Call a method of a limiter in Redis without blocking the event loop."""
        limiter, given = self.counter
        return await cast(Any, limiter).call_async(method, self.key, self.cost, given)

    def peek(self, cost: int) -> Decision:
        """Return what another request would get, without taking anything."""
        limiter, given = self.counter
        return limiter.peek(self.key, cost, given)


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

    def counter_of(self, item: RateLimitItem) -> Counter:
        """Return what counts under an item.

        Raises:
            ValueError: the amount or the window is too large for the engine.
        """
        return self.storage.counter_of(self._windows, item.amount, item.get_expiry())

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Take `cost`; return True if that did not exceed the limit."""
        return self.decide(item, *identifiers, cost=cost).allowed

    def decide(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> Decision:
        """Do what hit() does; return the Decision."""
        limiter, given = self.counter_of(item)
        return limiter.hit(item.key_for(*identifiers), cost, given)

    def give_back(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> None:
        """Return what a request has taken, such as when another limit denied it."""
        limiter, given = self.counter_of(item)
        limiter.refund(item.key_for(*identifiers), cost, given)

    async def decide_async(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> Decision:
        """Do what decide() does."""
        return (await self.decide_all_async([self.hit_of(item, identifiers, cost)]))[0]

    async def give_back_async(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> None:
        """Do what give_back() does."""
        await self.hit_of(item, identifiers, cost).give_back_async()

    def hit_of(self, item: RateLimitItem, identifiers: Sequence[str], cost: int) -> Hit:
        """Return what a request takes under an item, for decide_all()."""
        return Hit(self.counter_of(item), item.key_for(*identifiers), cost)

    def decide_all(self, hits: Sequence[Hit], *, stop: bool = True) -> list[Decision]:
        """Take all costs in one step, or none if one of the limits is exceeded.

        Limits that count denied requests, and those of a cluster, take one after the other and
        give back what they took.

        Args:
            hits: one for each limit, in the order in which they are checked.
            stop: leave out what follows the first limit that is exceeded.
        """
        if len(hits) == 1:
            return [hits[0].take()]
        if not self._decides_at_once(hits):
            return self._one_by_one(hits, stop)
        if self.storage.is_remote:
            return _until_denied(take_in_redis(_requests(hits)), stop)
        return _until_denied(_core.take_all(_in_memory(hits)), stop)

    async def decide_all_async(self, hits: Sequence[Hit]) -> list[Decision]:
        """Do what decide_all() does without blocking the event loop."""
        if not self.storage.is_remote:
            return self.decide_all(hits)
        if len(hits) > 1 and self._decides_at_once(hits):
            return _until_denied(await take_in_redis_async(_requests(hits)), True)
        decisions: list[Decision] = []
        for hit in hits:
            decisions.append(await hit.call_async("hit"))
            if not decisions[-1].allowed:
                for taken in hits[: len(decisions) - 1]:
                    await taken.give_back_async()
                break
        return decisions

    def _decides_at_once(self, hits: Sequence[Hit]) -> bool:
        storage = self.storage
        most = _TOGETHER_MAX
        if storage.redis is not None:
            most = _core.MAX_LIMITS
            if storage.redis.connection.is_cluster:  # keys of several limits have several slots
                return False
        return len(hits) <= most and not storage.count_denied

    def _one_by_one(self, hits: Sequence[Hit], stop: bool) -> list[Decision]:
        decisions: list[Decision] = []
        for hit in hits:
            decisions.append(hit.take())
            if stop and not decisions[-1].allowed:
                break
        if not all(decisions):
            for i, hit in enumerate(hits[: len(decisions)]):
                if decisions[i].allowed:
                    hit.give_back()
                    decisions[i] = hit.peek(0)
        return decisions

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Return what hit() would, without taking anything."""
        return self.peek(item, *identifiers, cost=cost).allowed

    def peek(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> Decision:
        """Do what test() does; return the Decision."""
        limiter, given = self.counter_of(item)
        return limiter.peek(item.key_for(*identifiers), cost, given)

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        """Return when the window ends and what is left of it."""
        return self.stats_of(item, self.peek(item, *identifiers, cost=0))

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
        self.counter_of(item).limiter.reset(item.key_for(*identifiers))


def _requests(hits: Iterable[Hit]) -> list[Request]:
    return [Request(one.counter.limiter, one.key, (one.cost,), one.counter.given) for one in hits]


def _in_memory(
    hits: Iterable[Hit],
) -> tuple[tuple[EngineLimiter, str, int, GivenLimits], ...]:
    return tuple((one.counter.limiter, one.key, one.cost, one.counter.given) for one in hits)


def _until_denied(decisions: Iterable[Decision], stop: bool) -> list[Decision]:
    """Return decisions, with `stop` up to the first that denies."""
    found: list[Decision] = []
    for decision in decisions:
        found.append(decision)
        if stop and not decision.allowed:
            break
    return found


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

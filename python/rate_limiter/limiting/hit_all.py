"""hit_all: take from several limiters in one step, or from none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter_ns
from typing import Any, TypeAlias, cast

from rate_limiter import _core
from rate_limiter._core import Decision, GivenLimits
from rate_limiter.limit import Cost
from rate_limiter.limiting.async_limiter import AsyncRateLimiter
from rate_limiter.limiting.limiter import RateLimiter
from rate_limiter.limiting.redis_limiter import RedisRateLimiter
from rate_limiter.limiting.takers import checked_tokens
from rate_limiter.stores.connection import scripts

Key: TypeAlias = str | bytes
Item: TypeAlias = tuple[RateLimiter, Key] | tuple[RateLimiter, Key, Cost]
AnyItem: TypeAlias = (
    tuple[RateLimiter | AsyncRateLimiter, Key] | tuple[RateLimiter | AsyncRateLimiter, Key, Cost]
)


class Decisions(tuple[Decision, ...]):
    """The decisions of hit_all(), one for each item, in order. True if all allow.

    In a denial nothing was taken: an item that would pass alone has a decision that allows it.

    Attributes:
        allowed: whether all allow.
        denied: the indexes of the items that denied.
        retry_after: seconds until all may pass, inf for never; 0 if all allow.
    """

    __slots__ = ()

    @property
    def allowed(self) -> bool:
        return all(self)

    @property
    def denied(self) -> tuple[int, ...]:
        return tuple(i for i, one in enumerate(self) if not one)

    @property
    def retry_after(self) -> float:
        return max((one.retry_after for one in self), default=0.0)

    def __bool__(self) -> bool:
        return self.allowed


def hit_all(items: Iterable[Item]) -> Decisions:
    """Take a request from several limiters, or from none if one of them denies it.

    It is one step: others see all or nothing of it, in memory and shared memory under the locks of
    the keys, in Redis in one script. The limiters are all in memory (of this process, or shared),
    or all on one Redis with the same `on_store_error`. In a cluster all keys must be in one slot.

    Args:
        items: tuples (limiter, key) or (limiter, key, cost), at most 32; on Redis with at most 8
            limits in all. A key may occur several times.

    Returns:
        Decisions: one for each item; false if one denies.

    Raises:
        TypeError, ValueError: an item is wrong, or the limiters do not fit together.
        StoreError: Redis gave no answer, if `on_store_error` is ``"raise"``.
    """
    checked = _checked(items)
    if not isinstance(checked[0].limiter, RedisRateLimiter):
        return _in_memory(checked)
    for one in checked:
        denial = one.limiter._behind_waiters(one.key, one.cost) if one.waits else None
        if denial is not None:
            return _denied_by(checked, one, denial[0], [_peek(each) for each in checked])
    return take_in_redis(checked)


async def hit_all_async(items: Iterable[AnyItem]) -> Decisions:
    """Do what hit_all() does without blocking the event loop.

    Its items may also have an AsyncRateLimiter. See hit_all.
    """
    checked = _checked(items)
    if not isinstance(checked[0].limiter, RedisRateLimiter):
        return _in_memory(checked)
    for one in checked:
        limiter = cast(RedisRateLimiter, one.limiter)
        denial = await limiter._behind_waiters_async(one.key, one.cost) if one.waits else None
        if denial is not None:
            peeks = [await _peek_async(each) for each in checked]
            return _denied_by(checked, one, denial[0], peeks)
    return await take_in_redis_async(checked)


@dataclass(slots=True, eq=False)
class Request:
    """What is taken from one limiter.

    Attributes:
        given: windows that come with the request, instead of the limits of the limiter.
    """

    limiter: RateLimiter
    key: Key
    cost: tuple[float, ...]
    given: GivenLimits | None = None

    @property
    def waits(self) -> bool:
        return self.limiter.waiters_first


def take_in_redis(requests: Sequence[Request]) -> Decisions:
    """Do what hit_all() does for checked requests to limiters on one Redis."""
    began_ns = perf_counter_ns()
    decisions = Decisions(_first(requests)._call_unmeasured("hit_all", *_joined(requests)))
    return _recorded(requests, decisions, perf_counter_ns() - began_ns)


async def take_in_redis_async(requests: Sequence[Request]) -> Decisions:
    """Do what take_in_redis() does without blocking the event loop."""
    began_ns = perf_counter_ns()
    calling = _first(requests)._call_async_unmeasured("hit_all", *_joined(requests))
    return _recorded(requests, Decisions(await calling), perf_counter_ns() - began_ns)


def _checked(items: Iterable[Any]) -> list[Request]:
    """Return the items as requests.

    Raises:
        TypeError, ValueError: an item is wrong, or the limiters do not fit together.
    """
    checked = [_checked_item(i, item) for i, item in enumerate(items)]
    if not 1 <= len(checked) <= 32:
        raise ValueError(f"hit_all() takes 1 to 32 items, got {len(checked)}")
    remote = [one.limiter for one in checked if isinstance(one.limiter, RedisRateLimiter)]
    if not remote:
        return checked
    first = remote[0]
    for i, one in enumerate(checked):
        if not isinstance(one.limiter, RedisRateLimiter):
            raise ValueError(
                f"hit_all() takes limiters of one store: item {i} is in memory, others in Redis"
            )
        if one.limiter.store.connection is not first.store.connection:
            raise ValueError(
                f"hit_all() takes limiters of one Redis: item {i} uses {one.limiter.store!r}, "
                f"item 0 {first.store!r}"
            )
        if one.limiter.store.on_store_error != first.store.on_store_error:
            raise ValueError(
                "hit_all() takes limiters with the same on_store_error: item "
                f"{i} has {one.limiter.store.on_store_error!r}, item 0 "
                f"{first.store.on_store_error!r}"
            )
    n_limits = sum(len(one.limiter.limits) for one in checked)
    if n_limits > _core.MAX_LIMITS:
        raise ValueError(
            f"hit_all() on Redis takes at most {_core.MAX_LIMITS} limits in all, got {n_limits}"
        )
    return checked


def _checked_item(i: int, item: object) -> Request:
    if not isinstance(item, tuple) or len(item) not in (2, 3):
        raise TypeError(
            f"item {i} must be a tuple (limiter, key) or (limiter, key, cost), got {item!r}"
        )
    limiter, key, cost = item if len(item) == 3 else (*item, 1)
    limiter = limiter._limiter if isinstance(limiter, AsyncRateLimiter) else limiter
    if not isinstance(limiter, RateLimiter):
        raise TypeError(f"item {i} must begin with a RateLimiter, got {limiter!r}")
    return Request(limiter, key, checked_tokens(limiter, key, cost))


def _in_memory(checked: list[Request]) -> Decisions:
    for one in checked:
        denial = one.limiter._behind_waiters(one.key, one.cost) if one.waits else None
        if denial is not None:
            return _denied_by(checked, one, denial[0], [_peek(each) for each in checked])
    return Decisions(_core.take_all(tuple((one.limiter, one.key, one.cost) for one in checked)))


def _peek(one: Request) -> Decision:
    return one.limiter.peek(one.key, one.cost)


async def _peek_async(one: Request) -> Decision:
    limiter = cast(RedisRateLimiter, one.limiter)
    return cast(Decision, await limiter.call_async("peek", one.key, one.cost))


def _denied_by(
    checked: list[Request], denier: Request, denial: Decision, peeks: list[Decision]
) -> Decisions:
    """Return the decisions for a request that would overtake those who wait for one limiter."""
    pairs = zip(checked, peeks, strict=True)
    return Decisions(denial if one is denier else peek for one, peek in pairs)


# --- Redis ---


def _first(checked: Sequence[Request]) -> RedisRateLimiter:
    return cast(RedisRateLimiter, checked[0].limiter)


def _recorded(checked: Sequence[Request], decisions: Decisions, elapsed_ns: int) -> Decisions:
    """Let the meter of each limiter record its decision; in a denial only those that denied."""
    allowed = decisions.allowed
    for one, decision in zip(checked, decisions, strict=True):
        meter = cast(RedisRateLimiter, one.limiter)._meter
        if meter is not None and (allowed or not decision):
            meter.record(allowed, not allowed, elapsed_ns, one.key)
    return decisions


def _joined(checked: Sequence[Request]) -> tuple[Any, ...]:
    """Return the arguments of a call of RedisRateLimiter for all items."""
    limiters = tuple((cast(RedisRateLimiter, one.limiter), one.given) for one in checked)
    buckets = _joined_buckets(
        tuple(one._buckets if given is None else one._buckets_of(given) for one, given in limiters),
        any(limit.is_window for one, given in limiters for limit in (given or one).limits),
        all(given is not None or one._keys.bounded for one, given in limiters),
    )
    costs = tuple(number for one in checked for number in one.cost)
    return tuple(one.key for one in checked), costs, buckets, limiters


@lru_cache(maxsize=128)
def _joined_buckets(
    parts: tuple[_core.RedisBuckets, ...], with_windows: bool, bounded: bool
) -> _core.RedisBuckets:
    return parts[0].join(parts[1:], scripts(with_windows=with_windows, bounded=bounded))

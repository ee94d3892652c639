"""AsyncRateLimiter: limits for asyncio programs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, cast

from rate_limiter._core import AsyncLimiter, AsyncMethod, Decision, GivenLimits
from rate_limiter.checks.effects import DEFAULT_STORE
from rate_limiter.checks.words import OnStoreError
from rate_limiter.limit import Cost, Limit, Limits
from rate_limiter.limiting.clocks import Clock
from rate_limiter.limiting.given_limits import AsyncGivenLimiter, given_limits
from rate_limiter.limiting.limiter import EVERY, RateLimiter
from rate_limiter.limiting.reservation import AsyncReservation
from rate_limiter.limiting.slots import AsyncSlot, CallKey, P, R, limited
from rate_limiter.limiting.takers import checked_tokens
from rate_limiter.limiting.waiting import (
    Ask,
    Patience,
    Sleep,
    TaskWaiter,
    Waiter,
    checked_request,
    wait_steps,
)
from rate_limiter.stores.bucket_info import BucketInfo
from rate_limiter.stores.connection import running_loop


class AsyncRateLimiter(AsyncLimiter):
    """Decide, per client key, whether a request may pass; every method is awaited.

    Safe to share between tasks, event loops and threads. The arguments are those of RateLimiter.
    In memory, where nothing has to wait, `allow`, `hit` and `peek` return an object that decides
    when it is awaited. It serves wherever a coroutine does, but for `inspect.iscoroutine`.

    Attributes:
        limits: the limits, as a tuple.
        waiters_first: as for RateLimiter.
    """

    __slots__ = ("__weakref__", "_call_redis", "_limiter")

    def __init__(
        self,
        limits: Limits,
        *,
        store: object = DEFAULT_STORE,
        name: str = "",
        on_store_error: OnStoreError = "memory",
        max_keys: int = 1_000_000,
        clock: Clock = "monotonic",
        waiters_first: bool = False,
        tracing: bool = False,
    ) -> None:
        self._use(
            RateLimiter(
                limits,
                store=store,
                name=name,
                on_store_error=on_store_error,
                max_keys=max_keys,
                clock=clock,
                waiters_first=waiters_first,
                tracing=tracing,
            )
        )

    @classmethod
    def of(cls, limiter: RateLimiter) -> AsyncRateLimiter:
        """Return an AsyncRateLimiter that shares the buckets of `limiter`."""
        self = cls.__new__(cls)
        self._use(limiter)
        return self

    def _use(self, limiter: RateLimiter) -> None:
        self._limiter = limiter
        # None for memory, where nothing has to be awaited.
        self._call_redis: Any = getattr(limiter, "call_async", None)
        self._engine = limiter if self._call_redis is None else None

    @property
    def limits(self) -> tuple[Limit, ...]:
        return self._limiter.limits

    @property
    def waiters_first(self) -> bool:
        return self._limiter.waiters_first

    @property
    def store(self) -> Any:
        """The store, see RateLimiter.store."""
        return self._limiter.store

    # Where nothing has to wait, an AsyncMethod calls the method of RateLimiter instead.

    @AsyncMethod
    async def allow(
        self, key: str | bytes, cost: Cost = 1, limits: Limits | GivenLimits | None = None
    ) -> bool:
        """Take `cost` tokens; return True if the request is allowed. See RateLimiter.allow."""
        return cast(bool, await self._call_redis("allow", key, cost, limits))

    @AsyncMethod
    async def hit(
        self, key: str | bytes, cost: Cost = 1, limits: Limits | GivenLimits | None = None
    ) -> Decision:
        """Take `cost` tokens; return a Decision. See RateLimiter.hit."""
        return cast(Decision, await self._call_redis("hit", key, cost, limits))

    @AsyncMethod
    async def peek(
        self, key: str | bytes, cost: Cost = 1, limits: Limits | GivenLimits | None = None
    ) -> Decision:
        """Return the Decision of hit() without taking tokens. See RateLimiter.peek."""
        return cast(Decision, await self._call_redis("peek", key, cost, limits))

    async def charge(
        self, key: str | bytes, cost: Cost = 1, limits: Limits | GivenLimits | None = None
    ) -> Decision:
        """Take `cost` tokens even if the bucket has fewer. See RateLimiter.charge."""
        if self._call_redis is not None:
            return cast(Decision, await self._call_redis("charge", key, cost, limits))
        return self._limiter.charge(key, cost, limits)

    async def hit_each(
        self, key: str | bytes, cost: Cost = 1, limits: Limits | GivenLimits | None = None
    ) -> tuple[Decision, ...]:
        """Do what hit() does; return its Decision, followed by one for each limit."""
        if self._call_redis is not None:
            return cast(
                "tuple[Decision, ...]", await self._call_redis("hit_each", key, cost, limits)
            )
        return self._limiter._hit_each(key, cost, limits)

    async def peek_each(
        self, key: str | bytes, cost: Cost = 1, limits: Limits | GivenLimits | None = None
    ) -> tuple[Decision, ...]:
        """Do what peek() does; return its Decision, followed by one for each limit."""
        if self._call_redis is not None:
            return cast(
                "tuple[Decision, ...]", await self._call_redis("peek_each", key, cost, limits)
            )
        return self._limiter._peek_each(key, cost, limits)

    async def refund(
        self, key: str | bytes, cost: Cost = 1, limits: Limits | GivenLimits | None = None
    ) -> None:
        """Give tokens back, up to the capacity. See RateLimiter.refund."""
        if self._call_redis is None:
            self._limiter.refund(key, cost, limits)
        else:
            try:
                await self._call_redis("refund", key, cost, limits)
            finally:
                self._limiter._wake(key)

    async def reset(self, key: str | bytes = EVERY, *, prefix: str | bytes = EVERY) -> None:
        """Make the buckets of a key, of a prefix, or of all keys full. See RateLimiter.reset."""
        if self._call_redis is None:
            self._limiter.reset(key, prefix=prefix)
        elif key is EVERY or prefix is not EVERY:
            await asyncio.to_thread(self._limiter.reset, key, prefix=prefix)
        else:
            try:
                await self._call_redis("reset", key)
            finally:
                self._limiter._wake(key)

    async def keys(self, prefix: str | bytes = "") -> list[str | bytes]:
        """Return the keys in Redis that begin with a prefix. See RateLimiter.keys."""
        return await asyncio.to_thread(self._limiter.keys, prefix)

    async def block(self, key: str | bytes, seconds: float) -> None:
        """Deny all requests for `key` in the next `seconds`. See RateLimiter.block."""
        if self._call_redis is None:
            self._limiter.block(key, seconds)
        else:
            await self._call_redis("block", key, seconds)

    async def inspect(
        self, key: str | bytes, limits: Limits | GivenLimits | None = None
    ) -> tuple[BucketInfo, ...]:
        """Return the state of each bucket of `key`. See RateLimiter.inspect."""
        if self._call_redis is None:
            return self._limiter.inspect(key, limits)
        running_loop()
        return await asyncio.to_thread(self._limiter.inspect, key, limits)

    async def allow_many(
        self,
        keys: Iterable[str | bytes],
        cost: Cost = 1,
        limits: Limits | GivenLimits | None = None,
    ) -> list[bool]:
        """Decide for each of several keys. See RateLimiter.allow_many."""
        if self._call_redis is None:
            return self._limiter.allow_many(keys, cost, limits)
        if isinstance(keys, (str, bytes)):
            raise TypeError(
                f"allow_many() takes several keys, got one {type(keys).__name__}; use allow()"
            )
        given = tuple(keys)
        if not given:
            return self._limiter.allow_many(given, cost, limits)
        return cast("list[bool]", await self._call_redis("allow_many", given, cost, limits))

    def with_limits(self, limits: Limits) -> AsyncRateLimiter:
        """Return a limiter with other limits that starts from the present usage of all clients.

        It is not awaited. See RateLimiter.with_limits.
        """
        return type(self).of(self._limiter.with_limits(limits))

    async def acquire(
        self,
        key: str | bytes,
        cost: Cost = 1,
        timeout: float | None = None,
        *,
        max_waiting: int | None = None,
        limits: Limits | GivenLimits | None = None,
    ) -> Decision:
        """Wait until the request may pass, in order of arrival per key.

        A task that is cancelled while it waits takes no tokens and does not delay others. If it is
        cancelled while a Redis decides, what Redis has taken is given back as soon as it answers.
        Arguments and exceptions are those of RateLimiter.acquire; it needs a running asyncio loop.
        """
        patience = Patience(timeout, max_waiting)
        limiter = self._limiter._under(limits)
        waiter = TaskWaiter(limiter, *checked_request(limiter, key, cost))
        steps = wait_steps(waiter, key, patience)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Sleep):
                    await waiter.sleep(step.seconds)
                    step = steps.send(None)
                else:
                    step = steps.send(await _answer(waiter, step, key))
        except StopIteration as done:
            return cast(Decision, done.value)
        finally:
            try:
                steps.close()
            finally:
                waiter.leave()  # again: a signal handler may have raised an exception in close()

    def reserve(
        self,
        key: str | bytes,
        cost: Cost = 1,
        timeout: float | None = 0,
        *,
        max_waiting: int | None = None,
        limits: Limits | None = None,
    ) -> AsyncReservation:
        """Return a block, for `async with`, for work whose cost is known only when it is done.

        See RateLimiter.reserve; ``await reservation.settle(...)`` in the block. A task that is
        cancelled in the block gives everything back, as after any other exception.
        """
        limiter = self._under(limits)
        tokens = checked_tokens(limiter._limiter, key, cost)
        return AsyncReservation(limiter, key, tokens, Patience(timeout, max_waiting))

    def slot(
        self,
        key: str | bytes,
        cost: Cost = 1,
        timeout: float | None = None,
        *,
        limits: Limits | None = None,
    ) -> AsyncSlot:
        """Return a block that waits for its turn: ``async with limiter.slot("api"):``.

        See RateLimiter.slot.
        """
        return AsyncSlot(self._under(limits), key, cost, timeout)

    def limited(
        self,
        key: CallKey,
        cost: Cost = 1,
        timeout: float | None = None,
        *,
        limits: Limits | None = None,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Return a decorator: each call of the function waits for its turn.

        See RateLimiter.limited.
        """
        limiter = self._limiter._under(limits)
        return limited(limiter, self._under(limits), key, cost, timeout)

    def _under(self, limits: Limits | GivenLimits | None) -> Any:
        """Return a limiter with the limits of a call; this one without any."""
        return self if limits is None else AsyncGivenLimiter(self, given_limits(limits))

    def stats(self) -> dict[str, int]:
        """Return counts of keys, memory and decisions. See RateLimiter.stats."""
        return self._limiter.stats()

    def __reduce__(self) -> tuple[Any, ...]:
        """Make the limiter again, see RateLimiter.__reduce__."""
        return type(self).of, (self._limiter,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'; '.join(map(str, self.limits))!r})"


async def _answer(waiter: Waiter, ask: Ask, key: str | bytes) -> Any:
    call_redis = getattr(waiter.limiter, "call_async", None)
    if call_redis is not None:
        return await call_redis(ask.method.lstrip("_"), key, ask.cost)
    return getattr(waiter.limiter, ask.method)(key, ask.cost)


RateLimiter._as_async = staticmethod(AsyncRateLimiter.of)

"""RedisCaller: how the methods of a limiter call Redis.

A call is made by the client, which blocks, or by the loop of a task or greenlet:

    method ──> _call, call_async ──> buckets ──> client or loop ──> answer
                                                      └── StoreError ──> _fallback ──> answer
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import abstractmethod
from collections.abc import Iterable
from functools import partial
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, cast

from rate_limiter import _core
from rate_limiter._core import Decision, GivenLimits, Meter, StoreError
from rate_limiter.limit import Cost, Limit
from rate_limiter.limiting.greenlets import HubFuture, HubLoop, current_hub
from rate_limiter.limiting.late_answers import kept, wait_until_given_back
from rate_limiter.limiting.limiter import RateLimiter
from rate_limiter.limiting.wait_time import cost_to_peek, decisions_behind
from rate_limiter.limiting.waiting import checked_request
from rate_limiter.stores.breaker import Breaker
from rate_limiter.stores.connection import Source
from rate_limiter.stores.redis_store import RedisStore

if TYPE_CHECKING:
    from rate_limiter.stores.tracing import RedisTracing

_IN_MEMORY = {"take": "_take", "hit_each": "_hit_each", "peek_each": "_peek_each"}
_OF_EACH = ("hit_each", "peek_each")

_DECISIONS = frozenset(("allow", "take", "hit", "hit_each", "allow_many"))

_KEPT = ("charge", "refund", "block")
"""Methods that are called to the end, even if their task is cancelled."""

DENIED_RETRY_S = 1.0
"""Seconds until a request that was denied because the store is unavailable may try again."""


class RedisCaller(RateLimiter):
    """Call Redis for a decision; while it is unavailable, decide by `on_store_error`.

    A subclass has the buckets that a method calls.

    Attributes:
        store: the RedisStore.
    """

    __slots__ = ("_breaker", "_buckets", "_client", "_meter", "_tracing", "store")

    store: RedisStore
    _breaker: Breaker
    _buckets: _core.RedisBuckets
    _client: _core.RedisClient
    _meter: Meter | None
    _tracing: RedisTracing | None

    @abstractmethod
    def _resolved(
        self, args: tuple[Any, ...]
    ) -> tuple[_core.RedisBuckets, tuple[Any, ...], GivenLimits | None]:
        """Return the commands for the arguments of a method, and its limits apart.

        Raises:
            TypeError, ValueError: the limits are wrong.
        """

    @abstractmethod
    def _all_buckets(self) -> Iterable[_core.RedisBuckets]:
        """Return the commands for each kind of limits that a key may have buckets of."""

    @abstractmethod
    def _command(self, buckets: _core.RedisBuckets, method: str) -> str:
        """Return the command of Redis for a method."""

    # --- Blocking ----------------------------------------------------------------------------

    def _call(self, method: str, *args: Any) -> Any:
        if self._meter is None or method not in _DECISIONS:
            return self._call_unmeasured(method, *args)
        began_ns = perf_counter_ns()
        answer = self._call_unmeasured(method, *args)
        _record(self._meter, args[0], answer, perf_counter_ns() - began_ns)
        return answer

    def _call_unmeasured(self, method: str, *args: Any) -> Any:
        buckets, args, given = self._resolved(args)
        if self.waiters_first and method in _DECISIONS:
            if method == "allow_many":
                return [self._call_unmeasured("allow", key, args[1], given) for key in args[0]]
            if (
                method != "take"
                and (denial := self._behind_waiters(args[0], args[1], given)) is not None
            ):
                return _as_answer(method, denial)
        return self._call_buckets(buckets, given, method, *args)

    def _call_buckets(
        self, buckets: _core.RedisBuckets, given: GivenLimits | None, method: str, *args: Any
    ) -> Any:
        hub = current_hub()
        source: Source = self._client if hub is None else self.store.connection.loop(hub)
        if not self._breaker.is_working:
            if self._has_several_nodes(method):
                keys, cost = args
                return [
                    self._call_buckets(buckets, given, "allow", key, cost)
                    for key in checked_keys(keys)
                ]
            if not self.store.connection.permits(source, buckets, _key_of(method, args)):
                return self._fallback(method, args, given, None)
        try:
            if self._tracing is not None:
                answer = self._traced(self._tracing, source, hub, buckets, method, args)
            elif hub is None:
                answer = self._asked(self._client, buckets, method, args)
            else:
                answer = self._wait_in_hub(hub, buckets, method, *args)
        except Exception as error:
            return self._after_error(source, buckets, method, args, given, error)
        if not self._breaker.is_working and not self._has_several_nodes(method):
            self.store.connection.succeeded(source, buckets, _key_of(method, args))
        return answer

    def _asked(
        self, source: Any, buckets: _core.RedisBuckets, method: str, args: tuple[Any, ...]
    ) -> Any:
        """Send the request of a method to Redis; return what the source makes of it."""
        if method == "allow_many" and source is not self._client:
            keys, *cost = args
            each = (source.allow(buckets, key, *cost) for key in checked_keys(keys))
            return asyncio.gather(*each)
        if method == "hit_all":
            keys, costs, joined, _ = args
            return source.hit_all(joined, keys, costs)
        return getattr(source, method)(buckets, *args)

    def _wait_in_hub(
        self, hub: HubLoop, buckets: _core.RedisBuckets, method: str, *args: Any
    ) -> Any:
        """Return the answer of Redis, for which only this greenlet waits."""
        # A RedisLoop returns what the loop makes.
        loop: Any = self.store.connection.loop(hub)
        if method == "allow_many":
            keys, *cost = args
            futures = [loop.allow(buckets, key, *cost) for key in checked_keys(keys)]
            return [one.wait() for one in futures]
        future: HubFuture = self._asked(loop, buckets, method, args)
        try:
            return future.wait()
        except BaseException:
            if method == "take" and not future.done():  # killed, or a timeout of the greenlet
                future.then(lambda taken: self._give_back(loop, buckets, taken, *args))
            raise

    def _give_back(
        self, loop: Any, buckets: _core.RedisBuckets, taken: Any, key: str | bytes, cost: Cost
    ) -> None:
        if not taken:  # denied, or an error
            return
        with contextlib.suppress(StoreError, RuntimeError):  # such as a closed connection
            refunding: HubFuture = loop.refund(buckets, key, cost)
            refunding.then(lambda done: self._wake(key))

    def _has_several_nodes(self, method: str) -> bool:
        return method == "allow_many" and self.store.connection.is_cluster

    # --- Awaited -----------------------------------------------------------------------------

    async def call_async(self, method: str, *args: Any) -> Any:
        """Call a method by its name without blocking the running event loop."""
        if self._meter is None or method not in _DECISIONS:
            return await self._call_async_unmeasured(method, *args)
        began_ns = perf_counter_ns()
        answer = await self._call_async_unmeasured(method, *args)
        _record(self._meter, args[0], answer, perf_counter_ns() - began_ns)
        return answer

    async def _behind_waiters_async(
        self, key: str | bytes, cost: Cost = 1, given: GivenLimits | None = None
    ) -> tuple[Decision, ...] | None:
        limiter = self._under(given)
        name, tokens = checked_request(limiter, key, cost)
        costs = [*limiter._lines.costs(name), tokens]
        if len(costs) == 1:
            return None
        each = await self.call_async("peek_each", key, cost_to_peek(limiter.limits, costs), given)
        decisions = decisions_behind(limiter.limits, each[1:], costs)
        return None if decisions[0] else decisions

    async def _call_async_unmeasured(self, method: str, *args: Any) -> Any:
        self.store.connection.loop()  # names what to do instead where there is no event loop
        buckets, args, given = self._resolved(args)
        if self.waiters_first and method in _DECISIONS:
            if method == "allow_many":
                each = (("allow", key, args[1], given) for key in checked_keys(args[0]))
                return await asyncio.gather(*(self._call_async_unmeasured(*one) for one in each))
            if method != "take":
                denial = await self._behind_waiters_async(args[0], args[1], given)
                if denial is not None:
                    return _as_answer(method, denial)
        if method not in ("reset", "block"):
            return await self._call_buckets_async(buckets, given, method, *args)
        for one in self._all_buckets():
            await self._call_buckets_async(one, None, method, *args)
        return None

    async def _call_buckets_async(
        self, buckets: _core.RedisBuckets, given: GivenLimits | None, method: str, *args: Any
    ) -> Any:
        loop = self.store.connection.loop()
        if not self._breaker.is_working:
            if self._has_several_nodes(method):
                keys, cost = args
                calls = (
                    self._call_buckets_async(buckets, given, "allow", key, cost)
                    for key in checked_keys(keys)
                )
                return list(await asyncio.gather(*calls))
            if not self.store.connection.permits(loop, buckets, _key_of(method, args)):
                return self._fallback(method, args, given, None)
        asked = self._asked if self._tracing is None else self._asked_traced
        try:
            answer: Any
            if method == "take":
                answer = await self._take_async(loop, buckets, *args)
            elif method in _KEPT:
                answer = await kept(asked(loop, buckets, method, args))
            else:
                answer = await asked(loop, buckets, method, args)
        except Exception as error:
            return self._after_error(loop, buckets, method, args, given, error)
        if not self._breaker.is_working and not self._has_several_nodes(method):
            self.store.connection.succeeded(loop, buckets, _key_of(method, args))
        return answer

    async def _take_async(
        self, loop: _core.RedisLoop, buckets: _core.RedisBuckets, key: str | bytes, cost: Cost
    ) -> Decision:
        """Take tokens. When cancelled, give back those that the late answer has taken."""
        asked = self._asked if self._tracing is None else self._asked_traced
        taking = asyncio.ensure_future(asked(loop, buckets, "take", (key, cost)))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            await wait_until_given_back(taking, lambda: self._refunding(loop, buckets, key, cost))
            raise

    def _refunding(
        self, loop: _core.RedisLoop, buckets: _core.RedisBuckets, key: str | bytes, cost: Cost
    ) -> asyncio.Future[None]:
        asked = self._asked if self._tracing is None else self._asked_traced
        refunding: asyncio.Future[None] = asyncio.ensure_future(
            asked(loop, buckets, "refund", (key, cost))
        )
        refunding.add_done_callback(lambda done: self._wake(key))
        return refunding

    # --- Traced ------------------------------------------------------------------------------

    def _traced(
        self,
        tracing: RedisTracing,
        source: Source,
        hub: HubLoop | None,
        buckets: _core.RedisBuckets,
        method: str,
        args: tuple[Any, ...],
    ) -> Any:
        """Return the answer of Redis to a blocking call, and trace it."""
        if hub is None:
            answer = partial(self._asked, source, buckets, method, args)
        else:
            answer = partial(self._wait_in_hub, hub, buckets, method, *args)
        return tracing.answered(source, self._command(buckets, method), method, args, answer)

    def _asked_traced(
        self, loop: Any, buckets: _core.RedisBuckets, method: str, args: tuple[Any, ...]
    ) -> Any:
        """Do what _asked() does for a task, and trace it."""
        answer = self._asked(loop, buckets, method, args)
        assert self._tracing is not None
        self._tracing.follow(loop, self._command(buckets, method), method, args, answer)
        return answer

    # --- Measured ----------------------------------------------------------------------------

    def _measure(self, meter: Meter, /) -> None:
        # The meter of the engine counts only decisions in memory, which would then count twice.
        if self._meter not in (None, meter):
            raise ValueError("this limiter is measured by another meter already")
        self._meter = meter

    # --- Without Redis -----------------------------------------------------------------------

    def _after_error(
        self,
        source: Source,
        buckets: _core.RedisBuckets,
        method: str,
        args: tuple[Any, ...],
        given: GivenLimits | None,
        error: Exception,
    ) -> Any:
        if not isinstance(error, StoreError):  # such as a wrong argument: nothing was sent
            if not self._has_several_nodes(method):
                self.store.connection.give_back_probe(source, buckets, _key_of(method, args))
            raise error
        self._breaker.failed(error)
        if self._tracing is not None:
            self._tracing.failed(error)
        return self._fallback(method, args, given, error)

    def _fallback(
        self,
        method: str,
        args: tuple[Any, ...],
        given: GivenLimits | None,
        error: StoreError | None,
    ) -> Any:
        """Decide by `on_store_error`. Nothing is sent."""
        self._breaker.count_fallback()
        policy = self.store.on_store_error
        if policy == "raise":
            raise error if error is not None else self._unavailable()
        if self._tracing is not None:
            self._tracing.fell_back(policy)
        if method == "hit_all":
            return self._fallback_of_all(*args)
        if policy == "memory":
            all_args = args if given is None else (*args, given)
            return getattr(_core.Limiter, _IN_MEMORY.get(method, method))(self, *all_args)
        if method in ("refund", "reset", "block"):
            return None
        allowed = policy == "allow"
        if method in _DECISIONS:
            n = len(args[0]) if method == "allow_many" else 1
            self._buckets.count(n * allowed, n * (not allowed))
        if method == "allow":
            return allowed
        if method == "allow_many":
            return [allowed] * len(args[0])
        limits = self.limits if given is None else given.limits
        each = [self._undecided(allowed or method == "charge", one) for one in limits]
        return (each[0], *each) if method in _OF_EACH else each[0]

    def _fallback_of_all(
        self,
        keys: tuple[str | bytes, ...],
        costs: tuple[float, ...],
        _: _core.RedisBuckets,
        limiters: tuple[tuple[RedisCaller, GivenLimits | None], ...],
    ) -> tuple[Decision, ...]:
        policy = self.store.on_store_error
        if policy != "memory":
            return tuple(
                one._undecided(policy == "allow", (given or one).limits[0])
                for one, given in limiters
            )
        requests: list[Any] = []
        first = 0
        for (limiter, given), key in zip(limiters, keys, strict=True):
            end = first + len((given or limiter).limits)
            request = (limiter, key, costs[first:end])
            requests.append(request if given is None else (*request, given))
            first = end
        return _core.take_all(tuple(requests))

    def _undecided(self, allowed: bool, limit: Limit) -> Decision:
        if allowed:
            return Decision(True, limit.capacity, limit=limit.capacity, store_unavailable=True)
        return Decision(
            False, limit=limit.capacity, retry_after=DENIED_RETRY_S, store_unavailable=True
        )

    def _unavailable(self) -> StoreError:
        error = StoreError(
            f"Redis has failed and is not asked again yet: {self._breaker.last_failure}"
        )
        error.kind = "connect"
        return error


def _key_of(method: str, args: tuple[Any, ...]) -> str | bytes:
    """Return the key of a call, by which its node is found."""
    return cast("str | bytes", args[0][0] if method == "hit_all" else args[0])


def _as_answer(method: str, denial: tuple[Decision, ...]) -> bool | Decision | tuple[Decision, ...]:
    if method == "allow":
        return False
    return denial if method in _OF_EACH else denial[0]


def _record(meter: Meter, key: Any, answer: Any, elapsed_ns: int) -> None:
    """Count a decision for a key, or those of allow_many for several keys."""
    if isinstance(answer, list):
        for each, passes in zip(key, answer, strict=True):
            meter.record(passes, not passes, elapsed_ns // len(answer), each)
        return
    passes = bool(answer[0] if isinstance(answer, tuple) else answer)
    meter.record(passes, not passes, elapsed_ns, key)


def checked_keys(keys: tuple[object, ...]) -> tuple[str | bytes, ...]:
    """Return the keys after checking all of them, so that none counts before a bad one fails.

    Raises:
        TypeError: one is not a key.
    """
    for key in keys:
        if not isinstance(key, (str, bytes)):
            raise TypeError(f"key must be str or bytes, not {type(key).__name__}")
    return cast("tuple[str | bytes, ...]", keys)

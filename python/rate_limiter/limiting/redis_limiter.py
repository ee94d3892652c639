"""RedisRateLimiter: a RateLimiter whose buckets are in Redis.

``RateLimiter(limits, store=...)`` makes one for a store that is not memory. Its base class keeps
the same limits in process memory, for the time that Redis is unavailable.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, cast

from rate_limiter import _core
from rate_limiter._core import Decision, GivenLimits, Meter, StoreError
from rate_limiter.checks.arguments import check_arguments
from rate_limiter.checks.redaction import shown
from rate_limiter.checks.words import OnStoreError
from rate_limiter.limit import FIXED_WINDOW, SLIDING_WINDOW, Cost, Limit, Limits, as_limits
from rate_limiter.limiting.clocks import Clock
from rate_limiter.limiting.given_limits import given_limits, shape_of
from rate_limiter.limiting.greenlets import HubFuture, HubLoop, current_hub
from rate_limiter.limiting.late_answers import kept, wait_until_given_back
from rate_limiter.limiting.limiter import RateLimiter, checked_prefix
from rate_limiter.limiting.wait_time import cost_to_peek, decisions_behind
from rate_limiter.limiting.waiting import Lines, checked_request
from rate_limiter.stores.address import redis_store
from rate_limiter.stores.bucket_info import BucketInfo
from rate_limiter.stores.connection import Source, scripts
from rate_limiter.stores.inspection import SLIDING_LAYOUT, inspect_key
from rate_limiter.stores.redis_store import RedisStore
from rate_limiter.stores.searching import remove_keys, search, search_exact, sorted_keys

if TYPE_CHECKING:
    from rate_limiter.stores.tracing import RedisTracing

_IN_MEMORY = {"take": "_take", "hit_each": "_hit_each", "peek_each": "_peek_each"}
_OF_EACH = ("hit_each", "peek_each")

_DECISIONS = frozenset(("allow", "take", "hit", "hit_each", "allow_many"))

_KEPT = ("charge", "refund", "block")
"""Methods that are called to the end, even if their task is cancelled."""

OF_CALLS = ":calls"
"""What follows a client's key in Redis where the limits came with a call."""

_GIVEN_MAX = 128
"""Different limits of calls whose commands are kept."""

DENIED_RETRY_S = 1.0
"""Seconds until a request that was denied because the store is unavailable may try again."""


@dataclass(frozen=True)
class _Keys:
    """The keys in Redis: a beginning, the client's key, and an ending for each limit."""

    before: str
    endings: tuple[str, ...]
    is_exact: bool
    min_ttl_ms: int
    bounded: bool  # each key belongs to one limit, see bucket.lua

    def renewed(self, before: tuple[Limit, ...], after: tuple[Limit, ...]) -> _Keys:
        """Return the keys for other limits: the same, unless the values would be misread."""
        endings = list(self.endings)
        for i, pair in enumerate(zip(before, after, strict=True)):
            old, new = (_ending(i, one, exact=False, names_limits=False) for one in pair)
            if old == new:
                continue
            if self.is_exact:
                raise ValueError(f"with an exact prefix, {pair[0]} cannot become {pair[1]}")
            endings[i] += new
        return replace(self, endings=tuple(endings))


class RedisRateLimiter(RateLimiter, serves_remote_stores=True):
    """Decide by buckets in Redis. Methods are those of RateLimiter.

    Args:
        limits, store, name, on_store_error, waiters_first, tracing: as for RateLimiter.
        max_keys, clock: of the fallback in memory.
        exact_prefix: if given, the key in Redis is this prefix and the client's key, unchanged;
            else it has the store's prefix, the client's key between braces, and the limit.
        names_limits: the key in Redis contains the limit, so another limit has another bucket; else
            it contains only the index and the kind of the limit.
        min_ttl_s: minimum lifetime of a bucket in Redis, even if it is full earlier.

    Attributes:
        store: the RedisStore.
    """

    is_remote = True

    __slots__ = (
        "_breaker",
        "_buckets",
        "_client",
        "_keys",
        "_kinds",
        "_meter",
        "_of_calls",
        "_tracing",
        "store",
    )

    def __init__(
        self,
        limits: Limits,
        *,
        store: object,
        name: str = "",
        on_store_error: OnStoreError = "memory",
        max_keys: int = 1_000_000,
        clock: Clock = "monotonic",
        waiters_first: bool = False,
        tracing: bool = False,
        exact_prefix: str | None = None,
        names_limits: bool = True,
        min_ttl_s: float = 0,
    ) -> None:
        check_arguments(RedisRateLimiter.__init__, dict(locals()))
        self.store: RedisStore = redis_store(store, on_store_error, tracing=tracing)
        if exact_prefix is not None and len(as_limits(limits)) != 1:
            raise ValueError("with an exact prefix there is one key in Redis, and so one limit")
        is_dated = exact_prefix is not None and any(
            limit.algorithm == FIXED_WINDOW and limit.start == "clock"
            for limit in as_limits(limits)
        )
        if is_dated and self.store.connection.client.kind == "cluster":
            raise ValueError(
                "a fixed window under an exact prefix has the date in its key, which a cluster "
                "cannot place: leave the prefix out, or take another algorithm"
            )
        if self.store.connection.client.kind == "cluster" and len(as_limits(limits)) > 1:
            _check_hash_tag(self.store.prefix)
        if not isinstance(clock, str):
            raise ValueError(
                f"clock={shown(clock)} cannot be used with store={shown(store)}, which uses the "
                "clock of its server: omit clock, or keep the limits in memory"
            )
        exact = exact_prefix is not None
        endings = (
            _ending(i, limit, exact=exact, names_limits=names_limits)
            for i, limit in enumerate(as_limits(limits))
        )
        before = exact_prefix if exact_prefix is not None else _before(self.store, name)
        bounded = names_limits and not exact
        keys = _Keys(before, tuple(endings), exact, math.ceil(min_ttl_s * 1000), bounded)
        self._set_up_redis(limits, max_keys, clock, waiters_first, keys)

    @property
    def place(self) -> Hashable:
        """Where its buckets are: equal for limiters that share them."""
        return str(self.store.address), self._keys.before, self._keys.endings

    def _set_up_redis(
        self,
        limits: Limits,
        max_keys: int,
        clock: Clock,
        waiters_first: bool,
        keys: _Keys,
        keep: RateLimiter | None = None,
    ) -> None:
        self._set_up(limits, max_keys, clock, waiters_first, keep)
        self._lines = Lines.of(str(self.store.address), keys.before, keys.endings)
        self._meter: Meter | None = None
        self._client = self.store.connection.client
        self._breaker = self.store.connection.breaker
        self._keys = keys
        self._buckets = self._made_buckets(self.limits, keys.endings, bounded=keys.bounded)
        self._of_calls: dict[GivenLimits, _core.RedisBuckets] = {}
        self._kinds: dict[str, _core.RedisBuckets] = {}  # of limits of calls, by their shape
        self._tracing = _tracing_of(self) if self.store.tracing else None

    def _made_buckets(
        self, limits: tuple[Limit, ...], endings: Iterable[str], *, bounded: bool
    ) -> _core.RedisBuckets:
        return _core.RedisBuckets(
            self._client,
            tuple(limit.for_engine for limit in limits),
            scripts(with_windows=any(limit.is_window for limit in limits), bounded=bounded),
            self._keys.before.encode(),
            tuple(ending.encode() for ending in endings),
            not self._keys.is_exact,
            self._keys.min_ttl_ms,
            self._keys.is_exact,
        )

    # --- Limits of a call ---

    def _buckets_of(self, given: GivenLimits) -> _core.RedisBuckets:
        """Return the commands for limits of a call.

        Raises:
            ValueError: there are too many kinds of windows, or the limiter has an exact prefix.
        """
        found = self._of_calls.get(given)
        if found is not None:
            return found
        if self._keys.is_exact:
            raise ValueError("a limiter with an exact prefix takes no limits with a call")
        self._prepare(given)
        # Clamped as in memory: what another limit has written may be more than this one holds.
        made = self._made_buckets(given.limits, _endings_of_calls(given), bounded=True)
        if given.has_windows or given is _FOUR_BUCKETS:
            self._kinds.setdefault(shape_of(given), made)
        found = self._of_calls.setdefault(given, made)
        for oldest in list(self._of_calls)[:-_GIVEN_MAX]:
            dropped = self._of_calls.pop(oldest, None)
            if dropped is not None:
                self._buckets.count(*dropped.counts())
        return found

    def _all_buckets(self) -> Iterable[_core.RedisBuckets]:
        """Return the commands for each kind of limits that a key may have buckets of."""
        if not self._keys.is_exact:
            self._buckets_of(_FOUR_BUCKETS)
        return (self._buckets, *self._kinds.values())

    def _resolved(
        self, args: tuple[Any, ...]
    ) -> tuple[_core.RedisBuckets, tuple[Any, ...], GivenLimits | None]:
        """Return the commands for the arguments of a method, and its limits apart.

        Raises:
            TypeError, ValueError: the limits are wrong.
        """
        if len(args) != 3:  # a key, a cost and limits
            return self._buckets, args, None
        key, cost, limits = args
        if limits is None:
            return self._buckets, (key, cost), None
        given = given_limits(limits)
        return self._buckets_of(given), (key, cost), given

    def _renewed(self, limits: tuple[Limit, ...]) -> RateLimiter:
        made: RedisRateLimiter = _core.Limiter.__new__(RedisRateLimiter)
        made.store = self.store
        keys = self._keys.renewed(self.limits, limits)
        made._set_up_redis(limits, self._max_keys, self._clock, self.waiters_first, keys, keep=self)
        made._buckets.count(*self._counted())
        return made

    def _counted(self) -> tuple[int, int]:
        """Return how many decisions of Redis allowed, and how many denied."""
        each = [one.counts() for one in (self._buckets, *list(self._of_calls.values()))]
        return sum(one[0] for one in each), sum(one[1] for one in each)

    def __reduce__(self) -> tuple[Any, ...]:
        """Make the limiter again from the address of its Redis, its keys and limits."""
        settings = (self._max_keys, self._clock, self.waiters_first, self._keys)
        return _remade_redis, (type(self), self.store, self.limits, *settings)

    def redis_keys(
        self, key: str | bytes, limits: Limits | GivenLimits | None = None
    ) -> tuple[bytes, ...]:
        """Return the keys of a client in Redis, one for each limit."""
        return self._resolved((key, 1, limits))[0].keys(key)

    def inspect(
        self, key: str | bytes, limits: Limits | GivenLimits | None = None
    ) -> tuple[BucketInfo, ...]:
        """Return the state of each bucket of `key` in Redis. See RateLimiter.inspect."""
        connection = self.store.connection
        names = self.redis_keys(key, limits)
        if limits is not None:
            several = given_limits(limits).limits
            return tuple(map(inspect_key, repeat(connection), names, several))
        if not (self._keys.is_exact and any(limit.is_window for limit in self.limits)):
            return tuple(map(inspect_key, repeat(connection), names, self.limits))
        # The keys of these windows end with a date, which the script adds.
        each = connection.client.peek_each(self._buckets, key, 0)[1:]
        return tuple(
            BucketInfo(
                name.decode("utf-8", "replace"),
                limit,
                one.remaining,
                one.reset_after,
                one.reset_after if one.remaining < limit.capacity else None,
            )
            for name, limit, one in zip(names, self.limits, each, strict=True)
        )

    # --- Blocking ----------------------------------------------------------------------------

    def allow(
        self, key: str | bytes, cost: Cost = 1, limits: Limits | GivenLimits | None = None
    ) -> bool:
        return cast(bool, self._call("allow", key, cost, limits))

    def hit(
        self, key: str | bytes, cost: Cost = 1, limits: Limits | GivenLimits | None = None
    ) -> Decision:
        return cast(Decision, self._call("hit", key, cost, limits))

    def peek(
        self, key: str | bytes, cost: Cost = 1, limits: Limits | GivenLimits | None = None
    ) -> Decision:
        return cast(Decision, self._call("peek", key, cost, limits))

    def _take(
        self, key: str | bytes, cost: Cost = 1, limits: Limits | GivenLimits | None = None
    ) -> Decision:
        return cast(Decision, self._call("take", key, cost, limits))

    def _hit_each(
        self, key: str | bytes, cost: Cost = 1, limits: Limits | GivenLimits | None = None
    ) -> tuple[Decision, ...]:
        return cast("tuple[Decision, ...]", self._call("hit_each", key, cost, limits))

    def _peek_each(
        self, key: str | bytes, cost: Cost = 1, limits: Limits | GivenLimits | None = None
    ) -> tuple[Decision, ...]:
        return cast("tuple[Decision, ...]", self._call("peek_each", key, cost, limits))

    def charge(
        self, key: str | bytes, cost: Cost = 1, limits: Limits | GivenLimits | None = None
    ) -> Decision:
        return cast(Decision, self._call("charge", key, cost, limits))

    def refund(
        self, key: str | bytes, cost: Cost = 1, limits: Limits | GivenLimits | None = None
    ) -> None:
        try:
            self._call("refund", key, cost, limits)
        finally:
            self._wake(key)

    def _reset_key(self, key: str | bytes) -> None:
        for buckets in self._all_buckets():
            self._call_buckets(buckets, None, "reset", key)

    def _reset_many(self, prefix: bytes) -> None:
        remove_keys(self.store.connection, self.search(prefix))
        if not prefix:
            self._reset_all()  # the fallback

    def keys(self, prefix: str | bytes = "") -> list[str | bytes]:
        start = checked_prefix(prefix) if prefix or not isinstance(prefix, (str, bytes)) else b""
        return sorted_keys(self.search(start).values())

    def search(self, prefix: bytes) -> dict[bytes, bytes]:
        """Return the keys in Redis of all clients whose keys begin with a prefix, and those."""
        keys = self._keys
        before = keys.before.encode()
        if keys.is_exact:
            return search_exact(self.store.connection, before, prefix)
        endings = [ending.encode() for ending in keys.endings]
        return search(self.store.connection, before, prefix, endings, OF_CALLS.encode() + b":")

    def block(self, key: str | bytes, seconds: float) -> None:
        for buckets in self._all_buckets():
            self._call_buckets(buckets, None, "block", key, seconds)

    def allow_many(
        self,
        keys: Iterable[str | bytes],
        cost: Cost = 1,
        limits: Limits | GivenLimits | None = None,
    ) -> list[bool]:
        if isinstance(keys, (str, bytes)):
            raise TypeError(
                f"allow_many() takes several keys, got one {type(keys).__name__}; use allow()"
            )
        given = tuple(keys)
        if not given:  # no node, but the cost may be wrong
            return _core.Limiter.allow_many(self, given, cost, limits)
        return cast("list[bool]", self._call("allow_many", given, cost, limits))

    def stats(self) -> dict[str, int]:
        """Return counts as RateLimiter.stats does.

        ``allowed`` and ``denied`` count the decisions of this limiter in this process, with or
        without Redis. The other numbers describe the memory of this process, which decides while
        Redis is unavailable: the keys in Redis cannot be counted without a scan.
        """
        allowed, denied = self._counted()
        stats = super().stats()
        return stats | {"allowed": stats["allowed"] + allowed, "denied": stats["denied"] + denied}

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

    def _command(self, buckets: _core.RedisBuckets, method: str) -> str:
        """Return the command of Redis for a method."""
        if method != "reset":
            return "EVALSHA"
        if buckets is self._buckets:
            has_windows = any(limit.is_window for limit in self.limits)
        else:
            has_windows = buckets is not self._kinds.get(shape_of(_FOUR_BUCKETS))
        return "EVALSHA" if has_windows else "DEL"

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
        limiters: tuple[RedisRateLimiter, ...],
    ) -> tuple[Decision, ...]:
        policy = self.store.on_store_error
        if policy != "memory":
            return tuple(one._undecided(policy == "allow", one.limits[0]) for one in limiters)
        requests, first = [], 0
        for limiter, key in zip(limiters, keys, strict=True):
            end = first + len(limiter.limits)
            requests.append((limiter, key, costs[first:end]))
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


def _tracing_of(limiter: RedisRateLimiter) -> RedisTracing:
    from rate_limiter.stores.tracing import RedisTracing  # needs OpenTelemetry

    return RedisTracing(limiter.store.connection.client, limiter._buckets)


def _key_of(method: str, args: tuple[Any, ...]) -> str | bytes:
    """Return the key of a call, by which its node is found."""
    return cast("str | bytes", args[0][0] if method == "hit_all" else args[0])


def _remade_redis(
    kind: type[RedisRateLimiter], store: RedisStore, limits: Limits, *settings: Any
) -> RedisRateLimiter:
    made = _core.Limiter.__new__(kind)
    made.store = store
    made._set_up_redis(limits, *settings)
    return made


def _as_answer(method: str, denial: tuple[Decision, ...]) -> bool | Decision | tuple[Decision, ...]:
    if method == "allow":
        return False
    return denial if method in _OF_EACH else denial[0]


def time_to_fill_s(limit: Limit) -> float:
    """Return the seconds until an empty bucket is full; 0 if it never is."""
    return limit.capacity / limit.refill_rate if limit.refill_rate > 0 else 0.0


def _record(meter: Meter, key: Any, answer: Any, elapsed_ns: int) -> None:
    """Count a decision for a key, or those of allow_many for several keys."""
    if isinstance(answer, list):
        for each, passes in zip(key, answer, strict=True):
            meter.record(passes, not passes, elapsed_ns // len(answer), each)
        return
    passes = bool(answer[0] if isinstance(answer, tuple) else answer)
    meter.record(passes, not passes, elapsed_ns, key)


def _ending(i: int, limit: Limit, *, exact: bool, names_limits: bool) -> str:
    """Return the part after the client's key in Redis."""
    if exact:
        return ""
    layout = SLIDING_LAYOUT if limit.algorithm == SLIDING_WINDOW else ""
    if names_limits:
        return ":" + limit.stored_name.replace(" ", "") + layout
    if limit.is_window:
        first = ":first" if limit.start == "first" else ""
        calendar = f":{limit.unit}:{limit.tz}" if limit.unit else ""
        return f":{i}:{limit.algorithm}:{limit.window_s}{first}{calendar}{layout}"
    # The deficit of a bucket that is never refilled is stored in units of its capacity.
    return f":{i}:bucket" if limit.refill_rate else f":{i}:frozen:{limit.capacity!r}"


def _endings_of_calls(given: GivenLimits) -> list[str]:
    """Return the parts after the client's key in Redis, for limits that came with a call.

    Buckets are numbered from the one that takes longest to fill: so a limit that is added or left
    out does not change what the others are. As in memory, a bucket beside windows is another one.
    """
    bucket = "mixed" if given.has_windows else "bucket"
    places = range(len(given.limits)) if given.has_windows else given.places
    return [
        OF_CALLS
        + (_ending(i, one, exact=False, names_limits=False) if one.is_window else f":{i}:{bucket}")
        for i, one in zip(places, given.limits, strict=True)
    ]


_FOUR_BUCKETS = given_limits("1/second, 1/second, 1/second, 1/second")
"""Whatever buckets came with calls, the keys of these are theirs."""


def _before(store: RedisStore, name: str) -> str:
    if not isinstance(name, str) or set("{}") & set(name):
        raise ValueError(f"name must be a str without braces, got {name!r}")
    return f"{store.prefix}:{name}:" if name else f"{store.prefix}:"


def _check_hash_tag(prefix: str) -> None:
    """Raise ValueError for a prefix that puts the keys of one client into different slots."""
    # The first brace begins the hash tag, and an empty tag is none: see the cluster specification.
    if prefix.partition("{")[2].startswith("}"):
        raise ValueError(
            f"the prefix {prefix!r} has empty braces, so a cluster would put the several limits of "
            "one client on different nodes: leave them out"
        )


def checked_keys(keys: tuple[object, ...]) -> tuple[str | bytes, ...]:
    """Return the keys after checking all of them, so that none counts before a bad one fails.

    Raises:
        TypeError: one is not a key.
    """
    for key in keys:
        if not isinstance(key, (str, bytes)):
            raise TypeError(f"key must be str or bytes, not {type(key).__name__}")
    return cast("tuple[str | bytes, ...]", keys)

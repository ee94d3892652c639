"""RedisRateLimiter: a RateLimiter whose buckets are in Redis.

``RateLimiter(limits, store=...)`` makes one for a store that is not memory. Its base class keeps
the same limits in process memory, for the time that Redis is unavailable.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import repeat
from typing import TYPE_CHECKING, Any, cast

from rate_limiter import _core
from rate_limiter._core import Decision, GivenLimits
from rate_limiter.checks.arguments import check_arguments
from rate_limiter.checks.redaction import shown
from rate_limiter.checks.words import OnStoreError
from rate_limiter.limit import Cost, Limit, Limits, as_limits
from rate_limiter.limiting.clocks import Clock
from rate_limiter.limiting.given_limits import given_limits, shape_of
from rate_limiter.limiting.limiter import RateLimiter, checked_prefix
from rate_limiter.limiting.redis_caller import RedisCaller
from rate_limiter.limiting.redis_keys import (
    FOUR_BUCKETS,
    OF_CALLS,
    RedisKeys,
    check_place,
    endings_of_calls,
)
from rate_limiter.limiting.waiting import Lines
from rate_limiter.stores.address import redis_store
from rate_limiter.stores.bucket_info import BucketInfo
from rate_limiter.stores.connection import scripts
from rate_limiter.stores.inspection import inspect_key
from rate_limiter.stores.redis_store import RedisStore
from rate_limiter.stores.searching import remove_keys, search, search_exact, sorted_keys

if TYPE_CHECKING:
    from rate_limiter.stores.tracing import RedisTracing

_GIVEN_MAX = 128
"""Different limits of calls whose commands are kept."""


class RedisRateLimiter(RedisCaller, serves_remote_stores=True):
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

    __slots__ = ("_keys", "_kinds", "_of_calls")

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
        self.store = redis_store(store, on_store_error, tracing=tracing)
        check_place(self.store, as_limits(limits), exact_prefix)
        if not isinstance(clock, str):
            raise ValueError(
                f"clock={shown(clock)} cannot be used with store={shown(store)}, which uses the "
                "clock of its server: omit clock, or keep the limits in memory"
            )
        keys = RedisKeys.of(
            self.store,
            as_limits(limits),
            name,
            exact_prefix,
            names_limits=names_limits,
            min_ttl_s=min_ttl_s,
        )
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
        keys: RedisKeys,
        keep: RateLimiter | None = None,
    ) -> None:
        self._set_up(limits, max_keys, clock, waiters_first, keep)
        self._lines = Lines.of(str(self.store.address), keys.before, keys.endings)
        self._meter = None
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
        made = self._made_buckets(given.limits, endings_of_calls(given), bounded=True)
        if given.has_windows or given is FOUR_BUCKETS:
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
            self._buckets_of(FOUR_BUCKETS)
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
        known = self._of_calls.get(limits) if type(limits) is GivenLimits else None
        if known is not None:
            return known, (key, cost), limits
        given = given_limits(limits)
        return self._buckets_of(given), (key, cost), given

    def _command(self, buckets: _core.RedisBuckets, method: str) -> str:
        if method != "reset":
            return "EVALSHA"
        if buckets is self._buckets:
            has_windows = any(limit.is_window for limit in self.limits)
        else:
            has_windows = buckets is not self._kinds.get(shape_of(FOUR_BUCKETS))
        return "EVALSHA" if has_windows else "DEL"

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


def _tracing_of(limiter: RedisRateLimiter) -> RedisTracing:
    from rate_limiter.stores.tracing import RedisTracing  # needs OpenTelemetry

    return RedisTracing(limiter.store.connection.client, limiter._buckets)


def _remade_redis(
    kind: type[RedisRateLimiter], store: RedisStore, limits: Limits, *settings: Any
) -> RedisRateLimiter:
    made = _core.Limiter.__new__(kind)
    made.store = store
    made._set_up_redis(limits, *settings)
    return made

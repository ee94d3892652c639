"""RateLimiter: limits for blocking programs."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from typing import Any, ClassVar

from rate_limiter import _core
from rate_limiter._core import Decision, GivenLimits
from rate_limiter.checks.arguments import check_arguments
from rate_limiter.checks.effects import DEFAULT_STORE
from rate_limiter.checks.redaction import shown
from rate_limiter.checks.words import OnStoreError
from rate_limiter.limit import Cost, Limit, Limits, as_limits
from rate_limiter.limiting.blocking import BlockingCalls
from rate_limiter.limiting.clocks import Clock, ManualClock
from rate_limiter.limiting.given_limits import (
    given_limits,
    lines_of_given,
    shape_of,
)
from rate_limiter.limiting.made_limiters import count_made, note_in_use
from rate_limiter.limiting.waiting import (
    Lines,
    line_key,
)
from rate_limiter.stores.address import MEMORY, is_shared, shared_file
from rate_limiter.stores.bucket_info import BucketInfo

logger = logging.getLogger("rate_limiter")

EVERY: Any = object()
"""The default of reset(): None is no key, so that a missing one never resets all."""
NO_KEYS = (
    "a limiter in memory stores hashes of keys, so keys cannot be listed or found by a prefix: use "
    "a Redis, reset one key, or call reset() for all"
)


class RateLimiter(_core.Limiter, BlockingCalls):
    """Decide, per client key, whether a request may pass.

    Safe to share between threads. `allow`, `hit`, `peek`, `allow_many` and `stats` are the
    engine's own methods, one C call each.

    Calls may give their own `limits`, such as those of a client's plan:
    ``limiter.hit(key, limits="1000/minute")``. All these calls share the buckets of a key, separate
    from those of calls without limits. If the limits of a key change, a bucket is full
    again at the same time as before, so a client that has used half of 100 a minute has used half
    of 1000 a minute. A window keeps its count if its length stays.

    Args:
        limits: a text (``"100/minute"``), a Limit, or several. A request takes tokens from all of
            several limits or from none.
        store: where the buckets are; ``"memory://"`` is the memory of this process,
            ``"shared:///dev/shm/app"`` a file that the processes of this host share. The address
            of a Redis (``"redis://localhost:6379/0"``, see docs/stores.md), a redis-py client or
            a RedisStore shares them with all processes that use the same Redis. Limiters with the
            same limits and the same name on one Redis share their buckets.
        name: for a Redis or shared memory: separates limiters that have the same limits. It needs
            `store`.
        on_store_error: for a Redis: how to decide while Redis is unavailable. ``"memory"`` (the
            same limits in the memory of each process), ``"allow"``, ``"deny"`` or ``"raise"``
            (StoreError). It needs `store`; a RedisStore has its own setting.
        max_keys: about how many keys may be in use at once; memory use grows with the keys in use.
        clock: ``"monotonic"``, ``"coarse"`` (cheaper, in steps of some milliseconds), a ManualClock
            or a callable that returns seconds, such as ``time.time``. One that is set back refills
            nothing. Redis uses the clock of its server, so these two are an error with it.
        waiters_first: whether `allow`, `hit` and `allow_many` leave the tokens to the callers of
            this process that wait in `acquire` for the same key. They are denied unless there are
            enough tokens for those as well.
        tracing: for a Redis: trace its round trips and failures with OpenTelemetry; see
            docs/tracing.md. A RedisStore has its own setting.

    Attributes:
        limits: the limits, as a tuple.
        waiters_first: as given.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
        MemoryError: there is no memory for the table.
    """

    __slots__ = (
        "__weakref__",
        "_clock",
        "_lines",
        "_max_keys",
        "_name",
        "_path",
        "_store",
        "limits",
        "waiters_first",
    )

    limits: tuple[Limit, ...]

    is_remote: ClassVar[bool] = False
    """Whether a decision may wait for a store outside this host."""

    _remote_kind: ClassVar[type[RateLimiter] | None] = None  # makes limiters for remote stores

    def __init_subclass__(cls, *, serves_remote_stores: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if serves_remote_stores:
            RateLimiter._remote_kind = cls

    def __new__(cls, *args: Any, store: object = MEMORY, **kwargs: Any) -> RateLimiter:
        if cls is RateLimiter and store != MEMORY and not is_shared(store):
            assert cls._remote_kind is not None, "importing the package registers it"
            return _core.Limiter.__new__(cls._remote_kind)
        return super().__new__(cls)

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
        check_arguments(RateLimiter.__init__, dict(locals()))
        if is_shared(store):
            self._set_up_shared(limits, max_keys, clock, waiters_first, str(store), name)
            return
        if store != MEMORY:
            raise TypeError(
                f"a subclass of RateLimiter keeps its buckets in memory, got {shown(store)}"
            )
        self._set_up(limits, max_keys, clock, waiters_first)
        count_made(self, self.limits)

    @classmethod
    def in_memory(cls, limits: Limits, max_keys: int, clock: Clock) -> RateLimiter:
        """Return a limiter in memory for one of many rules.

        The warning about limiters made in a request handler ignores it: rules that are reloaded
        often replace their limiters too.
        """
        made = _core.Limiter.__new__(RateLimiter)
        made._set_up(limits, max_keys, clock)
        return made

    def _set_up(
        self,
        limits: Limits,
        max_keys: int,
        clock: Clock,
        waiters_first: bool = False,
        keep: RateLimiter | None = None,
        path: str | None = None,
    ) -> None:
        self.limits = as_limits(limits)
        for limit in self.limits:
            if 0 < limit.capacity < 1:
                logger.warning(
                    "the limit '%s' holds less than one token: it denies every request of cost 1, "
                    "which is the default. Give requests a smaller cost, or the bucket a burst of "
                    "1 or more",
                    limit,
                )
        self.waiters_first: bool = waiters_first
        self._store = self._name = ""  # of shared memory
        self._path = path  # of shared memory, else None
        self._clock = clock
        self._max_keys = max_keys
        self._lines = Lines() if path is None else Lines.of(path)
        if isinstance(clock, ManualClock):
            clock._wake_when_moved(self._lines)
        _core.Limiter.__init__(
            self,
            [limit.for_engine for limit in self.limits],
            max_keys=max_keys,
            clock=clock,
            keep=keep,
            path=path,
            waiters_first=waiters_first and not self.is_remote,
        )
        note_in_use(self)

    def _set_up_shared(
        self,
        limits: Limits,
        max_keys: int,
        clock: Clock,
        waiters_first: bool,
        store: str,
        name: str,
        keep: RateLimiter | None = None,
    ) -> None:
        path = shared_file(store, name, limits, max_keys)
        self._set_up(limits, max_keys, clock, waiters_first, keep, path)
        self._store, self._name = store, name

    @property
    def place(self) -> Hashable:
        """Where its buckets are in a store: equal for limiters that share them; None in memory."""
        return self._path

    @property
    def store(self) -> Any:
        """The RedisStore; for shared memory and the memory of this process the address."""
        return self._store or MEMORY

    @property
    def is_in_memory(self) -> bool:
        """Whether its buckets are in the memory of this process alone."""
        return not self.is_remote and self._path is None

    @property
    def decides_here(self) -> bool:
        """Whether the engine can decide without calls of `hit_each` and `refund`."""
        kind = type(self)
        is_plain = kind.hit_each is RateLimiter.hit_each and kind.refund is RateLimiter.refund
        return is_plain and not self.is_remote

    def with_limits(self, limits: Limits) -> RateLimiter:
        """Return a limiter with other limits that starts from the present usage of all clients.

        A bucket is full again at the same time as before, or earlier: it lacks at most twice its
        new capacity. A window of the same length keeps its count. Callers that wait in `acquire`
        continue with the new limits.

        In memory the two limiters are independent from then on. In shared memory as well: the
        first process that calls this for certain limits copies the usage, and the others find it.
        In Redis both use the same buckets. Only there, a bucket that is never refilled starts full
        if its capacity differs.

        Args:
            limits: as many as before, of the same kinds in the same order.

        Raises:
            TypeError, ValueError: they are not.
            MemoryError: there is no memory for the table.
        """
        others = as_limits(limits)
        before, after = ([one.algorithm for one in each] for each in (self.limits, others))
        if before != after:
            raise ValueError(
                f"expected limits of the same kinds in the same order ({', '.join(before)}), "
                f"got {', '.join(after)}"
            )
        made = self._renewed(others)
        self._lines.hand_over(self, made)
        return made

    def _renewed(self, limits: tuple[Limit, ...]) -> RateLimiter:
        made = _core.Limiter.__new__(RateLimiter)
        if self._path is None:
            made._set_up(limits, self._max_keys, self._clock, self.waiters_first, keep=self)
        else:
            made._set_up_shared(limits, *self._settings, keep=self)
        return made

    @property
    def _settings(self) -> tuple[int, Clock, bool, str, str]:
        """The arguments of _set_up_shared() but for the limits."""
        return (self._max_keys, self._clock, self.waiters_first, self._store, self._name)

    def __reduce__(self) -> tuple[Any, ...]:
        """Make a limiter in shared memory again from its path, name and limits.

        Raises:
            TypeError: the buckets are in the memory of this process.
        """
        if self._path is None:
            raise TypeError(
                "a limiter in memory cannot be pickled or copied: the copy would not share its "
                "buckets, so a client would have its limit once in each. Give "
                "store='shared:///dev/shm/app' or the address of a Redis, or make a limiter in "
                "each process on purpose"
            )
        return _remade_shared, (type(self), self.limits, *self._settings)

    # --- Limits of a call ---

    _read_limits = staticmethod(given_limits)  # called by the engine

    def _limiter_for(self, given: GivenLimits, /) -> _core.Limiter:
        """Return a new limiter for the buckets of given limits; called by the engine."""
        path = None
        if self._path is not None:
            name = f"{self._name}\nlimits of calls: {shape_of(given)}"
            path = shared_file(self._store, name, "1/second", self._max_keys)
        return _core.Limiter(given, max_keys=self._max_keys, clock=self._clock, path=path)

    def inspect(
        self, key: str | bytes, limits: Limits | GivenLimits | None = None
    ) -> tuple[BucketInfo, ...]:
        """Return the state of each bucket of `key`, one for each limit, without taking tokens.

        Args:
            key: str or bytes.
            limits: as for hit(): the buckets of calls with limits.

        Raises:
            TypeError: a bad key.
            StoreError: Redis gave no answer; there is no fallback for this.
        """
        limiter = self._under(limits)
        each = limiter._peek_each(key, 0)[1:]
        name = line_key(key).decode("utf-8", "replace")
        return tuple(
            BucketInfo(name, limit, bucket.remaining, bucket.reset_after, None)
            for limit, bucket in zip(limiter.limits, each, strict=True)
        )

    def hit_each(
        self, key: str | bytes, cost: Cost = 1, limits: Limits | GivenLimits | None = None
    ) -> tuple[Decision, ...]:
        """Do what hit() does; return its Decision, followed by one for each limit."""
        return self._hit_each(key, cost, limits)

    def peek_each(
        self, key: str | bytes, cost: Cost = 1, limits: Limits | GivenLimits | None = None
    ) -> tuple[Decision, ...]:
        """Do what peek() does; return its Decision, followed by one for each limit."""
        return self._peek_each(key, cost, limits)

    def charge(
        self, key: str | bytes, cost: Cost = 1, limits: Limits | GivenLimits | None = None
    ) -> Decision:
        """Take `cost` tokens even if the bucket has fewer, such as when the cost is known late.

        Missing tokens become a debt of at most one capacity, which is refilled before the next
        request passes.

        Returns:
            A Decision that allows the request and has the tokens left.

        Raises:
            TypeError, ValueError: a bad key or cost.
        """
        return super().charge(key, cost, limits)

    def refund(
        self, key: str | bytes, cost: Cost = 1, limits: Limits | GivenLimits | None = None
    ) -> None:
        """Give `cost` tokens back to the bucket of `key`, up to its capacity.

        Raises:
            TypeError, ValueError: a bad key or cost.
        """
        try:
            super().refund(key, cost, limits)
        finally:
            self._wake(key)

    def reset(self, key: str | bytes = EVERY, *, prefix: str | bytes = EVERY) -> None:
        """Make the buckets of a key full, of all keys that begin with a prefix, or of all keys.

        Blocks end too. Without arguments it is all keys of this limiter: in shared memory those of
        all processes, in Redis those under the name and the limits of this limiter.

        Args:
            key: str or bytes.
            prefix: for a Redis, not empty. Redis has the SHA-256 of keys of more than 200 bytes, so
                a prefix does not match those.

        Raises:
            TypeError: a bad key, or both arguments.
            ValueError: the prefix is empty, or the limiter is not in Redis.
            StoreError: Redis gave no answer to a search, which scans the whole database.
        """
        if prefix is not EVERY:
            if key is not EVERY:
                raise TypeError("give a key or a prefix, not both")
            self._reset_many(checked_prefix(prefix))
        elif key is EVERY:
            self._reset_many(b"")
        else:
            try:
                self._reset_key(key)
            finally:
                self._wake(key)
            return
        self._lines.wake_all()
        self._wake(b"")

    def _reset_key(self, key: str | bytes) -> None:
        super().reset(key)

    def _reset_many(self, prefix: bytes) -> None:
        """Make the buckets of all keys with a prefix full; of all keys for an empty one."""
        if prefix:
            raise ValueError(NO_KEYS)
        self._reset_all()

    def keys(self, prefix: str | bytes = "") -> list[str | bytes]:
        """Return the keys in Redis that begin with a prefix, sorted: those with buckets not full.

        Keys of more than 200 bytes are there as ``"sha256:..."``, which `reset` and `inspect` take
        as well. A key that is not UTF-8 is bytes.

        Raises:
            TypeError: a bad prefix.
            ValueError: the limiter is not in Redis.
            StoreError: Redis gave no answer to the search, which scans the whole database.
        """
        raise ValueError(NO_KEYS)

    def block(self, key: str | bytes, seconds: float) -> None:
        """Deny all requests for `key` in the next `seconds`, whatever its bucket has.

        ``retry_after`` of the denials is the time that is left, or more if the bucket needs longer.
        The bucket goes on as before: it is refilled, and charge() and refund() change it. A block
        that ends later stays; reset() ends it.

        Args:
            key: str or bytes.
            seconds: a finite number >= 0. More than 100 years count as 100 years.

        Raises:
            TypeError, ValueError: a bad key or time.
            MemoryError: there is no memory for the block.
        """
        super().block(key, seconds)

    def _wake(self, key: str | bytes) -> None:
        """Wake the first that waits for a key, for which there may be tokens."""
        if isinstance(key, (str, bytes)):
            self._lines.wake(line_key(key))
            with_limits = lines_of_given(self._lines)
            if with_limits is not None:
                with_limits.wake_all()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'; '.join(map(str, self.limits))!r})"


def checked_prefix(prefix: object) -> bytes:
    """Return the prefix of keys as bytes.

    Raises:
        TypeError, ValueError: it is no text, or empty.
    """
    if not isinstance(prefix, (str, bytes)):
        raise TypeError(f"prefix must be str or bytes, not {type(prefix).__name__}")
    if not prefix:
        raise ValueError("prefix must not be empty; reset() without arguments resets all keys")
    return line_key(prefix)


def _remade_shared(kind: type[RateLimiter], limits: Limits, *settings: Any) -> RateLimiter:
    made = _core.Limiter.__new__(kind)
    made._set_up_shared(limits, *settings)
    return made

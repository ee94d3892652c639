"""RateLimiter: limits for blocking programs."""

from __future__ import annotations

import logging
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from rate_limiter import _core
from rate_limiter._core import Decision, ManualClock
from rate_limiter.checks.arguments import DEFAULT_STORE, NoEffectError, check_arguments
from rate_limiter.checks.redaction import shown
from rate_limiter.limit import Limit, Limits, as_limits
from rate_limiter.limiting.waiting import Lines, Sleep, ThreadWaiter, line_key, wait_steps
from rate_limiter.policy.setup_checks import limiter_was_made
from rate_limiter.stores.bucket_info import BucketInfo

if TYPE_CHECKING:
    from rate_limiter.stores.redis_store import RedisStore

logger = logging.getLogger("rate_limiter")

MEMORY = "memory://"
"""The store in the memory of this process."""
SHARED = "shared://"
"""How the address of a store begins that the processes of one host share, in a file."""
PREFIX = "rl"
"""What keys in Redis begin with, where no RedisStore says otherwise."""


class RateLimiter(_core.Limiter):
    """Decide, per client key, whether a request may pass.

    Safe to share between threads. `allow`, `hit`, `peek`, `allow_many` and `stats` are the
    engine's own methods, one C call each.

    Args:
        limits: a text (``"100/minute"``), a Limit, or several, which are then all or nothing.
        store: where the buckets live; ``"memory://"`` is the memory of this process,
            ``"shared:///dev/shm/app"`` one that the processes of this host share. The address
            of a Redis (``"redis://localhost:6379/0"``, see docs/stores.md), a redis-py client or
            a RedisStore shares them with all processes that use the same. Limiters with the same
            limits and the same name on one Redis have the same buckets.
        name: for a Redis or shared memory: tells limiters apart that have the same limits. It
            needs `store`.
        on_store_error: for a Redis: what becomes of a decision while it gives none. ``"memory"``
            (the same limits in the memory of each process), ``"allow"``, ``"deny"`` or
            ``"raise"`` (StoreError). It needs `store`; a RedisStore has its own instead.
        max_keys: about how many keys may be in use at once; memory follows those that are.
        clock: ``"monotonic"``, ``"coarse"`` (cheaper, in steps of some milliseconds) or a
            ManualClock.

    Attributes:
        limits: the limits, as a tuple.

    Raises:
        TypeError, ValueError: an argument is not what it should be; the message names it.
        MemoryError: there is no memory for the table.
    """

    __slots__ = ("__weakref__", "_clock", "_lines", "_path", "limits")

    limits: tuple[Limit, ...]

    def __new__(cls, *args: Any, store: object = MEMORY, **kwargs: Any) -> RateLimiter:
        if cls is RateLimiter and store != MEMORY and not is_shared(store):
            from rate_limiter.limiting.redis_limiter import RedisRateLimiter

            return _core.Limiter.__new__(RedisRateLimiter)
        return super().__new__(cls)

    def __init__(
        self,
        limits: Limits,
        *,
        store: object = DEFAULT_STORE,
        name: str = "",
        on_store_error: str = "memory",
        max_keys: int = 1_000_000,
        clock: str | ManualClock = "monotonic",
    ) -> None:
        check_arguments(RateLimiter.__init__, dict(locals()))
        if is_shared(store):
            path = shared_file(store, name, limits, max_keys)
            self._set_up(limits, max_keys, clock, path=path)
            return
        if store != MEMORY:
            raise TypeError(
                f"a subclass of RateLimiter keeps its buckets in memory, got {shown(store)}"
            )
        self._set_up(limits, max_keys, clock)

    def _set_up(
        self,
        limits: Limits,
        max_keys: int,
        clock: str | ManualClock,
        keep: RateLimiter | None = None,
        path: str | None = None,
    ) -> None:
        limiter_was_made()
        self.limits = as_limits(limits)
        for limit in self.limits:
            if limit.capacity < 1:
                logger.warning(
                    "the limit '%s' holds less than one token: it denies every request of cost 1, "
                    "which is the default. Give requests a smaller cost, or the bucket a burst of "
                    "1 or more",
                    limit,
                )
        self._path = path  # of shared memory, else None
        self._clock = clock
        self._lines = Lines()
        form = [limit.for_engine for limit in self.limits]
        _core.Limiter.__init__(self, form, max_keys=max_keys, clock=clock, keep=keep, path=path)

    def with_limits(self, limits: Limits) -> RateLimiter:
        """Return a limiter with other limits, whose clients have used what they had used here.

        A bucket is full again when it would have been; a window keeps its count. This one goes on
        by itself.

        Args:
            limits: as many as before, of the same kinds in the same order.

        Raises:
            TypeError, ValueError: they are not.
            MemoryError: there is no memory for the table.
        """
        made = _core.Limiter.__new__(RateLimiter)
        made._set_up(limits, 1, self._clock, keep=self)
        return made

    def acquire(self, key: str | bytes, cost: float = 1, timeout: float | None = None) -> Decision:
        """Wait until the request may pass, in order of arrival per key.

        A request that cannot pass within the timeout is not waited for: as soon as that is
        known, the exception is raised. Nothing is taken then, nor when the wait is interrupted.

        Args:
            key: str or bytes.
            cost: tokens, a finite number >= 0.
            timeout: seconds to wait at most; None for as long as it takes.

        Returns:
            The Decision that allowed it.

        Raises:
            RateLimitExceeded: it cannot pass within `timeout`, or never.
            TypeError, ValueError: a bad key, cost or timeout.
        """
        waiter = ThreadWaiter()
        steps = wait_steps(self._lines, waiter, key, timeout)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Sleep):
                    waiter.sleep(step.seconds)
                    step = steps.send(None)
                else:
                    step = steps.send(getattr(self, step)(key, cost))
        except StopIteration as done:
            decision: Decision = done.value
            return decision
        finally:
            steps.close()

    def inspect(self, key: str | bytes) -> tuple[BucketInfo, ...]:
        """Return what each bucket of `key` holds, one for each limit, taking nothing.

        Raises:
            TypeError: a bad key.
            StoreError: Redis gave no answer; there is no fallback for this.
        """
        told = self._peek_each(key, 0)[1:]
        name = line_key(key).decode("utf-8", "replace")
        return tuple(
            BucketInfo(name, limit, bucket.remaining, bucket.reset_after, None)
            for limit, bucket in zip(self.limits, told, strict=True)
        )

    def hit_each(self, key: str | bytes, cost: float = 1) -> tuple[Decision, ...]:
        """Do what hit() does; return its Decision and, behind it, one about each limit."""
        return self._hit_each(key, cost)

    def peek_each(self, key: str | bytes, cost: float = 1) -> tuple[Decision, ...]:
        """Do what peek() does; return its Decision and, behind it, one about each limit."""
        return self._peek_each(key, cost)

    def charge(self, key: str | bytes, cost: float = 1) -> Decision:
        """Take `cost` tokens whether they are there or not, as when a request turned out dearer.

        What is not there becomes a debt, of at most one capacity, that is paid before the next
        request passes.

        Returns:
            A Decision that allows, and tells what is left.

        Raises:
            TypeError, ValueError: a bad key or cost.
        """
        return super().charge(key, cost)

    def refund(self, key: str | bytes, cost: float = 1) -> None:
        """Give `cost` tokens back to the bucket of `key`, up to its capacity.

        Raises:
            TypeError, ValueError: a bad key or cost.
        """
        super().refund(key, cost)
        self._lines.wake(line_key(key))

    def reset(self, key: str | bytes) -> None:
        """Make the bucket of `key` full.

        Raises:
            TypeError: a bad key.
        """
        super().reset(key)
        self._lines.wake(line_key(key))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'; '.join(map(str, self.limits))!r})"


def redis_store(store: object, on_store_error: str, prefix: str = PREFIX) -> RedisStore:
    """Return the RedisStore that `store` is, or the address or client of.

    Raises:
        TypeError, ValueError: it is none, or has another `on_store_error`; the message says why.
    """
    from rate_limiter.seeds.pluggable.redis_store_async import AsyncRedisStore
    from rate_limiter.stores.redis_store import RedisStore

    if isinstance(store, AsyncRedisStore):
        store = store.redis
    if isinstance(store, RedisStore):
        if on_store_error not in ("memory", store.on_store_error):
            raise NoEffectError("on_store_error", "beside store, a RedisStore that has its own")
        return store
    if isinstance(store, str) and "://" not in store:
        raise ValueError(f"store must be {MEMORY!r} or the address of a Redis, got {shown(store)}")
    try:
        return RedisStore(store, prefix, on_store_error=on_store_error)
    except TypeError as error:
        raise TypeError(f"store: {error}") from None


def is_shared(store: object) -> bool:
    """Tell whether a store is memory that the processes of a host share."""
    return isinstance(store, str) and store.startswith(SHARED)


def shared_file(store: object, name: str, limits: Limits, max_keys: int = 1_000_000) -> str:
    """Return the file of a limiter, beside the path of the store.

    There is one for each name and limits, and for each layout and size: a process with another
    version or another `max_keys` takes a new file, and running processes keep theirs.

    Raises:
        ValueError: the path is not an absolute one.
    """
    path = str(store).removeprefix(SHARED)
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError(
            f"store must be '{SHARED}' and the absolute path of a file, such as "
            f"'{SHARED}/dev/shm/app', got {shown(store)}"
        )
    told = f"{name}\n{'; '.join(map(str, as_limits(limits)))}"
    digest = sha256(told.encode()).hexdigest()[:16]
    return f"{path}.{digest}.{_core.SHARED_LAYOUT}-{max_keys}"


def check_store(store: object) -> None:
    """Check that there is such a store.

    Raises:
        TypeError, ValueError: there is not; the message says why.
    """
    if is_shared(store):
        shared_file(store, "", "1/second")
    elif store != MEMORY:
        redis_store(store, "memory")

"""RateLimiter: limits for blocking programs."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

from rate_limiter import _core
from rate_limiter._core import Decision, ManualClock
from rate_limiter.checks.arguments import DEFAULT_STORE, check_arguments
from rate_limiter.checks.redaction import shown
from rate_limiter.limit import Limit, Limits, as_limits
from rate_limiter.limiting.waiting import Lines, Sleep, ThreadWaiter, line_key, wait_steps
from rate_limiter.stores.address import MEMORY, is_shared, shared_file
from rate_limiter.stores.bucket_info import BucketInfo

logger = logging.getLogger("rate_limiter")

MADE_OFTEN = 100
"""Limiters in memory with the same limits, after which a warning is due."""
_PACKAGE = str(Path(__file__).parent.parent)
_made: Counter[tuple[Limit, ...]] = Counter()


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
        _count_made(self.limits)

    @classmethod
    def in_memory(cls, limits: Limits, max_keys: int, clock: str | ManualClock) -> RateLimiter:
        """Return a limiter in memory that is one of many, such as those of rules.

        The warning about limiters that are made in a request handler does not count it.
        """
        made = _core.Limiter.__new__(RateLimiter)
        made._set_up(limits, max_keys, clock)
        return made

    def _set_up(
        self,
        limits: Limits,
        max_keys: int,
        clock: str | ManualClock,
        keep: RateLimiter | None = None,
        path: str | None = None,
    ) -> None:
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
        each = self._peek_each(key, 0)[1:]
        name = line_key(key).decode("utf-8", "replace")
        return tuple(
            BucketInfo(name, limit, bucket.remaining, bucket.reset_after, None)
            for limit, bucket in zip(self.limits, each, strict=True)
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


def _count_made(limits: tuple[Limit, ...]) -> None:
    """Count a limiter in memory; warn of limits for which a program makes many.

    A limiter that a request handler makes has a full bucket each time, and limits nothing.
    """
    if len(_made) > 10_000:
        _made.clear()
    _made[limits] += 1
    if _made[limits] == MADE_OFTEN:
        caller = next(
            frame
            for frame in reversed(traceback.extract_stack())
            if not frame.filename.startswith(_PACKAGE)
        )
        logger.warning(
            "%s limiters have been made at %s:%s with the limits %s. Each starts with full "
            "buckets, so one that is made inside a request handler limits nothing: make it once, "
            "where the module is loaded",
            MADE_OFTEN,
            caller.filename,
            caller.lineno,
            "; ".join(map(str, limits)),
        )

"""RateLimiter: limits for blocking programs."""

from __future__ import annotations

from rate_limiter import _core
from rate_limiter._core import Decision, ManualClock
from rate_limiter.limit import Limits, as_limits
from rate_limiter.waiting import Lines, ThreadWaiter, line_key, turns

MEMORY = "memory://"
"""The store in the memory of this process."""


class RateLimiter(_core.Limiter):
    """Decide, per client key, whether a request may pass.

    Safe to share between threads. `allow`, `hit`, `peek`, `allow_many` and `stats` are the
    engine's own methods, one C call each.

    Args:
        limits: a text (``"100/minute"``), a Limit, or several, which are then all or nothing.
        store: where the buckets live; ``"memory://"`` is the memory of this process.
        max_keys: about how many keys may be in use at once; memory follows those that are.
        clock: ``"monotonic"``, ``"coarse"`` (cheaper, in steps of some milliseconds) or a
            ManualClock.

    Attributes:
        limits: the limits, as a tuple.

    Raises:
        TypeError, ValueError: an argument is not what it should be; the message names it.
        MemoryError: there is no memory for the table.
    """

    __slots__ = ("__weakref__", "_lines", "limits")

    def __init__(
        self,
        limits: Limits,
        *,
        store: str = MEMORY,
        max_keys: int = 1_000_000,
        clock: str | ManualClock = "monotonic",
    ) -> None:
        check_store(store)
        self.limits = as_limits(limits)
        self._lines = Lines()
        pairs = [(limit.capacity, limit.refill_rate) for limit in self.limits]
        super().__init__(pairs, max_keys=max_keys, clock=clock)

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
        steps = turns(self, self._lines, waiter, key, cost, timeout)
        try:
            while True:
                waiter.sleep(next(steps))
        except StopIteration as done:
            decision: Decision = done.value
            return decision
        finally:
            steps.close()

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


def check_store(store: str) -> None:
    """Check that there is such a store.

    Raises:
        ValueError: there is not.
    """
    if store != MEMORY:
        raise ValueError(f"store must be {MEMORY!r}, got {store!r}")

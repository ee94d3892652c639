"""BlockingCalls: the methods of RateLimiter that wait for tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, cast

from rate_limiter._core import Decision, GivenLimits
from rate_limiter.limit import Cost, Limits
from rate_limiter.limiting.given_limits import GivenLimiter, given_limits
from rate_limiter.limiting.reservation import Reservation
from rate_limiter.limiting.slots import CallKey, P, R, Slot, limited
from rate_limiter.limiting.takers import checked_tokens
from rate_limiter.limiting.wait_time import cost_to_peek, decisions_behind
from rate_limiter.limiting.waiting import Patience, Sleep, ThreadWaiter, checked_request, wait_steps


class BlockingCalls:
    """Wait for tokens, in order of arrival per key. A base of RateLimiter, without state."""

    __slots__ = ()

    _as_async: ClassVar[Callable[[Any], Any]]
    """AsyncRateLimiter.of, set by async_limiter.py, which imports RateLimiter."""

    def acquire(
        self,
        key: str | bytes,
        cost: Cost = 1,
        timeout: float | None = None,
        *,
        max_waiting: int | None = None,
        limits: Limits | GivenLimits | None = None,
    ) -> Decision:
        """Wait until the request may pass, in order of arrival per key.

        The exception is raised as soon as the request cannot pass within the timeout, at once if
        those ahead make that impossible. No tokens are taken then, nor when the wait is
        interrupted: only an exception that a signal handler raises while the tokens are being
        taken may lose them.

        The order is that of the callers in this process. `allow` and `hit` do not wait and may
        overtake them, see `waiters_first`.

        Args:
            key: str or bytes.
            cost: tokens, a finite number >= 0; or a tuple of them, one for each limit.
            timeout: maximum wait in seconds; None waits as long as it takes.
            max_waiting: number of callers that may wait for the key. If so many wait already, and
                this one would have to wait, it is refused at once. None for any number.
            limits: as for hit(). The order is that of the callers with the same limits.

        Returns:
            The Decision that allowed the request.

        Raises:
            RateLimitExceeded: the request cannot pass within `timeout`, or never, or too many wait.
                Its `retry_after` counts those ahead.
            TypeError, ValueError: a bad key, cost, timeout or max_waiting.
        """
        patience = Patience(timeout, max_waiting)
        limiter = self._under(limits)
        waiter = ThreadWaiter(limiter, *checked_request(limiter, key, cost))
        steps = wait_steps(waiter, key, patience)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Sleep):
                    waiter.sleep(step.seconds)
                    step = steps.send(None)
                else:
                    step = steps.send(getattr(waiter.limiter, step.method)(key, step.cost))
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
    ) -> Reservation:
        """Return a block for work whose cost is known only when it is done.

        ``with limiter.reserve(key, cost=(1, 2000)) as reservation:`` takes the cost when it begins.
        ``reservation.settle((1, used))`` in the block replaces it by what was used: the rest is
        given back, or charged. Without it the reserved cost stands. An exception in the block,
        before settle(), gives everything back.

        Args:
            key: str or bytes.
            cost: tokens to take, a finite number >= 0; or a tuple of them, one for each limit.
            timeout: how long the beginning of the block waits for the tokens, in seconds: 0 does
                not wait, None waits as long as it takes.
            max_waiting, limits: as for acquire().

        Returns:
            A Reservation, which `with` begins. It raises RateLimitExceeded as acquire() does.

        Raises:
            TypeError, ValueError: a bad key, cost, timeout or max_waiting.
        """
        limiter = self._under(limits)
        tokens = checked_tokens(limiter, key, cost)
        return Reservation(limiter, key, tokens, Patience(timeout, max_waiting))

    def slot(
        self,
        key: str | bytes,
        cost: Cost = 1,
        timeout: float | None = None,
        *,
        limits: Limits | None = None,
    ) -> Slot:
        """Return a block that waits for its turn: ``with limiter.slot("api"):``.

        The block begins as acquire() returns, and raises what acquire() raises. The tokens stay
        taken when it ends. Arguments are those of acquire().
        """
        return Slot(self._under(limits), key, cost, timeout)

    def limited(
        self,
        key: CallKey,
        cost: Cost = 1,
        timeout: float | None = None,
        *,
        limits: Limits | None = None,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Return a decorator: each call of the function waits for its turn, as with acquire().

        Functions block their thread; coroutine functions are awaited.

        Args:
            key: str, bytes, or a function that returns the key. It gets the arguments of the call.
            cost, timeout, limits: as for acquire().

        Raises:
            TypeError, ValueError: a bad key, cost or timeout, or the function is a generator.
            RateLimitExceeded: from a call that cannot pass within `timeout`.
        """
        asynchronous = type(self)._as_async(self)._under(limits)
        return limited(self._under(limits), asynchronous, key, cost, timeout)

    def _under(self, limits: Limits | GivenLimits | None) -> Any:
        """Return a limiter with the limits of a call; this one without any."""
        return self if limits is None else GivenLimiter(self, given_limits(limits))

    def _behind_waiters(
        self, key: str | bytes, cost: Cost = 1, limits: GivenLimits | None = None, /
    ) -> tuple[Decision, ...] | None:
        """Return the denial of a request that would overtake waiters, and one for each limit."""
        limiter = self._under(limits)
        name, tokens = checked_request(limiter, key, cost)
        costs = [*limiter._lines.costs(name), tokens]
        if len(costs) == 1:
            return None
        each = limiter._peek_each(key, cost_to_peek(limiter.limits, costs))[1:]
        decisions = decisions_behind(limiter.limits, each, costs)
        return None if decisions[0] else decisions

"""What reservations, slots and decorators need of a limiter."""

from __future__ import annotations

from typing import Any, Protocol, cast

from rate_limiter import _core
from rate_limiter._core import Decision
from rate_limiter.limit import Cost, Limit
from rate_limiter.limiting.wait_time import costs_of


class HasLimits(Protocol):
    """A limiter of either kind."""

    @property
    def limits(self) -> tuple[Limit, ...]: ...


class Taker(HasLimits, Protocol):
    """A RateLimiter."""

    def acquire(
        self,
        key: str | bytes,
        cost: Cost = 1,
        timeout: float | None = None,
        *,
        max_waiting: int | None = None,
    ) -> Decision: ...

    def peek(self, key: str | bytes, cost: Cost = 1) -> Decision: ...

    def charge(self, key: str | bytes, cost: Cost = 1) -> Decision: ...

    def refund(self, key: str | bytes, cost: Cost = 1) -> None: ...


class AsyncTaker(HasLimits, Protocol):
    """An AsyncRateLimiter."""

    @property
    def _limiter(self) -> Taker: ...

    async def acquire(
        self,
        key: str | bytes,
        cost: Cost = 1,
        timeout: float | None = None,
        *,
        max_waiting: int | None = None,
    ) -> Decision: ...

    async def charge(self, key: str | bytes, cost: Cost = 1) -> Decision: ...

    async def refund(self, key: str | bytes, cost: Cost = 1) -> None: ...


def checked_tokens(limiter: HasLimits, key: str | bytes, cost: Cost) -> tuple[float, ...]:
    """Return the tokens of each limit for a cost.

    Raises:
        TypeError, ValueError: the key or the cost is wrong.
    """
    # In memory, whatever the store: it checks both.
    given = getattr(limiter, "_given", None)  # of a limiter with given limits
    engine = limiter if given is None else cast(Any, limiter)._limiter
    _core.Limiter.peek(cast("_core.Limiter", engine), key, cost, given)
    return tuple(map(float, costs_of(limiter.limits, cost)))

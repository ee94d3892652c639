"""Reservations: take what work may cost at most, and settle what it has cost."""

from __future__ import annotations

import contextlib
import math
from types import TracebackType

from rate_limiter._core import Decision, StoreError
from rate_limiter.limit import Cost, Limit
from rate_limiter.limiting.takers import AsyncTaker, HasLimits, Taker, checked_tokens
from rate_limiter.limiting.waiting import Patience

Tokens = tuple[float, ...]


class BaseReservation:
    """What both kinds of reservation share.

    Attributes:
        key: the key.
        cost: the reserved tokens, one number for each limit.
        decision: the Decision that allowed it; None before the block.
        used: the settled tokens, one number for each limit; None before settle().
    """

    def __init__(
        self, limiter: HasLimits, key: str | bytes, cost: tuple[float, ...], patience: Patience
    ) -> None:
        self.key = key
        self.cost = cost
        self.decision: Decision | None = None
        self.used: Tokens | None = None
        self._limits = limiter.limits
        self._patience = patience
        self._has_begun = False
        self._has_ended = False

    def _begin(self) -> None:
        if self._has_begun:
            raise RuntimeError("a reservation is for one block: call reserve() again")
        self._has_begun = True

    def _settle(self, used: Tokens) -> tuple[Tokens, Tokens]:
        """Mark it as settled; return what must be given back and what must be charged."""
        if self.decision is None:
            raise RuntimeError("settle() belongs inside the block: nothing is reserved yet")
        if self._has_ended:
            raise RuntimeError(
                f"settle({used!r}) came after the block, which has ended the reservation"
            )
        if self.used is not None:
            raise RuntimeError(
                f"the reservation is settled already, with {self.used!r}; got {used!r}"
            )
        self.used = used
        more = [
            _taken(limit, after) - _taken(limit, before)
            for limit, before, after in zip(self._limits, self.cost, used, strict=True)
        ]
        return tuple(max(0.0, -one) for one in more), tuple(max(0.0, one) for one in more)

    def _end(self, error: BaseException | None) -> bool:
        """End the reservation. Return whether all must be given back."""
        self._has_ended = True
        return error is not None and self.used is None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(cost={self.cost!r}, used={self.used!r})"


class Reservation(BaseReservation):
    """Tokens that a block may use, see RateLimiter.reserve."""

    def __init__(self, limiter: Taker, key: str | bytes, cost: Tokens, patience: Patience) -> None:
        super().__init__(limiter, key, cost, patience)
        self._limiter = limiter

    def settle(self, used: Cost) -> None:
        """Replace the reserved cost by what was used: charge the rest, or give it back.

        A charge beyond the capacity becomes a debt of at most one capacity, as for
        RateLimiter.charge. After it, an exception in the block gives nothing back.

        Args:
            used: tokens, a finite number >= 0; or a tuple of them, one for each limit.

        Raises:
            RuntimeError: it was settled before, or the block has ended or not begun.
            TypeError, ValueError: bad tokens. Nothing has changed.
            StoreError: the store gave no answer, see `on_store_error`.
        """
        less, more = self._settle(checked_tokens(self._limiter, self.key, used))
        try:
            if any(less):
                self._limiter.refund(self.key, less)
        finally:
            if any(more):
                self._limiter.charge(self.key, more)

    def __enter__(self) -> Reservation:
        self._begin()
        patience = self._patience
        self.decision = self._limiter.acquire(
            self.key, self.cost, patience.timeout, max_waiting=patience.max_waiting
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._end(error):
            with contextlib.suppress(StoreError):  # the exception of the block matters more
                self._limiter.refund(self.key, self.cost)


class AsyncReservation(BaseReservation):
    """Tokens that a block may use, see AsyncRateLimiter.reserve."""

    def __init__(
        self, limiter: AsyncTaker, key: str | bytes, cost: Tokens, patience: Patience
    ) -> None:
        super().__init__(limiter, key, cost, patience)
        self._limiter = limiter

    async def settle(self, used: Cost) -> None:
        """Replace the reserved cost by what was used. See Reservation.settle.

        It is done even if the task is cancelled while it waits for the store.
        """
        less, more = self._settle(checked_tokens(self._limiter._limiter, self.key, used))
        try:
            if any(less):
                await self._limiter.refund(self.key, less)
        finally:
            if any(more):
                await self._limiter.charge(self.key, more)

    async def __aenter__(self) -> AsyncReservation:
        self._begin()
        patience = self._patience
        self.decision = await self._limiter.acquire(
            self.key, self.cost, patience.timeout, max_waiting=patience.max_waiting
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._end(error):
            with contextlib.suppress(StoreError):
                await self._limiter.refund(self.key, self.cost)


def _taken(limit: Limit, tokens: float) -> float:
    """Return what a request of a cost takes: a window counts whole requests."""
    return math.ceil(tokens) if limit.is_window else tokens

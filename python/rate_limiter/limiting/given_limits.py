"""Limits that are given with a call: ``limiter.hit(key, limits="100/minute")``.

The engine decides under any limits in one table, see csrc/python/limiter_given.c. Here texts are
read, each once, and callers of `acquire` with the same key and the same limits form a line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from functools import lru_cache, partial
from typing import Any, cast

from rate_limiter._core import Decision, GivenLimits
from rate_limiter.checks.redaction import shown
from rate_limiter.limit import Cost, Limit, Limits, as_limits
from rate_limiter.limiting.clocks import ManualClock
from rate_limiter.limiting.waiting import Lines, line_key

KEPT = 1024
"""The number of different limits that are kept after they were read."""


@lru_cache(maxsize=KEPT)
def _read(limits: Any) -> GivenLimits:
    return GivenLimits(
        tuple((one, one.for_engine, one.period_s, one.edge_s) for one in as_limits(limits))
    )


def given_limits(limits: Limits | GivenLimits) -> GivenLimits:
    """Return limits of a call, prepared for the engine.

    Raises:
        TypeError: `limits` is something else.
        ValueError: a text is malformed, there are too many limits, or one needs more than 8 years
            to refill.
    """
    if isinstance(limits, GivenLimits):
        return limits
    if isinstance(limits, (str, Limit)):
        return _read(limits)
    if isinstance(limits, tuple):
        with contextlib.suppress(TypeError):  # it holds something else, which below names
            return _read(limits)
    if isinstance(limits, Iterable) and not isinstance(limits, bytes):
        return _read(as_limits(limits))
    raise TypeError(f"limits must be a text, a Limit or several, got {shown(limits)}")


def shape_of(given: GivenLimits) -> str:
    """Return a text that is the same for limits whose buckets are in one table."""
    if not given.has_windows:
        return "buckets"
    return "; ".join(map(_kind_of, given.limits))


def _kind_of(limit: Limit) -> str:
    if not limit.is_window:
        return "bucket"
    unit = f"{limit.unit} {limit.tz}" if limit.unit else f"{limit.window_s}"
    return f"{limit.algorithm} {limit.start} {unit}"


def lines_of_given(lines: Lines, *, make: bool = False) -> Lines | None:
    """Return the lines of those who wait with limits, beside the lines of those without.

    Args:
        lines: those without.
        make: make them if there are none; else return None.
    """
    return Lines.of("given", lines) if make else Lines.known("given", lines)


class GivenLimiter:
    """A RateLimiter whose calls all give the same limits.

    Args:
        limiter: the RateLimiter.
        given: the limits.

    Attributes:
        limits: these, as a tuple.
    """

    def __init__(self, limiter: Any, given: GivenLimits) -> None:
        self._limiter = limiter
        self._given = given
        self._clock = limiter._clock
        self._lines = cast(Lines, lines_of_given(limiter._lines, make=True))
        if isinstance(self._clock, ManualClock):
            self._clock._wake_when_moved(self._lines)
        self.limits: tuple[Limit, ...] = given.limits
        of_limiter = getattr(limiter, "call_async", None)  # of a remote one
        self.call_async = None if of_limiter is None else partial(_call_given, of_limiter, given)

    def line_of(self, key: str | bytes) -> bytes:
        """Return the name of the line of a key."""
        return b"\0".join((line_key(key), "; ".join(map(str, self.limits)).encode()))

    def _take(self, key: str | bytes, cost: Cost = 1) -> Decision:
        return cast(Decision, self._limiter._take(key, cost, self._given))

    def _peek_each(self, key: str | bytes, cost: Cost = 1) -> tuple[Decision, ...]:
        return cast("tuple[Decision, ...]", self._limiter._peek_each(key, cost, self._given))

    def acquire(
        self,
        key: str | bytes,
        cost: Cost = 1,
        timeout: float | None = None,
        *,
        max_waiting: int | None = None,
    ) -> Decision:
        return cast(
            Decision,
            self._limiter.acquire(key, cost, timeout, max_waiting=max_waiting, limits=self._given),
        )

    def peek(self, key: str | bytes, cost: Cost = 1) -> Decision:
        return cast(Decision, self._limiter.peek(key, cost, self._given))

    def charge(self, key: str | bytes, cost: Cost = 1) -> Decision:
        return cast(Decision, self._limiter.charge(key, cost, self._given))

    def refund(self, key: str | bytes, cost: Cost = 1) -> None:
        self._limiter.refund(key, cost, self._given)


async def _call_given(
    call_async: Any, given: GivenLimits, method: str, key: str | bytes, cost: Cost
) -> Any:
    return await call_async(method, key, cost, given)


class AsyncGivenLimiter:
    """An AsyncRateLimiter whose calls all give the same limits. See GivenLimiter."""

    def __init__(self, limiter: Any, given: GivenLimits) -> None:
        self._async = limiter
        self._given = given
        self._limiter = GivenLimiter(limiter._limiter, given)
        self.limits: tuple[Limit, ...] = given.limits

    async def acquire(
        self,
        key: str | bytes,
        cost: Cost = 1,
        timeout: float | None = None,
        *,
        max_waiting: int | None = None,
    ) -> Decision:
        return cast(
            Decision,
            await self._async.acquire(
                key, cost, timeout, max_waiting=max_waiting, limits=self._given
            ),
        )

    async def charge(self, key: str | bytes, cost: Cost = 1) -> Decision:
        return cast(Decision, await self._async.charge(key, cost, self._given))

    async def refund(self, key: str | bytes, cost: Cost = 1) -> None:
        await self._async.refund(key, cost, self._given)

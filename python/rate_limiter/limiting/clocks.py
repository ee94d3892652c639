"""Clocks: what limiters in memory read the time from, for programs and for tests."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal, Protocol, TypeAlias

from rate_limiter import _core


class HasWaiters(Protocol):
    """Something in which callers wait for the time of a clock."""

    def wake_all(self) -> None:
        """Wake all of them to look at the time."""


class ManualClock(_core.ManualClock):
    """Keep a time that moves only when a test moves it: a limiter's clock in tests.

    Callers that wait in `acquire` of a limiter with this clock wait for this time too, their
    `timeout` included: moving the clock wakes them. Safe to share between limiters and threads, and
    to move in a signal handler.

    Args:
        now_ns: the time in nanoseconds.

    Attributes:
        now_ns: the time in nanoseconds.

    Raises:
        ValueError: the time would leave the range 0 to 2**62 - 1 ns.
    """

    __slots__ = ("__weakref__", "_watching")

    def __new__(cls, now_ns: int = 0) -> ManualClock:
        self = super().__new__(cls, now_ns)
        self._watching = weakref.WeakValueDictionary()
        return self

    _watching: weakref.WeakValueDictionary[int, HasWaiters]

    def advance(self, seconds: float, /) -> None:
        """Move the clock by a number of seconds, which may be negative."""
        super().advance(seconds)
        self._wake()

    def advance_ns(self, step_ns: int, /) -> None:
        """Move the clock by a number of nanoseconds, which may be negative."""
        super().advance_ns(step_ns)
        self._wake()

    def set_ns(self, now_ns: int, /) -> None:
        """Set the clock to a time in nanoseconds."""
        super().set_ns(now_ns)
        self._wake()

    def _wake_when_moved(self, waiters: HasWaiters) -> None:
        """Wake waiters each time the clock moves, as long as something else refers to them."""
        self._watching[id(waiters)] = waiters

    def _wake(self) -> None:
        # A list of references, since a signal handler may make another limiter during the loop.
        for ref in self._watching.valuerefs():
            waiters = ref()
            if waiters is not None:
                waiters.wake_all()


Clock: TypeAlias = Literal["monotonic", "coarse"] | ManualClock | Callable[[], float]
"""The values of `clock`; a callable returns seconds as a float or an int."""


def now_s(clock: object) -> float:
    """Return the time by which callers of a limiter with this clock wait, in seconds."""
    return clock.now_ns / 1e9 if isinstance(clock, ManualClock) else time.monotonic()


def longest_sleep_s(clock: object, wait_s: float) -> float:
    """Return the real seconds after which a caller that has to wait should look again.

    The time of a ManualClock does not pass: moving it wakes the caller.
    """
    return math.inf if isinstance(clock, ManualClock) else wait_s


def named_clock(clock: Any) -> Any:
    """Return a clock given as an object or as the text ``"package.module:name"``.

    Raises:
        ValueError: the text names no object that can be imported.
    """
    if not isinstance(clock, str) or ":" not in clock:
        return clock
    module, _, name = clock.partition(":")
    try:
        found: Any = import_module(module)
        for one in name.split("."):
            found = getattr(found, one)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{clock!r} cannot be imported: {error}") from error
    return found

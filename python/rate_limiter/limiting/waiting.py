"""Wait for tokens in order of arrival: the logic of `acquire`, for threads and for tasks.

Callers that wait for a key join its line. Only the first in a line calls the limiter; the others
sleep until they are first. `wait_steps` contains the whole logic and yields the next step, so the
blocking and the asynchronous `acquire` differ only in how they do a step.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from rate_limiter._core import Decision
from rate_limiter.exceptions import RateLimitExceeded


class Waiter(Protocol):
    """A caller in a line."""

    def wake(self) -> bool:
        """Wake the caller to check the line; return False if it no longer exists."""


class ThreadWaiter:
    """A thread in a line."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def wake(self) -> bool:
        self._event.set()
        return True

    def sleep(self, seconds: float) -> None:
        """Sleep until woken, for at most `seconds`, which may be inf."""
        self._event.wait(min(seconds, threading.TIMEOUT_MAX))
        self._event.clear()


class TaskWaiter:
    """An asyncio task in a line."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def wake(self) -> bool:
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:  # the loop was closed with the task still waiting
            return False
        return True

    async def sleep(self, seconds: float) -> None:
        """Sleep until woken, for at most `seconds`, which may be inf."""
        timer = None
        if math.isfinite(seconds):
            timer = self._loop.call_later(seconds, self._event.set)
        try:
            await self._event.wait()
        finally:
            if timer is not None:
                timer.cancel()
        self._event.clear()


class Lines:
    """The lines of waiters, one per key, for threads and event loops together."""

    def __init__(self) -> None:
        # Re-entrant: collecting an abandoned task as garbage makes it leave its line, at any time.
        self._lock = threading.RLock()
        self._lines: dict[bytes, deque[Waiter]] = {}

    def join(self, key: bytes, waiter: Waiter) -> None:
        """Add a waiter at the end of the line of `key`."""
        with self._lock:
            self._lines.setdefault(key, deque()).append(waiter)

    def leave(self, key: bytes, waiter: Waiter) -> None:
        """Remove a waiter from any place in the line."""
        with self._lock:
            line = self._lines.get(key, deque())
            if waiter in line:
                line.remove(waiter)
            self.wake(key)

    def is_first(self, key: bytes, waiter: Waiter) -> bool:
        """Return True if the waiter is the first in its line."""
        with self._lock:
            return self._lines[key][0] is waiter

    def wake(self, key: bytes) -> None:
        """Wake the first in line; remove waiters that no longer exist."""
        with self._lock:
            line = self._lines.get(key, deque())
            while line and not line[0].wake():
                line.popleft()
            if not line:
                self._lines.pop(key, None)


def line_key(key: str | bytes) -> bytes:
    """Return a key as bytes, as the engine uses it."""
    return key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Sleep:
    """A step of `wait_steps`: sleep until woken, for at most `seconds`, which may be inf."""

    seconds: float


Step: TypeAlias = "Sleep | Literal['hit', 'peek']"


def wait_steps(
    lines: Lines, waiter: Waiter, key: str | bytes, timeout: float | None
) -> Generator[Step, Decision | None, Decision]:
    """Yield the next step until the request is allowed.

    For ``"hit"`` and ``"peek"`` the caller calls that method and sends back its Decision. Closing
    the generator leaves the line without taking tokens.

    Args:
        lines: the lines of the limiter.
        waiter: the caller.
        key: as for `Limiter.hit`.
        timeout: maximum wait in seconds, None for no maximum.

    Returns:
        The Decision that allowed the request.

    Raises:
        RateLimitExceeded: the request cannot pass within `timeout`, or never.
        TypeError, ValueError: as `Limiter.hit`, and for a timeout that is negative or NaN.
    """
    deadline_s = time.monotonic() + _checked(timeout)
    decision = yield from _decide("peek")
    line = line_key(key)
    lines.join(line, waiter)
    try:
        while not math.isinf(decision.retry_after):
            left_s = deadline_s - time.monotonic()
            sleep_s = math.inf
            if lines.is_first(line, waiter):
                decision = yield from _decide("hit")
                if decision:
                    return decision
                sleep_s = decision.retry_after
            elif left_s <= 0:
                decision = yield from _decide("peek")
            if left_s <= 0 or left_s < sleep_s < math.inf:
                break
            yield Sleep(min(sleep_s, left_s))
        raise RateLimitExceeded(decision, key)
    finally:
        lines.leave(line, waiter)


def _decide(step: Literal["hit", "peek"]) -> Generator[Step, Decision | None, Decision]:
    decision = yield step
    assert decision is not None  # the caller of the generator sends one
    return decision


def _checked(timeout: float | None) -> float:
    if timeout is None:
        return math.inf
    if not timeout >= 0:
        raise ValueError(f"timeout must be None or a number of seconds >= 0, got {timeout!r}")
    return timeout

"""Wait for tokens in order of arrival: a state machine for threads and for tasks.

Callers of `acquire` with the same key stand in one line. `wait_steps` is the whole machine; it
yields what to do next, so the blocking and the asynchronous `acquire` differ only in how they do
a step::

               join                  the one ahead leaves           allowed, refused,
    outside ──────────> behind ─────────────────────────> first     too late, interrupted
       ^                  │                               │   ^    ────────────────────> outside
       └── leave ─────────┘                     denied:   └───┘
           refused, too late, interrupted       sleep until `retry_after` or woken

These hold at each step, in whatever thread and event loop the callers are:

1. Only the first in a line takes tokens. One whose time is up may do so as well, if there are
   enough for all that are ahead.
2. A caller that leaves a line wakes the first. So do `refund`, `reset` and `with_limits`. A wake
   between two steps is not lost: the next sleep ends at once.
3. A caller leaves in a `finally`, twice and in two frames: an exception that a signal handler
   raises in one of them does not stop the other.
4. A caller that cannot run, because its event loop is closed or stopped, keeps no other from being
   first: joining, leaving, waking and looking at the line remove it. If it runs again, it joins
   at the end.
5. No sleep is longer than `LONGEST_SLEEP_S`, and then the caller looks again. So neither a lost
   wake nor a reset by another process makes a caller wait without end.
6. A forked child has empty lines and a new lock. A thread that forks while it waits joins again.
7. A signal handler may do anything with a limiter: the lock is re-entrant, and each change of a
   line is a single operation of a deque or a dict, between which the line is consistent. A request
   that others in its thread wait for, such as one in a handler, joins ahead of them.
8. With a ManualClock, callers wait for the time of that clock. Each move of it wakes all of them.

A caller may be in two lines while `with_limits` moves it; it then leaves both.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

from rate_limiter._core import Decision
from rate_limiter.checks.arguments import checked_whole
from rate_limiter.exceptions import RateLimitExceeded
from rate_limiter.limit import Cost, Limit
from rate_limiter.limiting.clocks import longest_sleep_s, now_s
from rate_limiter.limiting.takers import HasLimits, checked_tokens
from rate_limiter.limiting.wait_time import cost_to_peek, costs_of, decisions_behind
from rate_limiter.stores.connection import running_loop

LONGEST_SLEEP_S = 60.0
"""Longest time until the first in a line tries again."""
LONGEST_SLEEP_BEHIND_S = 5.0
"""Longest time until one that is behind looks whether those ahead are still there."""

# Guards all lines. There is one lock, because the garbage collector may run at any time and make
# abandoned tasks leave their lines: two threads with a lock each could then wait for each other.
_lock = threading.RLock()


class HasLines(Protocol):
    """A limiter, or something else whose callers wait for each other."""

    _lines: Lines
    _clock: Any
    limits: tuple[Limit, ...]


class Waiter:
    """A caller that waits.

    Args:
        limiter: the limiter that decides. `with_limits` replaces it.
        key: the key, as the engine uses it.
        cost: tokens.
    """

    blocks_thread: ClassVar[bool]

    def __init__(self, limiter: HasLines, key: bytes = b"", cost: Cost = 0) -> None:
        self.limiter = limiter
        self.key = key
        self.cost = cost
        self.thread = threading.get_ident()
        self.joined: list[Lines] = []

    def now_s(self) -> float:
        """Return the time of its deadline, in seconds."""
        return now_s(self.limiter._clock)

    @property
    def costs(self) -> tuple[float, ...]:
        """The tokens for each limit."""
        return costs_of(self.limiter.limits, self.cost)

    def can_run(self) -> bool:
        """Return True if the caller can continue when it is woken."""
        return True

    def wake(self) -> None:
        """Wake the caller to look at its line."""
        raise NotImplementedError

    def join(self) -> None:
        """Join the line."""
        with _lock:
            self.limiter._lines.join(self)

    def is_first(self) -> bool:
        """Return True if the caller is the first in its line. It joins if it was removed."""
        with _lock:
            lines = self.limiter._lines
            if not lines.has(self):
                lines.join(self)
            return lines.first(self.key) is self

    def leave(self) -> None:
        """Leave all lines and wake those who are first then. May be called more than once."""
        while self.joined:
            lines = self.joined[-1]
            lines.leave(self)
            self.joined.remove(lines)  # the last thing: an interrupted call does it again


class ThreadWaiter(Waiter):
    """A thread in a line."""

    blocks_thread = True

    def __init__(self, limiter: HasLines, key: bytes = b"", cost: Cost = 0) -> None:
        super().__init__(limiter, key, cost)
        # Not an Event, which stays locked if a signal handler raises an exception in it.
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is awake, or was woken before
            self._asleep.release()

    def sleep(self, seconds: float | None) -> None:
        """Sleep until woken, for at most `seconds`; None for no limit."""
        if seconds is None:
            self._asleep.acquire()
        else:
            self._asleep.acquire(True, seconds)


class TaskWaiter(Waiter):
    """An asyncio task in a line."""

    blocks_thread = False

    def __init__(self, limiter: HasLines, key: bytes = b"", cost: Cost = 0) -> None:
        super().__init__(limiter, key, cost)
        self._loop = running_loop()
        self._woken = asyncio.Event()

    def can_run(self) -> bool:
        return self._loop.is_running()

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed with the task still waiting
            self._loop.call_soon_threadsafe(self._woken.set)

    async def sleep(self, seconds: float | None) -> None:
        """Sleep until woken, for at most `seconds`; None for no limit."""
        timer = None if seconds is None else self._loop.call_later(seconds, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            if timer is not None:
                timer.cancel()
        self._woken.clear()


class Lines:
    """The lines of waiters for one set of buckets, one line per key."""

    def __init__(self) -> None:
        self._lines: dict[bytes, deque[Waiter]] = {}
        self._absent: weakref.WeakSet[Waiter] = weakref.WeakSet()  # removed, and may join again
        with _lock:
            _all.add(self)

    @classmethod
    def of(cls, *buckets: object) -> Lines:
        """Return the lines of buckets that several limiters of this process may share."""
        with _lock:
            lines = _by_buckets.get(buckets)
            if lines is None:
                lines = _by_buckets[buckets] = cls()
            return lines

    @classmethod
    def known(cls, *buckets: object) -> Lines | None:
        """Return what of() returned for these buckets, if anything still uses it."""
        return _by_buckets.get(buckets)

    def join(self, waiter: Waiter) -> None:
        """Add a waiter at the end of its line, or ahead of those that it keeps from running."""
        if self not in waiter.joined:
            waiter.joined.append(self)
        with _lock:
            line = self._lines.get(waiter.key)
            if line is None:
                line = deque()
            line.insert(_place(line, waiter), waiter)
            self._lines[waiter.key] = line  # again: a signal handler may have removed it

    def leave(self, waiter: Waiter) -> None:
        """Remove a waiter from any place in its line and wake the first."""
        with _lock:
            self._remove(waiter)
            self.wake(waiter.key)

    def has(self, waiter: Waiter) -> bool:
        """Return True if the waiter is in its line."""
        with _lock:
            return waiter in self._lines.get(waiter.key, ())

    def first(self, key: bytes) -> Waiter | None:
        """Return the first in the line of a key, after removing those that cannot run.

        One that becomes the first is woken. One that is removed joins again when it runs.
        """
        with _lock:
            first, is_new = _front(self._lines.get(key)), False
            while first is not None and not first.can_run():
                self._absent.add(first)
                self._remove(first)
                first.wake()
                first, is_new = _front(self._lines.get(key)), True
            if first is not None and is_new:
                first.wake()
            return first

    def wake(self, key: bytes) -> None:
        """Wake the first in the line of a key."""
        if key not in self._lines:  # read without the lock: who joins now looks later
            return
        with _lock:
            first = self.first(key)
            if first is not None:
                first.wake()

    def wake_all(self) -> None:
        """Wake all that wait for any key."""
        if not self._lines:
            return
        with _lock:
            for line in tuple(self._lines.values()):
                for waiter in tuple(line):
                    waiter.wake()

    def costs(self, key: bytes, until: Waiter | None = None) -> list[tuple[float, ...]]:
        """Return the costs of those who wait for a key, or of those ahead of one of them."""
        costs = []
        with _lock:
            for each in tuple(self._lines.get(key, ())):
                if each is until:
                    break
                if each.can_run():
                    costs.append(each.costs)
        return costs

    def hand_over(self, before: HasLines, after: HasLines) -> None:
        """Let another limiter decide for those who wait for a limiter."""
        with _lock:
            for key, line in tuple(self._lines.items()):
                for waiter in tuple(line):
                    if waiter.limiter is before:
                        self._move(waiter, after)
                self.wake(key)
                after._lines.wake(key)
            for waiter in tuple(self._absent):
                if waiter.limiter is before:
                    waiter.limiter = after
                    after._lines._absent.add(waiter)

    def after_fork_in_child(self) -> None:
        """Remove those who wait: threads and tasks of the parent.

        Only the thread that forked, which may do so in a signal handler, continues here.
        """
        here = threading.get_ident()
        lines = tuple(self._lines.values())
        self._lines.clear()
        for waiter in (one for line in lines for one in line):
            if waiter.blocks_thread and waiter.thread == here:
                self._absent.add(waiter)
                waiter.wake()

    def _move(self, waiter: Waiter, after: HasLines) -> None:
        waiter.limiter = after
        if after._lines is not self:
            after._lines.join(waiter)
            self._remove(waiter)

    def _remove(self, waiter: Waiter) -> None:
        line = self._lines.get(waiter.key)
        try:
            if line is not None:
                line.remove(waiter)
        except ValueError:  # it was removed before
            pass
        if not line:
            self._lines.pop(waiter.key, None)


def _front(line: deque[Waiter] | None) -> Waiter | None:
    try:
        return line[0] if line is not None else None
    except IndexError:
        return None


def _place(line: deque[Waiter], waiter: Waiter) -> int:
    """Return where a waiter joins: a thread ahead of those that run only when it returns."""
    if waiter.blocks_thread:
        for i, other in enumerate(tuple(line)):
            if other.thread == waiter.thread:
                return i
    return len(line)


_all: weakref.WeakSet[Lines] = weakref.WeakSet()
_by_buckets: weakref.WeakValueDictionary[tuple[object, ...], Lines] = weakref.WeakValueDictionary()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()  # a thread of the parent process may hold the old one
    for lines in tuple(_all):
        lines.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def line_key(key: str | bytes) -> bytes:
    """Return a key as bytes, as the engine uses it."""
    return key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")


def checked_request(
    limiter: HasLimits, key: str | bytes, cost: Cost
) -> tuple[bytes, tuple[float, ...]]:
    """Return the key and the cost of each limit for a Waiter.

    Raises:
        TypeError, ValueError: one of them is wrong.
    """
    tokens = checked_tokens(limiter, key, cost)
    line_of = getattr(limiter, "line_of", line_key)  # of a limiter with given limits
    return line_of(key), tokens


# --- The steps -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Sleep:
    """A step of `wait_steps`: sleep until woken, for at most `seconds`."""

    seconds: float


@dataclass(slots=True)
class Ask:
    """A step of `wait_steps`: call a method of the waiter's limiter and send back the result."""

    method: Literal["_take", "_peek_each"]
    cost: Cost


Step: TypeAlias = Sleep | Ask
Steps: TypeAlias = Generator[Step, Any, Decision]


@dataclass(slots=True)
class Patience:
    """How long a caller waits, and how many may wait before it does.

    Raises:
        TypeError, ValueError: a value is wrong; the message names it.
    """

    timeout: float | None = None
    max_waiting: int | None = None

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.timeout >= 0:
            raise ValueError(
                f"timeout must be None or a number of seconds >= 0, got {self.timeout!r}"
            )
        if self.max_waiting is not None and checked_whole("max_waiting", self.max_waiting) < 0:
            raise ValueError(
                f"max_waiting must be None or a whole number >= 0, got {self.max_waiting!r}"
            )

    @property
    def is_endless(self) -> bool:
        """Whether the caller waits as long as it takes."""
        return self.timeout in (None, math.inf) and self.max_waiting is None

    def deadline_s(self, now_s: float) -> float:
        """Return the time of the end if the wait begins now."""
        return math.inf if self.timeout is None else now_s + self.timeout

    def forbids(self, waiting: int) -> bool:
        """Return True if the caller may not wait after so many others."""
        return self.max_waiting is not None and waiting >= self.max_waiting


def wait_steps(waiter: Waiter, key: str | bytes, patience: Patience) -> Steps:
    """Yield the next step until the request is allowed.

    For an Ask the caller calls that method of `waiter.limiter` and sends back the result. Closing
    the generator leaves the line without taking tokens.

    Args:
        waiter: the caller.
        key: as for `RateLimiter.hit`, for the exception.
        patience: when to give up.

    Returns:
        The Decision that allowed the request.

    Raises:
        RateLimitExceeded: the request cannot pass in time, or never; with a Decision that denies
            it and whose `retry_after` counts those ahead.
    """
    deadline_s = patience.deadline_s(waiter.now_s())
    try:
        waiter.join()
        decision = yield from _join_steps(waiter, patience, deadline_s)
        while decision is None:
            decision = yield from _turn_steps(waiter, patience, deadline_s)
    finally:
        waiter.leave()
    if not decision:
        raise RateLimitExceeded(decision, key)
    return decision


def _join_steps(
    waiter: Waiter, patience: Patience, deadline_s: float
) -> Generator[Step, Any, Decision | None]:
    """Return a denial if waiting behind the others is hopeless or not allowed, else None."""
    if waiter.is_first():
        return None
    ahead = waiter.limiter._lines.costs(waiter.key, waiter)
    decision = yield from _look_steps(waiter, [] if patience.is_endless else ahead)
    wait_s = decision.retry_after
    if decision:
        return None
    is_hopeless = math.isinf(wait_s) or waiter.now_s() + wait_s > deadline_s
    return decision if is_hopeless or patience.forbids(len(ahead)) else None


def _turn_steps(
    waiter: Waiter, patience: Patience, deadline_s: float
) -> Generator[Step, Any, Decision | None]:
    """Return a decision, or None after a sleep."""
    left_s = deadline_s - waiter.now_s()
    clock = waiter.limiter._clock
    sleep_s = min(longest_sleep_s(clock, left_s), LONGEST_SLEEP_BEHIND_S)
    if waiter.is_first():
        decision: Decision = yield Ask("_take", waiter.cost)
        wait_s = decision.retry_after
        if decision or math.isinf(wait_s) or wait_s > left_s or patience.forbids(0):
            return decision
        sleep_s = min(longest_sleep_s(clock, wait_s), LONGEST_SLEEP_S)
    elif left_s <= 0:
        return (yield from _last_steps(waiter))
    yield Sleep(sleep_s)
    return None


def _last_steps(waiter: Waiter) -> Generator[Step, Any, Decision]:
    """Take tokens if there are enough for those ahead as well; else return a denial."""
    while True:
        ahead = waiter.limiter._lines.costs(waiter.key, waiter)
        decision = yield from _look_steps(waiter, ahead)
        if not decision:
            return decision
        taken: Decision = yield Ask("_take", waiter.cost)
        if taken:
            return taken


def _look_steps(waiter: Waiter, ahead: list[tuple[float, ...]]) -> Generator[Step, Any, Decision]:
    """Return what would be decided if all those ahead were served first."""
    costs = [*ahead, waiter.costs]
    limits = waiter.limiter.limits
    each = yield Ask("_peek_each", cost_to_peek(limits, costs))
    return decisions_behind(limits, each[1:], costs)[0]

"""An event loop that a test can see through: RedisLoop needs no more of one than this."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any

Callback = Callable[..., object]


class PlainFuture:
    """What RedisLoop sets the result of."""

    def __init__(self) -> None:
        self.outcome: object = None
        self.is_set = False

    def done(self) -> bool:
        return self.is_set

    def set_result(self, result: object) -> None:
        self.outcome, self.is_set = result, True

    def set_exception(self, error: BaseException) -> None:
        self.outcome, self.is_set = error, True


class PlainTimer:
    """What call_later returns."""

    def __init__(self, at_s: float, callback: Callback) -> None:
        self.at_s = at_s
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class PlainLoop:
    """Run callbacks when asked to. Tests override a method to act within it."""

    def __init__(self) -> None:
        self.ready: list[Callback] = []
        self.timers: list[PlainTimer] = []
        self.readers: dict[int, tuple[Callback, tuple[Any, ...]]] = {}
        self.writers: dict[int, tuple[Callback, tuple[Any, ...]]] = {}

    def create_future(self) -> Any:
        return PlainFuture()

    def call_soon(self, callback: Callback) -> object:
        self.ready.append(callback)
        return callback

    def call_later(self, delay_s: float, callback: Callback) -> PlainTimer:
        self.timers.append(PlainTimer(time.monotonic() + delay_s, callback))
        return self.timers[-1]

    def add_reader(self, fd: int, callback: Callback, *args: Any) -> None:
        self.readers[fd] = (callback, args)

    def add_writer(self, fd: int, callback: Callback, *args: Any) -> None:
        self.writers[fd] = (callback, args)

    def remove_reader(self, fd: int) -> bool:
        return self.readers.pop(fd, None) is not None

    def remove_writer(self, fd: int) -> bool:
        return self.writers.pop(fd, None) is not None

    def is_closed(self) -> bool:
        return False

    def step(self, most_s: float = 0.05) -> None:
        """Call back once what is ready, waiting so long at most. An exception leaves the rest."""
        was_idle = not self.ready
        for _ in range(len(self.ready)):
            self.ready.pop(0)()
        now_s = time.monotonic()
        due = [timer for timer in self.timers if timer.is_cancelled or timer.at_s <= now_s]
        for timer in due:
            self.timers.remove(timer)
            if not timer.is_cancelled:
                timer.callback()
        found = select.select(list(self.readers), list(self.writers), [], most_s if was_idle else 0)
        for watched, fds in zip((self.readers, self.writers), found[:2], strict=True):
            for fd in fds:
                if fd in watched:
                    callback, args = watched[fd]
                    callback(*args)

    def run_until(self, is_reached: Callable[[], bool], most_s: float = 20) -> None:
        """Call back until a condition holds.

        Raises:
            TimeoutError: it never did.
        """
        until_s = time.monotonic() + most_s
        while not is_reached():
            if time.monotonic() > until_s:
                raise TimeoutError("the condition was not reached")
            self.step()

"""Signals that arrive at a chosen step of a piece of code of this package."""

from __future__ import annotations

import gc
import itertools
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

FOLDER = "rate_limiter/limiting/"


class Interrupted(Exception):
    """What the handler of a signal raises."""


def interrupt() -> None:
    """Raise Interrupted."""
    raise Interrupted


def _is_inside(frame: FrameType | None) -> bool:
    while frame is not None:
        if FOLDER in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


@contextmanager
def signal_at(step: int, action: Callable[[], object]) -> Iterator[list[int]]:
    """Let a signal handler do something at one step of the code in the folder above, or below it.

    A step is one of those after which CPython looks for signals: the beginning of a function and
    the return from one that is written in C. The list that this gives counts them. Steps of logging
    are left out: before CPython 3.13 it would keep its lock, for which other threads then wait.
    """
    count = [0]

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        is_logging = frame.f_code.co_filename == logging.__file__
        if event in ("call", "c_return") and not is_logging and _is_inside(frame):
            count[0] += 1
            if count[0] == step:
                signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda number, frame: action())
    gc.disable()  # an exception in a finalizer would be ignored
    sys.setprofile(profile)
    try:
        yield count
    finally:
        sys.setprofile(None)
        gc.enable()
        signal.signal(signal.SIGUSR1, before)


def at_each_step(work: Callable[[], object], action: Callable[[], object]) -> Iterator[bool]:
    """Do some work again and again, with a signal at each of its steps. Give whether it ended."""
    for step in itertools.count(1):
        with signal_at(step, action) as count:
            try:
                work()
                has_ended = True
            except Interrupted:
                has_ended = False
        if count[0] < step:
            return
        yield has_ended

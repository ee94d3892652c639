"""The limiters that this process has made: those in use, and those made too often."""

from __future__ import annotations

import logging
import traceback
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rate_limiter import _core
from rate_limiter.limit import Limit

logger = logging.getLogger("rate_limiter")

MADE_OFTEN = 100
"""Limiters with the same limits that are made and thrown away before a warning is logged."""
_PACKAGE = Path(__file__).parent.parent
_made: dict[tuple[Limit, ...], _Made] = {}
_in_use: weakref.WeakValueDictionary[int, _core.Limiter] = weakref.WeakValueDictionary()


def note_in_use(limiter: _core.Limiter) -> None:
    """Let limiters_in_use() return a limiter, until it is freed."""
    _in_use[id(limiter)] = limiter


def limiters_in_use() -> list[Any]:
    """Return all limiters of this process, those of rules, routes and decorators included."""
    return [each for ref in _in_use.valuerefs() if (each := ref()) is not None]


@dataclass
class _Made:
    """Limiters in memory with the same limits: how many were made, and which are still in use."""

    count: int = 0
    in_use: weakref.WeakSet[_core.Limiter] = field(default_factory=weakref.WeakSet)
    is_reported: bool = False


def count_made(limiter: _core.Limiter, limits: tuple[Limit, ...]) -> None:
    """Count a limiter in memory; warn if many with its limits were made and thrown away.

    A limiter made in a request handler has full buckets each time, so it limits nothing. Limiters
    that a program keeps, such as one for each route, are fine.
    """
    if len(_made) > 10_000:
        _made.clear()
    made = _made.setdefault(limits, _Made())
    made.in_use.add(limiter)
    made.count += 1
    if made.is_reported or made.count - len(made.in_use) < MADE_OFTEN:
        return
    made.is_reported = True
    caller = _caller()
    logger.warning(
        "%s limiters have been made at %s:%s with the limits %s. Each starts with full "
        "buckets, so one that is made inside a request handler limits nothing: make it once, "
        "where the module is loaded",
        MADE_OFTEN,
        caller.filename,
        caller.lineno,
        "; ".join(map(str, limits)),
    )


def _caller() -> traceback.FrameSummary:
    """Return the innermost frame outside this package."""
    stack = traceback.extract_stack()
    outside = (one for one in reversed(stack) if _PACKAGE not in Path(one.filename).parents)
    return next(outside, stack[0])

"""Warn once about applications whose limits share buckets in a store without a name.

Limiters with a name share buckets on purpose. In memory limiters share nothing, so a program may
count each request twice as soon as it gets a store.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rate_limiter.limit import Limit
    from rate_limiter.limiting.limiter import RateLimiter

logger = logging.getLogger("rate_limiter")

_lock = threading.Lock()  # guards the state below
_holders: weakref.WeakValueDictionary[Hashable, RateLimiter] = weakref.WeakValueDictionary()
_is_reported = False


def note_unnamed(limiter: RateLimiter, place: Hashable, limits: Iterable[Limit]) -> None:
    """Warn, once per process, if the limiter of another application has the same buckets.

    Args:
        limiter: it is not kept alive.
        place: the store, and where in it the buckets are.
        limits: those of the limiter.
    """
    global _is_reported
    with _lock:
        other = _holders.setdefault(place, limiter)
        if other is limiter or _is_reported:
            return
        _is_reported = True
    logger.warning(
        "two applications with the limits '%s' and without a name share their buckets in one "
        "store, so a request that passes both counts twice: give each its own name=, or both the "
        "same name to share them",
        "; ".join(map(str, limits)),
    )

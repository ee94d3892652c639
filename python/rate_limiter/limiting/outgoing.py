"""What the clients for outgoing calls share: keys of servers, and answers that say to wait."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from datetime import timezone
from email.utils import parsedate_to_datetime

from rate_limiter.limit import Limits
from rate_limiter.limiting.limiter import RateLimiter

TOO_MANY_REQUESTS = 429
UNAVAILABLE = 503

MAX_BLOCK_S = 3600.0
"""Default of the longest time for which a server may block a key."""

_SECONDS = re.compile(r"\d+", re.ASCII)


def as_limiter(limiter: RateLimiter | Limits) -> RateLimiter:
    """Return a limiter as it is, or one in memory with these limits."""
    return limiter if isinstance(limiter, RateLimiter) else RateLimiter(limiter)


def checked_max_block(max_block: float) -> float:
    """Return the longest time of a block.

    Raises:
        ValueError: it is not a finite number >= 0.
    """
    if not 0 <= max_block < math.inf:
        raise ValueError(f"max_block must be a finite number of seconds >= 0, got {max_block!r}")
    return max_block


def checked_option(name: str, value: object, kinds: tuple[type, ...]) -> None:
    """Check an option that is a value or a function of the request.

    Raises:
        TypeError: it is neither.
    """
    if not callable(value) and not isinstance(value, kinds):
        names = ", ".join(kind.__name__ for kind in kinds)
        raise TypeError(
            f"{name} must be a function of the request, or {names}, not {type(value).__name__}"
        )


def block_s(
    status: int, retry_after: str | None, max_block: float, now_s: Callable[[], float] = time.time
) -> float:
    """Return for how long an answer of a server asks to wait; 0: it does not.

    Args:
        status: of the answer. Only 429 and 503 ask to wait.
        retry_after: the value of its header Retry-After: seconds, or a date.
        max_block: the longest time to return.
        now_s: returns the time, for dates.
    """
    if status not in (TOO_MANY_REQUESTS, UNAVAILABLE) or retry_after is None:
        return 0.0
    text = retry_after.strip()
    if _SECONDS.fullmatch(text):
        return max_block if len(text) > 15 else min(float(text), max_block)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError, IndexError):
        return 0.0
    at_s = date.replace(tzinfo=date.tzinfo or timezone.utc).timestamp()
    return min(max(0.0, at_s - now_s()), max_block)

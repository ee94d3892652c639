"""What spawned processes run: they import this module alone, not a test with all its frameworks."""

from __future__ import annotations

from typing import Any

from rate_limiter import Limit, RateLimiter


def count_admitted(
    limits: Limit | str, calls: int, options: dict[str, Any], begin: Any, admitted: Any
) -> None:
    """Make a limiter, wait for the others, and add to `admitted` how many calls it allows."""
    limiter = RateLimiter(limits, **options)
    begin.wait()
    count = sum(limiter.allow("k") for _ in range(calls))
    with admitted.get_lock():
        admitted.value += count

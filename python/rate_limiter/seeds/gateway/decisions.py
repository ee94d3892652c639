"""Decisions of the limiters that programs bring to RateLimitMiddleware(app, limiter, policy)."""

from __future__ import annotations

import math
from typing import Any

from rate_limiter._core import Decision
from rate_limiter.seeds.gateway.limiter import BucketPolicy


def decision_for(policy: BucketPolicy, given: Any) -> Decision:
    """Return the outcome of a limiter's `check` as a Decision about the policy's bucket.

    Args:
        policy: its `burst` is the limit.
        given: an object with ``allowed``, ``remaining`` and, if it denies, ``retry_after_ms``.
            A number that is not finite counts as 0 tokens, or as a wait that never ends.
    """
    # Not isinstance(): a Mock with a spec passes it.
    ours: Decision | None = given if type(given) is Decision else None
    if ours is not None and ours.limit == policy.burst:
        return ours
    allowed = bool(given.allowed)
    remaining = max(0.0, _finite(given.remaining))
    return Decision(
        allowed,
        remaining,
        limit=policy.burst,
        retry_after=0.0 if allowed else _wait_s(given.retry_after_ms),
        reset_after=max(0.0, policy.burst - remaining) / policy.rate_per_sec,
        store_unavailable=ours is not None and ours.store_unavailable,
    )


def _finite(number: Any) -> float:
    number = float(number)
    return number if math.isfinite(number) else 0.0


def _wait_s(milliseconds: Any) -> float:
    """Return a wait in seconds, at least a millisecond, so that Retry-After is at least 1."""
    milliseconds = float(milliseconds)
    return math.inf if math.isnan(milliseconds) else max(1.0, milliseconds) / 1000

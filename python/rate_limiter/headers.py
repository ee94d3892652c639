"""What a response tells the client about its limit."""

from __future__ import annotations

import math

from rate_limiter._core import Decision

DENIED_DETAIL = "Rate limit exceeded. Please try again later."
"""The text of a denied response's JSON body, under ``detail``."""


NO_STORE_DETAIL = "Rate limiting is temporarily unavailable. Please try again later."
"""The same, of a response to a request that nobody could decide on."""


def header_values(decision: Decision) -> dict[str, str]:
    """Return the headers of a response to a request with this decision.

    ``X-RateLimit-Limit`` and ``X-RateLimit-Remaining`` are whole tokens, rounded down.
    ``X-RateLimit-Reset`` is the time until the bucket is full and, on a denied response,
    ``Retry-After`` the time until the same request would pass: whole seconds, rounded up (RFC
    9110, section 10.2.3). A time that never comes is left out. A denied response is not to be
    cached.

    Args:
        decision: what became of the request.
    """
    values = {
        "X-RateLimit-Limit": str(math.floor(decision.limit)),
        "X-RateLimit-Remaining": str(math.floor(decision.remaining)),
    }
    if math.isfinite(decision.reset_after):
        values["X-RateLimit-Reset"] = str(math.ceil(decision.reset_after))
    if not decision.allowed:
        if math.isfinite(decision.retry_after):
            values["Retry-After"] = str(max(1, math.ceil(decision.retry_after)))
        values["Cache-Control"] = "no-store"
    return values

"""Exceptions of this package."""

from __future__ import annotations

import math

from rate_limiter._core import Decision


class RateLimitExceeded(Exception):
    """Raised when a request was denied.

    Args:
        decision: the Decision that denied it, or only a message.
        key: the client's key, if known. The message does not contain it: keys may be secrets.

    Attributes:
        decision: the Decision, or None.
        key: the key, or None.
        retry_after: seconds until the same request would pass (float), inf for never.
        retry_after_s: the same in whole seconds, rounded up (int), None for never: fit for JSON.
    """

    def __init__(
        self, decision: Decision | str | None = None, key: str | bytes | None = None
    ) -> None:
        # Not super(): a subclass may also be an HTTP exception, with other arguments.
        Exception.__init__(self, decision, key)
        self.message: str | None = decision if isinstance(decision, str) else None
        self.decision: Decision | None = decision if isinstance(decision, Decision) else None
        self.key = key
        self.retry_after: float = self.decision.retry_after if self.decision is not None else 0.0
        self.retry_after_s: int | None = (
            self.decision.retry_after_s if self.decision is not None else 0
        )

    def __str__(self) -> str:
        if self.message is not None:
            return self.message
        if self.decision is None:
            return "rate limit exceeded"
        if math.isinf(self.retry_after):
            return "rate limit exceeded; this request can never pass"
        return f"rate limit exceeded; retry after {self.retry_after:.3f} s"

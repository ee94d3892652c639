"""Exceptions of slowapi."""

from __future__ import annotations

from starlette.exceptions import HTTPException

from rate_limiter.compat.slowapi.wrappers import Limit


class RateLimitExceeded(HTTPException):
    """Raised when a limit denies a request.

    Attributes:
        limit: the Limit; its `limit` is the RateLimitItem.
        detail: the `error_message` of the limit, else its text, such as ``"5 per 1 minute"``.
    """

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        message = limit.error_message
        detail = message() if callable(message) else message
        super().__init__(status_code=429, detail=detail or str(limit.limit))

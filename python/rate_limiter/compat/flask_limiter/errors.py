"""The exception of a request over its limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rate_limiter.checks.extras import extra_named

with extra_named():
    from flask.wrappers import Response
    from werkzeug.exceptions import TooManyRequests

if TYPE_CHECKING:
    from rate_limiter.compat.flask_limiter.definitions import RuntimeLimit


class RateLimitExceeded(TooManyRequests):
    """A request is over a limit: 429, with the limit or its `error_message` as description.

    Attributes:
        limit: the limit; `limit.limit` is the parsed text.
        response: what an `on_breach` function returned, sent instead of the error page.
    """

    def __init__(self, limit: RuntimeLimit, response: Response | None = None) -> None:
        self.limit = limit
        message = limit.error_message() if callable(limit.error_message) else limit.error_message
        super().__init__(description=message or str(limit.limit), response=response)

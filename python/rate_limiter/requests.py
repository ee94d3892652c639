"""An adapter for requests that keeps the limits of the servers it calls.

session = requests.Session()
session.mount("https://", RateLimitAdapter("10/second"))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from rate_limiter.checks.extras import extra_named
from rate_limiter.limit import Cost, Limits
from rate_limiter.limiting.limiter import RateLimiter
from rate_limiter.limiting.outgoing import (
    MAX_BLOCK_S,
    as_limiter,
    block_s,
    checked_max_block,
    checked_option,
)
from rate_limiter.limiting.waiting import Patience

with extra_named():
    from requests import PreparedRequest, Response
    from requests.adapters import HTTPAdapter

__all__ = ["RateLimitAdapter"]


def host_of(request: PreparedRequest) -> str:
    """Return the server of a request: its host, with the port if the URL has one."""
    return urlsplit(request.url or "").netloc.rpartition("@")[2].lower()


class RateLimitAdapter(HTTPAdapter):
    """Send each request when its turn comes; wait as long as a server says.

    An answer with the status 429 or 503 and a Retry-After blocks the key for that time, so later
    requests wait. The answer itself is returned: nothing is sent again.

    Args:
        limiter: a RateLimiter, or limits such as ``"10/second"`` for one in memory.
        key: a key, or a function of the PreparedRequest; by default its host.
        cost: tokens of a request, or a function of it.
        timeout: how long a request waits for its turn, in seconds; None waits as long as it takes.
            One that cannot pass in time raises RateLimitExceeded.
        max_block: the longest time for which an answer blocks a key, in seconds.
        options: those of requests.adapters.HTTPAdapter.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
    """

    __attrs__ = [  # noqa: RUF012 - those that requests pickles
        *HTTPAdapter.__attrs__,
        *("limiter", "_key", "_cost", "_timeout", "_max_block"),
    ]

    def __init__(
        self,
        limiter: RateLimiter | Limits,
        *,
        key: str | bytes | Callable[[PreparedRequest], str | bytes] | None = None,
        cost: Cost | Callable[[PreparedRequest], Cost] = 1,
        timeout: float | None = None,
        max_block: float = MAX_BLOCK_S,
        **options: Any,
    ) -> None:
        self.limiter: RateLimiter = as_limiter(limiter)
        self._key = host_of if key is None else key
        checked_option("key", self._key, (str, bytes))
        checked_option("cost", cost, (int, float, tuple))
        self._cost = cost
        self._timeout = Patience(timeout).timeout
        self._max_block = checked_max_block(max_block)
        super().__init__(**options)

    def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
        key = self._key(request) if callable(self._key) else self._key
        cost = self._cost(request) if callable(self._cost) else self._cost
        self.limiter.acquire(key, cost, self._timeout)
        response = super().send(request, *args, **kwargs)
        retry_after = response.headers.get("retry-after")
        seconds = block_s(response.status_code, retry_after, self._max_block)
        if seconds:
            self.limiter.block(key, seconds)
        return response

"""Transports for httpx that keep the limits of the servers they call.

client = httpx.Client(transport=RateLimitTransport("10/second"))
client = httpx.AsyncClient(transport=AsyncRateLimitTransport("10/second"))
"""

from __future__ import annotations

from collections.abc import Callable

from rate_limiter.checks.extras import extra_named
from rate_limiter.limit import Cost, Limits
from rate_limiter.limiting.async_limiter import AsyncRateLimiter
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
    import httpx

__all__ = ["AsyncRateLimitTransport", "RateLimitTransport"]


def host_of(request: httpx.Request) -> str:
    """Return the server of a request: its host, with the port unless it is the usual one."""
    return request.url.netloc.decode("ascii", "replace")


class _Settings:
    """The options of both transports."""

    def __init__(
        self,
        key: str | bytes | Callable[[httpx.Request], str | bytes] | None,
        cost: Cost | Callable[[httpx.Request], Cost],
        timeout: float | None,
        max_block: float,
    ) -> None:
        self.key = host_of if key is None else key
        checked_option("key", self.key, (str, bytes))
        checked_option("cost", cost, (int, float, tuple))
        self.cost = cost
        self.timeout = Patience(timeout).timeout
        self.max_block = checked_max_block(max_block)

    def key_of(self, request: httpx.Request) -> str | bytes:
        return self.key(request) if callable(self.key) else self.key

    def cost_of(self, request: httpx.Request) -> Cost:
        return self.cost(request) if callable(self.cost) else self.cost

    def block_s(self, response: httpx.Response) -> float:
        retry_after = response.headers.get("retry-after")
        return block_s(response.status_code, retry_after, self.max_block)


class RateLimitTransport(httpx.BaseTransport):
    """Send each request when its turn comes; wait as long as a server says.

    An answer with the status 429 or 503 and a Retry-After blocks the key for that time, so later
    requests wait. The answer itself is returned: nothing is sent again.

    Args:
        limiter: a RateLimiter, or limits such as ``"10/second"`` for one in memory.
        transport: sends the requests; by default an httpx.HTTPTransport.
        key: a key, or a function of the request; by default its host.
        cost: tokens of a request, or a function of it.
        timeout: how long a request waits for its turn, in seconds; None waits as long as it takes.
            One that cannot pass in time raises RateLimitExceeded.
        max_block: the longest time for which an answer blocks a key, in seconds.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
    """

    def __init__(
        self,
        limiter: RateLimiter | Limits,
        transport: httpx.BaseTransport | None = None,
        *,
        key: str | bytes | Callable[[httpx.Request], str | bytes] | None = None,
        cost: Cost | Callable[[httpx.Request], Cost] = 1,
        timeout: float | None = None,
        max_block: float = MAX_BLOCK_S,
    ) -> None:
        self.limiter: RateLimiter = as_limiter(limiter)
        self._settings = _Settings(key, cost, timeout, max_block)
        self._transport = transport if transport is not None else httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        settings = self._settings
        key = settings.key_of(request)
        self.limiter.acquire(key, settings.cost_of(request), settings.timeout)
        response = self._transport.handle_request(request)
        seconds = settings.block_s(response)
        if seconds:
            self.limiter.block(key, seconds)
        return response

    def close(self) -> None:
        self._transport.close()


class AsyncRateLimitTransport(httpx.AsyncBaseTransport):
    """Send each request when its turn comes, for httpx.AsyncClient. See RateLimitTransport.

    Args:
        limiter: an AsyncRateLimiter, a RateLimiter, or limits for one in memory.
        transport: sends the requests; by default an httpx.AsyncHTTPTransport.
    """

    def __init__(
        self,
        limiter: AsyncRateLimiter | RateLimiter | Limits,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        key: str | bytes | Callable[[httpx.Request], str | bytes] | None = None,
        cost: Cost | Callable[[httpx.Request], Cost] = 1,
        timeout: float | None = None,
        max_block: float = MAX_BLOCK_S,
    ) -> None:
        self.limiter: AsyncRateLimiter = (
            limiter
            if isinstance(limiter, AsyncRateLimiter)
            else AsyncRateLimiter.of(as_limiter(limiter))
        )
        self._settings = _Settings(key, cost, timeout, max_block)
        self._transport = transport if transport is not None else httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        settings = self._settings
        key = settings.key_of(request)
        await self.limiter.acquire(key, settings.cost_of(request), settings.timeout)
        response = await self._transport.handle_async_request(request)
        seconds = settings.block_s(response)
        if seconds:
            await self.limiter.block(key, seconds)
        return response

    async def aclose(self) -> None:
        await self._transport.aclose()

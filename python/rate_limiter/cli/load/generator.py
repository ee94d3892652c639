"""Put load on an HTTP server and tell what it answered: how many passed, how many were limited.

Two ways to load. The *closed loop* (default) keeps a number of requests under way: each connection
sends its next request when it has the answer to its last. When the server is slow, less is sent, so
its latencies are those of callers who wait for each other. With a *rate* requests are due at fixed
times, whether or not the server keeps up, and each latency counts from when the request was due:
what a request waits for a free connection counts too. (Gil Tene calls leaving that out coordinated
omission: "How NOT to Measure Latency", 2013; wrk2, https://github.com/giltene/wrk2, does the same.)

    result = await LoadRun(LoadPlan("http://localhost:8080/v1/hello", seconds=5)).run()

Every run is bounded by time and by count. Redirects are not followed, no proxy is used. aiohttp
sends a GET once more when the server has closed a connection that was kept open for it.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from dataclasses import dataclass, field

import aiohttp

from rate_limiter.cli.load.result import LoadResult
from rate_limiter.cli.load.target import LoadError, PinnedResolver, Target, find_target, parse_url

SECONDS_MAX = 3600
REQUESTS_MAX = 100_000_000
CONCURRENCY_MAX = 10_000
USERS_MAX = 1_000_000
RATE_MAX = 100_000
TIMEOUT_MAX_S = 300
OPEN_FILES_BESIDES = 64
"""Open files a process needs beside its connections."""

API_KEY_HEADER = "X-API-Key"
ERROR_PAUSE_S = 0.05
"""A connection rests so long after an error: a server that is gone is not stormed."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

__all__ = ["LoadError", "LoadPlan", "LoadResult", "LoadRun"]


@dataclass(frozen=True)
class LoadPlan:
    """What to send, and how much.

    Args:
        url: http or https.
        method: of HTTP.
        headers: pairs of name and value.
        api_key: goes into X-API-Key.
        users: instead, so many API keys in turn: user-0, user-1, ...
        concurrency: connections, each with one request under way.
        seconds: no request begins later than that.
        requests: no more than that.
        rate: requests a second that are due; None for a closed loop.
        timeout_s: for each request.
        is_mine: the target need not be this machine: the caller says that it is their own.

    Raises:
        ValueError: a value that is wrong or out of bounds.
    """

    url: str = field(repr=False)
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    api_key: str | None = field(default=None, repr=False)
    users: int = 0
    concurrency: int = 20
    seconds: float = 10.0
    requests: int = 1_000_000
    rate: float | None = None
    timeout_s: float = 10.0
    is_mine: bool = False

    def __post_init__(self) -> None:
        parse_url(self.url)
        if not _TOKEN.fullmatch(self.method):
            raise ValueError(f"the method must be a word such as POST, got {self.method!r}")
        key = [] if self.api_key is None else [(API_KEY_HEADER, self.api_key)]
        for name, value in [*self.headers, *key]:
            # Neither a value is shown nor what may be one, as in "Authorization: Bearer ...=".
            if not _TOKEN.fullmatch(name):
                raise ValueError("this cannot be sent as a header: its name is no word")
            if _CONTROL.search(value):
                raise ValueError(f"this cannot be sent as a header: the value of {name!r}")
        if self.users and self.api_key is not None:
            raise ValueError("an API key and users exclude each other")
        _check("users", self.users, 0, USERS_MAX)
        _check("concurrency", self.concurrency, 1, CONCURRENCY_MAX)
        _check("requests", self.requests, 1, REQUESTS_MAX)
        _check("seconds", self.seconds, 0.001, SECONDS_MAX)
        _check("timeout", self.timeout_s, 0.001, TIMEOUT_MAX_S)
        if self.rate is not None:
            _check("rate", self.rate, 0.001, RATE_MAX)

    @property
    def due(self) -> int:
        """Return how many requests there may be; with a rate, how many are due in its time."""
        if self.rate is None:
            return self.requests
        # 100 * 0.07 is a little more than 7.
        return min(self.requests, math.ceil(round(self.rate * self.seconds, 6)))

    def key_of(self, number: int) -> str | None:
        """Return the API key of a request, None without any."""
        return f"user-{number % self.users}" if self.users else self.api_key


def _check(name: str, value: float, least: float, most: float) -> None:
    # NaN fails it too.
    if not least <= value <= most:
        raise ValueError(f"{name} must be {least:,} to {most:,}, got {value}")


class LoadRun:
    """One run of a plan.

    Attributes:
        plan: what it does.
        result: what it has found so far; may be read at any time.
        begun: is set when the first request is about to be sent.
    """

    def __init__(self, plan: LoadPlan) -> None:
        self.plan = plan
        self.result = LoadResult()
        self.begun = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._taken = 0
        self._is_stopped = False
        self._begun_s = 0.0

    def stop(self) -> None:
        """End it now; requests under way count as unfinished."""
        self._is_stopped = True
        for task in self._tasks:
            task.cancel()

    async def run(self) -> LoadResult:
        """Do it; return the result.

        Raises:
            LoadError: it cannot begin; nothing was sent.
        """
        target = await find_target(parse_url(self.plan.url), is_mine=self.plan.is_mine)
        connector = aiohttp.TCPConnector(limit=0, resolver=PinnedResolver(target))
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self.plan.timeout_s),
            auto_decompress=False,
        )
        async with session:
            self._begun_s = time.perf_counter()
            self.begun.set()
            if not self._is_stopped:
                workers = min(self.plan.concurrency, self.plan.requests)
                work = (self._work(session, target) for _ in range(workers))
                self._tasks = [asyncio.create_task(one) for one in work]
            try:
                await asyncio.gather(*self._tasks)
            except asyncio.CancelledError:
                if not self._is_stopped:
                    raise
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
        self._end()
        return self.result

    def _end(self) -> None:
        if self._is_stopped:
            self.result.elapsed_s = self._elapsed_s()
            self.result.ended_by = "interrupt"
        elif self._taken >= self.plan.requests:
            self.result.ended_by = "requests"
        else:
            self.result.ended_by = "seconds"
            if self.plan.rate is not None:
                self.result.unsent = self.plan.due - self._taken

    def _elapsed_s(self) -> float:
        return time.perf_counter() - self._begun_s

    async def _work(self, session: aiohttp.ClientSession, target: Target) -> None:
        plan, result = self.plan, self.result
        while self._taken < plan.due and self._elapsed_s() < plan.seconds:
            number = self._taken
            self._taken += 1
            if plan.rate is None:
                due_s = time.perf_counter()
            else:
                due_s = self._begun_s + number / plan.rate
                await asyncio.sleep(due_s - time.perf_counter())
            headers = list(plan.headers)
            key = plan.key_of(number)
            if key is not None:
                headers.append((API_KEY_HEADER, key))
            try:
                status, retry_after = await _send(session, plan.method, target, headers)
            except asyncio.CancelledError:
                result.unfinished += 1
                raise
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
                result.elapsed_s = self._elapsed_s()
                result.record_error(_kind(error))
                if plan.rate is None:
                    await asyncio.sleep(ERROR_PAUSE_S)
                continue
            latency_ns = round((time.perf_counter() - due_s) * 1e9)
            result.elapsed_s = self._elapsed_s()
            result.record(status, max(0, latency_ns), retry_after)


async def _send(
    session: aiohttp.ClientSession, method: str, target: Target, headers: list[tuple[str, str]]
) -> tuple[int, str | None]:
    """Send one request, read its answer to the end, return its status and Retry-After."""
    async with session.request(
        method, target.url, headers=headers, allow_redirects=False
    ) as response:
        while await response.content.readany():
            pass
        return response.status, response.headers.get("Retry-After")


def _kind(error: BaseException) -> str:
    """Return what an error is called in the report."""
    if isinstance(error, asyncio.TimeoutError):
        return "timeout"
    cause = getattr(error, "os_error", None) or error
    for kind, types in (
        ("tls", (aiohttp.ClientSSLError,)),
        ("refused", (ConnectionRefusedError,)),
        ("disconnected", (aiohttp.ServerDisconnectedError, ConnectionError)),
        ("disconnected", (aiohttp.ClientPayloadError,)),
        ("cannot connect", (aiohttp.ClientConnectorError,)),
        ("disconnected", (aiohttp.ClientOSError,)),
        ("no HTTP", (aiohttp.ClientResponseError,)),
    ):
        if isinstance(error, types) or isinstance(cause, types):
            return kind
    return type(error).__name__

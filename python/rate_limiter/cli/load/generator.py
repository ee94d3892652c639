"""Send load to an HTTP server and count how many requests passed and how many were limited.

There are two modes. The *closed loop* (default) keeps a fixed number of requests in flight: each
connection sends its next request after the answer to its last. A slow server gets fewer requests,
so its latencies are those of callers who wait for each other. With a *rate*, requests are due at
fixed times, even if the server falls behind, and each latency counts from the due time, including
the wait for a free connection. (Gil Tene calls leaving that out coordinated omission: "How NOT to
Measure Latency", 2013; wrk2, https://github.com/giltene/wrk2, measures in the same way.)

    result = await LoadRun(LoadPlan("http://localhost:8080/v1/hello", seconds=5)).run()

Every run is bounded by time and by count. Redirects are not followed, no proxy is used. aiohttp
repeats a GET if the server has closed the kept-alive connection.
"""

from __future__ import annotations

import asyncio
import math
import re
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from rate_limiter.checks.arguments import is_token
from rate_limiter.cli.load.result import LoadResult
from rate_limiter.cli.load.target import LoadError, PinnedResolver, Target, find_target, parse_url

SECONDS_MAX = 3600
REQUESTS_MAX = 100_000_000
CONCURRENCY_MAX = 10_000
USERS_MAX = 1_000_000
RATE_MAX = 100_000
TIMEOUT_MAX_S = 300
OPEN_FILES_BESIDES = 64
"""Open files that a process needs besides its connections."""

API_KEY_HEADER = "X-API-Key"
ERROR_PAUSE_S = 0.05
"""Pause of a connection after an error, so that a stopped server is not flooded."""

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

__all__ = ["LoadError", "LoadPlan", "LoadResult", "LoadRun"]


@dataclass(frozen=True)
class LoadPlan:
    """The requests of a load test.

    Args:
        url: http or https.
        method: HTTP method.
        headers: pairs of name and value.
        api_key: value of X-API-Key.
        users: number of API keys to rotate instead of `api_key`: user-0, user-1, ...
        concurrency: connections, each with one request in flight.
        seconds: maximum time; no request starts later.
        requests: maximum number of requests.
        rate: requests due per second; None for a closed loop.
        timeout_s: timeout of each request.
        is_mine: allow a target that is not this machine, because it belongs to the caller.
        ca_file: certificates to trust, in PEM form, instead of the system's.
        checks_certificate: whether to check the server's certificate.

    Raises:
        ValueError: a value is wrong or out of bounds.
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
    ca_file: Path | None = None
    checks_certificate: bool = True

    def __post_init__(self) -> None:
        parse_url(self.url)
        if not is_token(self.method):
            raise ValueError(f"the method must be a word such as POST, got {self.method!r}")
        key = [] if self.api_key is None else [(API_KEY_HEADER, self.api_key)]
        for name, value in [*self.headers, *key]:
            # Values are not shown, nor names that may contain one: "Authorization: Bearer ...=".
            if not is_token(name):
                raise ValueError("this cannot be sent as a header: its name is no word")
            if _CONTROL.search(value):
                raise ValueError(f"this cannot be sent as a header: the value of {name!r}")
        if parse_url(self.url).scheme == "http":
            if self.ca_file is not None or not self.checks_certificate:
                raise ValueError("options of certificates have no effect on an http URL")
        elif self.ca_file is not None:
            if not self.checks_certificate:
                raise ValueError("a file of trusted certificates has no effect if none is checked")
            self.tls()
        if self.users and self.api_key is not None:
            raise ValueError("an API key and users exclude each other")
        _check("users", self.users, 0, USERS_MAX)
        _check("concurrency", self.concurrency, 1, CONCURRENCY_MAX)
        _check("requests", self.requests, 1, REQUESTS_MAX)
        _check("seconds", self.seconds, 0.001, SECONDS_MAX)
        _check("timeout", self.timeout_s, 0.001, TIMEOUT_MAX_S)
        if self.rate is not None:
            _check("rate", self.rate, 0.001, RATE_MAX)

    def tls(self) -> ssl.SSLContext | bool:
        """Return how certificates are checked, as aiohttp wants it.

        Raises:
            ValueError: the file of certificates cannot be used.
        """
        if self.ca_file is None:
            return self.checks_certificate
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(f"no certificates in {str(self.ca_file)!r}: {reason}") from None

    @property
    def due(self) -> int:
        """Return the maximum number of requests; with a rate, the number due in `seconds`."""
        if self.rate is None:
            return self.requests
        # 100 * 0.07 is a little more than 7.
        return min(self.requests, math.ceil(round(self.rate * self.seconds, 6)))

    def key_of(self, number: int) -> str | None:
        """Return the API key of a request, None if it has none."""
        return f"user-{number % self.users}" if self.users else self.api_key


def _check(name: str, value: float, least: float, most: float) -> None:
    # Also fails for NaN.
    if not least <= value <= most:
        raise ValueError(f"{name} must be {least:,} to {most:,}, got {value}")


class LoadRun:
    """One run of a plan.

    Attributes:
        plan: the plan.
        result: the result so far; may be read at any time.
        begun: set just before the first request is sent.
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
        """Stop now; requests in flight count as unfinished."""
        self._is_stopped = True
        for task in self._tasks:
            task.cancel()

    async def run(self) -> LoadResult:
        """Run the plan; return the result.

        Raises:
            LoadError: the test cannot start; nothing was sent.
        """
        target = await find_target(parse_url(self.plan.url), is_mine=self.plan.is_mine)
        connector = aiohttp.TCPConnector(
            limit=0, resolver=PinnedResolver(target), ssl=self.plan.tls()
        )
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
    """Send one request, read its whole answer, return the status and Retry-After."""
    async with session.request(
        method, target.url, headers=headers, allow_redirects=False
    ) as response:
        while await response.content.readany():
            pass
        return response.status, response.headers.get("Retry-After")


def _kind(error: BaseException) -> str:
    """Return the name of an error in the report."""
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

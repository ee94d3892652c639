"""Clients for outgoing calls: httpx transports and the adapter for requests."""

from __future__ import annotations

import asyncio
import math
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import requests
from rate_limiter import AsyncRateLimiter, RateLimiter, RateLimitExceeded
from rate_limiter.httpx import AsyncRateLimitTransport, RateLimitTransport
from rate_limiter.limiting.outgoing import block_s
from rate_limiter.requests import RateLimitAdapter

SLOW = "1000/day"


class Server(ThreadingHTTPServer):
    """Answers with the status and the Retry-After in the path, such as /429/30."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        _, status, *retry_after = self.path.split("/", 2)
        self.send_response(int(status))
        if retry_after:
            self.send_header("Retry-After", retry_after[0].replace("%20", " "))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


Get = Callable[..., int]


@pytest.fixture(params=["httpx", "httpx async", "requests"])
def get(request: pytest.FixtureRequest) -> Get:
    """Return a function that gets URLs through a client with a limiter; it returns the status."""

    def by_httpx(limiter: Any, *urls: str, **options: Any) -> int:
        with httpx.Client(transport=RateLimitTransport(limiter, **options)) as client:
            return [client.get(url).status_code for url in urls][-1]

    def by_httpx_async(limiter: Any, *urls: str, **options: Any) -> int:
        async def run() -> int:
            transport = AsyncRateLimitTransport(limiter, **options)
            async with httpx.AsyncClient(transport=transport) as client:
                return [(await client.get(url)).status_code for url in urls][-1]

        return asyncio.run(run())

    def by_requests(limiter: Any, *urls: str, **options: Any) -> int:
        with requests.Session() as session:
            session.mount("http://", RateLimitAdapter(limiter, **options))
            return [session.get(url).status_code for url in urls][-1]

    kinds = {"httpx": by_httpx, "httpx async": by_httpx_async, "requests": by_requests}
    return kinds[request.param]


def left(limiter: RateLimiter, key: str) -> int:
    return int(limiter.peek(key, 0).remaining)


def host(web: Server) -> str:
    return f"127.0.0.1:{web.server_port}"


def test_requests_count_per_host(web: Server, get: Get) -> None:
    limiter = RateLimiter(SLOW)
    assert get(limiter, f"{web.url}/200", f"{web.url}/404") == 404
    assert (left(limiter, host(web)), web.paths) == (998, ["/200", "/404"])


def test_limits_may_be_text(web: Server, get: Get) -> None:
    started_s = time.monotonic()
    assert get("50/second; burst=1", *[f"{web.url}/200"] * 4) == 200
    assert time.monotonic() - started_s > 0.059


def test_key_and_cost(web: Server, get: Get) -> None:
    limiter = RateLimiter("1000/day; 90000/day")
    get(limiter, f"{web.url}/200", key="api", cost=(1, 10))
    options = {"key": lambda request: request.method, "cost": lambda request: len(request.method)}
    get(limiter, f"{web.url}/200", **options)
    assert [int(one.remaining) for one in limiter.peek_each("api", 0)[1:]] == [999, 89_990]
    assert left(limiter, "GET") == 997


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_blocks_the_host(web: Server, get: Get, status: int) -> None:
    limiter = RateLimiter(SLOW)
    assert get(limiter, f"{web.url}/{status}/30", timeout=0) == status
    assert limiter.peek(host(web)).retry_after == pytest.approx(30, abs=20)
    with pytest.raises(RateLimitExceeded) as caught:
        get(limiter, f"{web.url}/200", timeout=0)
    assert caught.value.key == host(web)
    assert len(web.paths) == 1
    limiter.reset(host(web))
    assert get(limiter, f"{web.url}/200", timeout=0) == 200


def test_a_request_waits_for_the_end_of_the_block(web: Server, get: Get) -> None:
    started_s = time.monotonic()
    assert get(SLOW, f"{web.url}/429/1", f"{web.url}/200") == 200
    assert time.monotonic() - started_s > 0.99


@pytest.mark.parametrize("path", ["200/30", "429", "429/soon", "429/-5", "429/0", "500/30"])
def test_other_answers_do_not_block(web: Server, get: Get, path: str) -> None:
    limiter = RateLimiter(SLOW)
    get(limiter, f"{web.url}/{path}")
    assert limiter.peek(host(web))


def test_a_server_cannot_block_for_long(web: Server, get: Get) -> None:
    limiter = RateLimiter(SLOW)
    get(limiter, f"{web.url}/429/{10**30}")
    assert limiter.peek(host(web)).retry_after == pytest.approx(3600, abs=30)
    limiter.reset(host(web))
    get(limiter, f"{web.url}/429/500", max_block=100)
    assert limiter.peek(host(web)).retry_after == pytest.approx(100, abs=30)


def test_dates() -> None:
    def now_s() -> float:
        return 1_000_000.0

    assert block_s(429, formatdate(1_000_060, usegmt=True), 3600, now_s) == 60
    assert block_s(429, formatdate(999_000, usegmt=True), 3600, now_s) == 0
    assert block_s(429, formatdate(1_900_000, usegmt=True), 3600, now_s) == 3600
    assert block_s(429, " 12 ", 3600, now_s) == 12
    for text in ("", "1.5", "٣", "Mon, 99 Foo 2026 00:00:00 GMT", "\x00", "Mon"):
        assert block_s(429, text, 3600, now_s) == 0


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"key": 5}, TypeError, "key must be a function of the request, or str, bytes, not int"),
        ({"cost": "1"}, TypeError, "cost must be a function of the request"),
        ({"timeout": -1}, ValueError, "got -1"),
        (
            {"max_block": -1},
            ValueError,
            "max_block must be a finite number of seconds >= 0, got -1",
        ),
        ({"max_block": math.inf}, ValueError, "got inf"),
    ],
)
def test_bad_options(get: Get, options: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind) as caught:
        get(SLOW, **options)
    assert message in str(caught.value)


async def test_an_async_limiter_and_another_transport() -> None:
    limiter = AsyncRateLimiter(SLOW)
    plain = httpx.MockTransport(lambda request: httpx.Response(429, headers={"Retry-After": "9"}))
    async with httpx.AsyncClient(transport=AsyncRateLimitTransport(limiter, plain)) as client:
        assert (await client.get("http://a.example/x")).status_code == 429
    assert (await limiter.peek("a.example")).retry_after == pytest.approx(9, abs=5)


def test_another_transport_and_a_port() -> None:
    limiter = RateLimiter(SLOW)
    plain = httpx.MockTransport(lambda request: httpx.Response(429, headers={"Retry-After": "9"}))
    with httpx.Client(transport=RateLimitTransport(limiter, plain)) as client:
        client.get("http://user:secret@a.example:8080/x")
    assert not limiter.peek("a.example:8080")


def test_an_adapter_can_be_pickled_if_its_limiter_can(tmp_path: Any) -> None:
    limiter = RateLimiter(SLOW, store=f"shared://{tmp_path}/app", max_keys=100)
    copy = pickle.loads(pickle.dumps(RateLimitAdapter(limiter, key="api")))
    copy.limiter.hit("api")
    assert left(limiter, "api") == 999

"""What sends requests to the applications of benchmarks/web.py, and measures the CPU time.

There is no server: a driver calls the application as one would, with stubs that receive and send
nothing. Applications run in the thread of the driver, whose CPU time is measured.
"""

from __future__ import annotations

import asyncio
import functools
import io
import sys
from collections.abc import Callable
from time import thread_time_ns
from typing import Any, Protocol

PATH = "/api/items/42"
PEER = "10.0.0.1"
HEADERS = {
    "host": "api.example.com",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "accept": "application/json",
    "accept-language": "en-US,en;q=0.5",
    "accept-encoding": "gzip, deflate, br",
    "origin": "https://www.example.com",
    "cookie": "theme=dark; session=5f2b9c0e7d1a; locale=en",
    "x-api-key": "k-3f9a0d52c7",
    "x-tier": "pro",
    "connection": "keep-alive",
}
"""Headers of every request, as many as a browser sends."""


class Driver(Protocol):
    """Sends requests to an application, or calls a function."""

    def __init__(self, target: Any, headers: dict[str, str]) -> None: ...

    def time_ns(self, calls: int) -> int:
        """Send some requests; return the CPU time of this thread."""

    def answer(self) -> tuple[int, set[str]]:
        """Send one request; return the status and the names of the headers of the response."""


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


class Asgi:
    """Sends requests to an ASGI application, one after the other in one task."""

    def __init__(self, app: Any, headers: dict[str, str]) -> None:
        self._app = app
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": PATH,
            "raw_path": PATH.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": (PEER, 50_000),
            "server": ("127.0.0.1", 8000),
        }

    def time_ns(self, calls: int) -> int:
        return _loop().run_until_complete(self._time_ns(calls))

    async def ask(self) -> None:
        """Send a request in the running loop."""
        await self._app({**self._scope}, _receive, _send)

    async def _time_ns(self, calls: int) -> int:
        app, scope = self._app, self._scope
        began_ns = thread_time_ns()
        for _ in range(calls):
            await app({**scope}, _receive, _send)
        return thread_time_ns() - began_ns

    def answer(self) -> tuple[int, set[str]]:
        messages: list[Any] = []

        async def send(message: Any) -> None:
            messages.append(message)

        async def ask() -> None:
            await self._app({**self._scope}, _receive, send)

        _loop().run_until_complete(ask())
        start = messages[0]
        return start["status"], {name.decode().lower() for name, _ in start.get("headers", ())}


async def _receive() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: Any) -> None: ...


class Wsgi:
    """Sends requests to a WSGI application."""

    def __init__(self, app: Any, headers: dict[str, str]) -> None:
        self._app = app
        self._environ = {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": PATH,
            "QUERY_STRING": "",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "8000",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": PEER,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in headers.items():
            self._environ[f"HTTP_{name.upper().replace('-', '_')}"] = value

    def time_ns(self, calls: int) -> int:
        began_ns = thread_time_ns()
        for _ in range(calls):
            self._ask(_start_response)
        return thread_time_ns() - began_ns

    def ask(self) -> None:
        """Send a request."""
        self._ask(_start_response)

    def _ask(self, start_response: Callable[..., Any]) -> None:
        body = self._app({**self._environ}, start_response)
        for _ in body:
            pass
        if hasattr(body, "close"):
            body.close()

    def answer(self) -> tuple[int, set[str]]:
        answers: list[tuple[int, set[str]]] = []

        def start_response(status: str, headers: Any, exc_info: Any = None) -> None:
            answers.append((int(status[:3]), {name.lower() for name, _ in headers}))

        self._ask(start_response)
        return answers[0]


def _start_response(status: str, headers: Any, exc_info: Any = None) -> None: ...


class Call:
    """Calls a function with one argument, as a limiter calls a user's function."""

    def __init__(self, function: Callable[[Any], Any], headers: dict[str, str]) -> None:
        self._function = function

    def time_ns(self, calls: int) -> int:
        function = self._function
        scope: dict[str, Any] = {"client": (PEER, 50_000)}
        began_ns = thread_time_ns()
        for _ in range(calls):
            function(scope)
        return thread_time_ns() - began_ns

    def answer(self) -> tuple[int, set[str]]:
        return 200, set()

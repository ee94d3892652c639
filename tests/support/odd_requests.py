"""Requests that no server would pass on: members of a wrong type, endless headers, odd bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

PEER = "192.0.2.1"
WRONG: tuple[Any, ...] = (None, 5, [], {}, b"", [5], (None, None))
"""What takes the place of a member, beside nothing."""

HEADERS = [
    ("host", "test"),
    ("x-api-key", "secret"),
    ("cookie", "sid=one; other=two"),
    ("authorization", "Bearer token"),
    ("x-forwarded-for", "203.0.113.9, 10.0.0.1"),
    ("x-plan", "pro"),
    ("origin", "https://example.com"),
]


def scope_of(headers: Any = (), **more: Any) -> dict[str, Any]:
    """Return an ASGI scope; header names and values are Latin-1."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        "client": (PEER, 5),
        "server": ("127.0.0.1", 80),
        "extensions": {},
        "state": {},
    } | more


def environ_of(headers: Any = (), **more: Any) -> dict[str, Any]:
    """Return a WSGI environ; repeated headers are joined with commas."""
    fields: dict[str, str] = {}
    for name, value in headers:
        variable = "HTTP_" + name.upper().replace("-", "_")
        fields[variable] = f"{fields[variable]},{value}" if variable in fields else value
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "REMOTE_ADDR": PEER,
        "SERVER_NAME": "test",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **fields,
        **more,
    }


def broken(request: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield copies of a request with one member missing or wrong, each with a description."""
    for name in [*request, "rate_limiter", "user"]:
        if name in request:
            yield f"no {name}", {key: value for key, value in request.items() if key != name}
        for wrong in WRONG:
            yield f"{name}={wrong!a}", request | {name: wrong}


def long_headers() -> dict[str, list[tuple[str, str]]]:
    """Return lists of headers that are legal, or nearly, but long or odd."""
    names = [name for name, _ in HEADERS]
    return {
        "64 kB": [(name, "x" * 65536) for name in names],
        "64 kB of commas": [(name, "," * 65536) for name in names],
        "64 kB of semicolons": [(name, ";" * 65536) for name in names],
        "64 kB of quotes": [(name, '"' + "\\" * 65536) for name in names],
        "64 kB of dots": [(name, "eyJ" + "." * 65536) for name in names],
        "10,000 lines": [(name, str(i)) for i in range(1429) for name in names],
        "10,000 equal lines": [(name, "1") for _ in range(1429) for name in names],
        "joined with commas": [(name, "a, b,,c ,") for name in names],
        "1,000 proxies": [("x-forwarded-for", ", ".join(["10.0.0.1"] * 1000))],
        "1,000 lines of proxies": [("x-forwarded-for", "10.0.0.1")] * 1000,
        "NUL": [(name, "a\0b\0") for name in names],
        "all bytes": [(name, bytes(range(256)).decode("latin-1")) for name in names],
        "empty": [(name, "") for name in names],
        "blanks": [(name, " \t ") for name in names],
        "no name": [("", "x"), ("", "")],
    }


PATHS = (
    "",
    "*",
    "//",
    "///x",
    "x",
    "/\0",
    "/é",
    "/\ud800",
    "/\U0001f600",
    "/" + "a/" * 30000,
    "/..",
    "/%2e%2e/",
    "/\n",
    "/\\",
    "http://test/",
    "/" + "x" * 65536,
)

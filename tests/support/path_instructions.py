"""Requests to an ASGI middleware between marks, for callgrind: `path_instructions.py EXTENSION`.

It loads the extension alone, since imports are slow under valgrind, and configures it as
RateLimitMiddleware does. A call of os.getppid marks the begin and the end of each case.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from itertools import repeat
from typing import Any

CALLS = 500
WARM_UP = 100
"""Requests before the first mark, after which the interpreter has specialised the loop."""
CASES = ("bare", "allowed", "denied", "two limits, both headers")
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"2")],
}
BODY = {"type": "http.response.body", "body": b"ok"}
SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.4"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"host", b"api.example.com"), (b"accept", b"*/*")],
    "client": ("10.0.0.1", 50_000),
    "server": ("127.0.0.1", 8000),
}


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send(BODY)


async def receive() -> None: ...


async def send(message: Any) -> None: ...


def middleware(core: Any, limits: list[tuple[float, float]], headers: str) -> Any:
    """Return a middleware with these limits, each a (capacity, period_s)."""

    class Middleware(core.AsgiMiddleware):  # type: ignore[misc]
        async def _deny(self, scope: Any, receive: Any, send: Any, verdict: Any) -> None:
            await app(scope, receive, send)

    limiter = core.Limiter([(capacity, capacity / period_s) for capacity, period_s in limits])
    states = tuple(("default", capacity, period_s, 0) for capacity, period_s in limits)
    policy = core.Policy()
    rule = ("rule", limiter, None, (), None, states, False, False, False, False, None)
    version = core.PolicyVersion(
        owner=policy,
        rules=(rule,),
        routes=None,
        bypass=(),
        tier=(),
        tier_ranks={},
        key=(("ip", None, None, None, False),),
        walk=core.ProxyWalk(),
        style=core.FieldStyle(headers),
        shortened=str,
        is_wsgi=False,
        routes_like_werkzeug=False,
        uses_keys=False,
    )
    policy._use(version, False)
    return Middleware(
        app,
        policy,
        exempt_paths=frozenset(),
        status_path=None,
        skips_preflight=False,
        probing=False,
    )


async def requests(call: Any, scope: Any, receive: Any, send: Any) -> None:
    for _ in repeat(None, WARM_UP):
        await call({**scope}, receive, send)
    os.getppid()
    for _ in repeat(None, CALLS):
        await call({**scope}, receive, send)
    os.getppid()


def run(call: Any) -> None:
    # A function of its own for each case, whose bytecode the interpreter specialises.
    code = requests.__code__.replace()
    function = type(requests)(code, globals())
    try:
        function(call, SCOPE, receive, send).send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


def main(extension: str) -> None:
    spec = spec_from_file_location(
        "_core", extension, loader=ExtensionFileLoader("_core", extension)
    )
    assert spec is not None
    assert spec.loader is not None
    core = module_from_spec(spec)
    spec.loader.exec_module(core)
    run(app)
    run(middleware(core, [(1e6, 1)], "x-ratelimit"))
    run(middleware(core, [(1, 86400)], "x-ratelimit"))
    run(middleware(core, [(1e6, 1), (1e7, 60)], "both"))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Requests to an ASGI middleware between marks, for callgrind: `path_instructions.py EXTENSION`.

It loads the extension alone, since imports are slow under valgrind, and configures it as
RateLimitMiddleware does. A call of os.getppid marks the begin and the end of each case.
"""

from __future__ import annotations

import sys
from typing import Any

from support.instructions import load, run_async
from support.odd_requests import scope_of

CASES = ("bare", "allowed", "denied", "two limits, both headers")
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"2")],
}
BODY = {"type": "http.response.body", "body": b"ok"}
SCOPE = scope_of([("host", "api.example.com"), ("accept", "*/*")])
del SCOPE["state"]  # so that each request makes one


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


def run(call: Any) -> None:
    body = "await call({**argument}, receive, send)"
    run_async(call, SCOPE, body, receive=receive, send=send)


def main(extension: str) -> None:
    core = load(extension)
    run(app)
    run(middleware(core, [(1e6, 1)], "x-ratelimit"))
    run(middleware(core, [(1, 86400)], "x-ratelimit"))
    run(middleware(core, [(1e6, 1), (1e7, 60)], "both"))


if __name__ == "__main__":
    main(*sys.argv[1:])

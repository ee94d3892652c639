"""RateLimitMiddleware: limits for every ASGI application.

    app.add_middleware(RateLimitMiddleware, limits="100/minute", key="ip")

Pure ASGI: a request that passes goes straight to the application, which gets its own `scope` and
`receive`. Streaming, background tasks, context variables and exceptions are as without it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

from rate_limiter import _core
from rate_limiter._core import Decision, ManualClock
from rate_limiter.headers import DENIED_DETAIL
from rate_limiter.limit import Limits, check_cost
from rate_limiter.limiter import MEMORY, RateLimiter

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

Key: TypeAlias = Callable[[Scope], str | bytes | Awaitable[str | bytes | None] | None]
Cost: TypeAlias = Callable[[Scope], float | Awaitable[float]]
Denied: TypeAlias = Callable[[Scope, Decision], ASGIApp | Awaitable[ASGIApp]]


class RateLimitMiddleware(_core.AsgiGate):
    """Limit the requests and websockets of an ASGI application, per client.

    A denied request is answered with 429. A denied websocket is answered with 429 before it is
    accepted, where the server can (the ``websocket.http.response`` extension), else closed with
    code 1008.

    Args:
        app: the ASGI application.
        limits: a text (``"100/minute"``), a Limit, or several.
        limiter: a RateLimiter instead of `limits`, to share its buckets.
        key: who a request counts for. ``"ip"`` is the peer's address (of an IPv6 client, its
            /64 network), or ``unknown`` where it has none, as behind a unix socket. A callable,
            sync or async, gets the scope and returns str or bytes; for None the peer's address
            is used, so leaving a header out lifts no limit.
        cost: tokens a request takes, a number or a callable, sync or async, that gets the scope.
        exempt_paths: paths that are not limited, compared with ``scope["path"]``.
        headers: ``"x-ratelimit"`` or ``"off"``. A response that has its own
            ``X-RateLimit-Limit`` keeps what it says.
        denied: makes another answer: a callable, sync or async, that gets the scope and the
            Decision and returns an ASGI application, such as a Starlette response. The headers
            are added to it.
        store, max_keys, clock: as for RateLimiter.

    Raises:
        TypeError, ValueError: an argument is not what it should be; the message names it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits | None = None,
        limiter: RateLimiter | None = None,
        key: str | Key = "ip",
        cost: float | Cost = 1,
        exempt_paths: Iterable[str] = (),
        headers: str = "x-ratelimit",
        denied: Denied | None = None,
        store: str = MEMORY,
        max_keys: int = 1_000_000,
        clock: str | ManualClock = "monotonic",
    ) -> None:
        limiter = one_limiter(limits, limiter, store=store, max_keys=max_keys, clock=clock)
        self._denied = denied
        super().__init__(
            app,
            limiter,
            key=checked_key(key),
            cost=checked_cost(cost, limiter),
            exempt_paths=_paths(exempt_paths),
            headers=checked_headers(headers),
        )
        # Servers tell ASGI 3 from ASGI 2 by whether `app.__call__` is a coroutine function, which
        # a C slot is not. Calls of the object itself never look here: they go to the slot.
        self.__dict__["__call__"] = self._called_by_name

    async def _called_by_name(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self(scope, receive, send)

    async def _resolve(
        self, scope: Scope, receive: Receive, send: Send, key: Any, cost: Any
    ) -> None:
        """Await the key or the cost, then decide. Called by the gate where one is awaitable."""
        if inspect.isawaitable(key):
            key = await key
        if inspect.isawaitable(cost):
            cost = await cost
        if cost is None:  # to the gate it would mean the default
            raise TypeError("cost must be a number, not NoneType")
        await self._decide(scope, receive, send, key, cost)

    async def _deny(self, scope: Scope, receive: Receive, send: Send, decision: Decision) -> None:
        """Answer a denied request. Called by the gate; `send` adds the headers."""
        if scope["type"] == "websocket":
            await receive()  # a server may wait for its "websocket.connect" to be taken
            if "websocket.http.response" not in (scope.get("extensions") or {}):
                await send({"type": "websocket.close", "code": 1008, "reason": DENIED_DETAIL})
                return
        if self._denied is None:
            await _too_many_requests(scope, receive, send)
            return
        answer = self._denied(scope, decision)
        if inspect.isawaitable(answer):
            answer = await answer
        await answer(scope, receive, send)


async def _too_many_requests(scope: Scope, receive: Receive, send: Send) -> None:
    prefix = "websocket." if scope["type"] == "websocket" else ""
    body = json.dumps({"detail": DENIED_DETAIL}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": f"{prefix}http.response.start", "status": 429, "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": body})


def one_limiter(
    limits: Limits | None,
    limiter: RateLimiter | None,
    *,
    store: str,
    max_keys: int,
    clock: str | ManualClock,
) -> RateLimiter:
    """Return the limiter that was given, or a new one for the limits.

    Raises:
        TypeError: both or neither were given, or `limiter` is something else.
    """
    if (limits is None) == (limiter is None):
        raise TypeError("give either limits or limiter")
    if limits is not None:
        return RateLimiter(limits, store=store, max_keys=max_keys, clock=clock)
    if not isinstance(limiter, RateLimiter):
        raise TypeError(f"limiter must be a RateLimiter, got {limiter!r}")
    return limiter


def checked_key(key: object) -> Callable[[Any], Any] | None:
    """Return the key callable, or None for the peer's address.

    Raises:
        ValueError: `key` is neither callable nor ``"ip"``.
    """
    if callable(key):
        return key
    if key != "ip":
        raise ValueError(f"key must be 'ip' or a callable, got {key!r}")
    return None


def checked_cost(cost: Any, limiter: RateLimiter) -> Any:
    """Return the cost, a constant one checked against the limits.

    Raises:
        TypeError, ValueError: it could never pass, or is no cost at all.
    """
    return cost if callable(cost) else check_cost(cost, limiter.limits)


def checked_headers(headers: str) -> bool:
    """Tell whether headers are to be added.

    Raises:
        ValueError: `headers` is not one of the choices.
    """
    if headers not in ("x-ratelimit", "off"):
        raise ValueError(f"headers must be 'x-ratelimit' or 'off', got {headers!r}")
    return headers == "x-ratelimit"


def _paths(paths: Iterable[str]) -> frozenset[str]:
    if isinstance(paths, str):
        raise TypeError(f"exempt_paths must be several paths, such as [{paths!r}]")
    result = frozenset(paths)
    for path in result:
        if not isinstance(path, str) or not path.startswith("/"):
            raise ValueError(
                f"a path in exempt_paths must be a str that begins with '/', got {path!r}"
            )
    return result

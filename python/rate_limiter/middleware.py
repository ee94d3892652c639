"""RateLimitMiddleware: limits for every ASGI application.

    app.add_middleware(RateLimitMiddleware, limits="100/minute", key="ip")

Pure ASGI: a request that passes goes straight to the application, which gets its own `scope` and
`receive`. Streaming, background tasks, context variables and exceptions are as without it.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from hashlib import sha256
from typing import Any, TypeAlias

from rate_limiter import _core
from rate_limiter._core import Decision, ManualClock, client_key
from rate_limiter.headers import DENIED_DETAIL, NO_STORE_DETAIL
from rate_limiter.limit import Limit, Limits, check_cost
from rate_limiter.limiter import MEMORY, RateLimiter
from rate_limiter.redis_bucket import TokenBucket
from rate_limiter.redis_limiter import RedisRateLimiter
from rate_limiter.redis_store import RedisStore

logger = logging.getLogger("rate_limiter")

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
        store, name, on_store_error, max_keys, clock: as for RateLimiter. A request that is
            denied for want of a store (``on_store_error="deny"``) is answered with 503.

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
        store: object = MEMORY,
        name: str = "",
        on_store_error: str = "memory",
        max_keys: int = 1_000_000,
        clock: str | ManualClock = "monotonic",
    ) -> None:
        limiter = one_limiter(
            limits,
            limiter,
            store=store,
            name=name,
            on_store_error=on_store_error,
            max_keys=max_keys,
            clock=clock,
        )
        self._redis: RedisRateLimiter | None
        self._redis = limiter if isinstance(limiter, RedisRateLimiter) else None
        self._denied = denied
        super().__init__(
            app,
            limiter,
            key=checked_key(key),
            cost=checked_cost(cost, limiter),
            exempt_paths=_paths(exempt_paths),
            headers=checked_headers(headers),
            remote=self._redis is not None,
        )
        # Servers tell ASGI 3 from ASGI 2 by whether `app.__call__` is a coroutine function, which
        # a C slot is not. Calls of the object itself never look here: they go to the slot.
        self.__dict__["__call__"] = self._called_by_name

    async def _called_by_name(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self(scope, receive, send)

    async def _resolve(
        self, scope: Scope, receive: Receive, send: Send, key: Any, cost: Any
    ) -> None:
        """Await the key, the cost, the decision. Called by the gate where one is awaitable."""
        if inspect.isawaitable(key):
            key = await key
        if inspect.isawaitable(cost):
            cost = await cost
        if cost is None:  # to the gate it would mean the default
            raise TypeError("cost must be a number, not NoneType")
        if self._redis is None:
            await self._decide(scope, receive, send, key, cost)
            return
        if key is None:
            key = client_of(scope)
        decision = await self._redis.ask_async("hit", key, cost)
        self._decided(key, decision)
        await self._conclude(scope, receive, send, decision)

    def _decided(self, key: Any, decision: Decision) -> None:
        """Hear of a decision of Redis: for subclasses."""

    async def _deny(self, scope: Scope, receive: Receive, send: Send, decision: Decision) -> None:
        """Answer a denied request. Called by the gate; `send` adds the headers."""
        if scope["type"] == "websocket":
            await receive()  # a server may wait for its "websocket.connect" to be taken
            if "websocket.http.response" not in (scope.get("extensions") or {}):
                await send({"type": "websocket.close", "code": 1008, "reason": DENIED_DETAIL})
                return
        if self._redis is not None and self._redis.is_denial_for_want_of_store(decision):
            await _answer(503, NO_STORE_DETAIL, scope, send)
            return
        if self._denied is None:
            await _answer(429, DENIED_DETAIL, scope, send)
            return
        answer = self._denied(scope, decision)
        if inspect.isawaitable(answer):
            answer = await answer
        await answer(scope, receive, send)


def client_of(scope: Scope) -> str:
    """Return the key of the peer of a request."""
    client = scope.get("client")
    return client_key(client[0] if client else None)


async def _answer(status: int, detail: str, scope: Scope, send: Send) -> None:
    prefix = "websocket." if scope["type"] == "websocket" else ""
    body = json.dumps({"detail": detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": f"{prefix}http.response.start", "status": status, "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": body})


def one_limiter(
    limits: Limits | None,
    limiter: RateLimiter | None,
    *,
    store: object,
    name: str,
    on_store_error: str,
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
        return RateLimiter(
            limits,
            store=store,
            name=name,
            on_store_error=on_store_error,
            max_keys=max_keys,
            clock=clock,
        )
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


# --- Middleware in the words of two earlier systems ---------------------------------------------


class RateLimiterMiddleware(RateLimitMiddleware):
    """Limit every path but ``/health`` by a TokenBucket in Redis, per client.

    The client is the first element of ``X-Forwarded-For``, which anybody can write: put it
    behind a proxy that sets the header. Without the header it is the peer's address.

    Args:
        app: the ASGI application.
        redis_client: a redis-py client, sync or asyncio, or an address: see RedisStore.
        capacity: tokens a bucket holds.
        refill_rate: tokens per second.
    """

    def __init__(
        self, app: ASGIApp, redis_client: object, capacity: int = 10, refill_rate: float = 2.0
    ) -> None:
        bucket = TokenBucket(redis_client, capacity, refill_rate)
        super().__init__(
            app, limiter=bucket.limiter, key=first_forwarded, exempt_paths=("/health",)
        )


class DistributedTokenBucketMiddleware:
    """Limit an application by buckets in the Redis of ``app.state.redis``, per client.

    The client of redis-py is looked for at each request. Where there is none, the request passes
    and an error is logged. Who a client is: see RateLimiterMiddleware.

    Args:
        app: the ASGI application.
        capacity: tokens a bucket holds.
        refill_rate: tokens per second.

    Raises:
        TypeError, ValueError: a number is out of range.
    """

    def __init__(self, app: ASGIApp, capacity: float, refill_rate: float) -> None:
        self.app = app
        self.limit = Limit(capacity, refill_rate)
        self._gates: dict[int, tuple[object, _LoggingGate]] = {}  # by id of a client, kept alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = getattr(scope.get("app"), "state", None)
        redis = getattr(state, "redis", None)
        if redis is None:
            logger.error("app.state.redis is missing: the request is not limited")
            await self.app(scope, receive, send)
            return
        _, gate = self._gates.get(id(redis)) or self._gates.setdefault(
            id(redis), (redis, _LoggingGate(self.app, redis, self.limit))
        )
        await gate(scope, receive, send)


class _LoggingGate(RateLimitMiddleware):
    def __init__(self, app: ASGIApp, redis: object, limit: Limit) -> None:
        limiter = RedisRateLimiter(limit, store=RedisStore(redis), exact_prefix="rate-limit:")
        super().__init__(app, limiter=limiter, key=first_forwarded, denied=_plain_denial)

    def _decided(self, key: Any, decision: Decision) -> None:
        logger.info(
            "Client '%s': Allowed=%s, Tokens Left=%.2f", key, decision.allowed, decision.remaining
        )


def _plain_denial(scope: Scope, decision: Decision) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"17")]
        await send({"type": "http.response.start", "status": 429, "headers": headers})
        await send({"type": "http.response.body", "body": b"Too Many Requests"})

    return answer


def first_forwarded(scope: Scope) -> str:
    """Return the first element of ``X-Forwarded-For``, else the peer's address, else ``unknown``.

    Not to be trusted but behind a proxy that sets the header. Of an element that is longer than
    any address, the digest stands for it.
    """
    for name, value in scope["headers"]:
        if name == b"x-forwarded-for":
            first: str = value.decode("latin-1").split(",")[0].strip()
            if first:
                return first if len(first) <= 100 else "sha256:" + sha256(value).hexdigest()
            break
    client = scope.get("client")
    return str(client[0]) if client and client[0] else "unknown"

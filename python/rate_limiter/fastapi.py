"""RateLimit: a limit for one FastAPI route, for a router, or for an application.

    @app.post("/upload", dependencies=[Depends(RateLimit("5/minute", cost=3))])

A dependency can neither add to the documented responses of its route, nor see the response that
is sent. So importing this module extends two methods of FastAPI:

- `openapi`: documents the 429 of each route that depends on a RateLimit, unless the route
  documents one itself;
- `build_middleware_stack`: adds a SettlingMiddleware, for `cost_after`, when an application starts.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of RateLimit.__call__.

import copy
import functools
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from fastapi import FastAPI, HTTPException, Response, WebSocketException, routing
from fastapi.dependencies.models import Dependant
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection

from rate_limiter._core import Decision, ManualClock
from rate_limiter.checks.arguments import DEFAULT_STORE, check_arguments, checked_text, uses_address
from rate_limiter.exceptions import RateLimitExceeded
from rate_limiter.limit import Limits
from rate_limiter.limiting.async_limiter import AsyncRateLimiter
from rate_limiter.limiting.limiter import RateLimiter
from rate_limiter.observe.metrics_option import checked_metrics
from rate_limiter.observe.registry import watch
from rate_limiter.policy.client_address import ClientAddress
from rate_limiter.policy.headers import DENIED_DETAIL, NO_STORE_DETAIL, HeaderStyle, LimitState
from rate_limiter.policy.keys import Identities, KeySpec
from rate_limiter.policy.policy import (
    CostAfter,
    Finished,
    Storage,
    correct,
    errors_logged,
    now,
)
from rate_limiter.policy.request_fields import (
    Framework,
    header_value,
    header_values,
    signed_value,
)
from rate_limiter.policy.setup_checks import SetupChecks
from rate_limiter.stores.address import MEMORY
from rate_limiter.web.asgi_messages import ASGIApp, Receive, Scope, Send
from rate_limiter.web.asgi_middleware import checked_cost, one_limiter
from rate_limiter.web.watching import Watch

if TYPE_CHECKING:
    from rate_limiter.jwt import Jwt

Key: TypeAlias = Callable[[HTTPConnection], str | bytes | Awaitable[str | bytes | None] | None]
Cost: TypeAlias = Callable[[HTTPConnection], float | Awaitable[float]]

_CONNECTION = "rate_limiter.connection"
_TAKEN = "rate_limiter.taken"
"""The key of a list of _Taken in the scope of a request."""
_WATCH = "rate_limiter.watch"
"""The key of the Watch of a request, which SettlingMiddleware sets."""

RATE_LIMITED_RESPONSE: dict[str, Any] = {
    "description": "Rate limit exceeded",
    "headers": {
        "Retry-After": {
            "description": "Seconds until the same request would pass.",
            "schema": {"type": "integer", "minimum": 1},
        },
        "X-RateLimit-Limit": {
            "description": "Requests allowed at once.",
            "schema": {"type": "integer"},
        },
        "X-RateLimit-Remaining": {
            "description": "Requests left.",
            "schema": {"type": "integer", "minimum": 0},
        },
        "X-RateLimit-Reset": {
            "description": "Seconds until the limit resets.",
            "schema": {"type": "integer", "minimum": 0},
        },
    },
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"detail": {"type": "string"}},
                "required": ["detail"],
            },
            "example": {"detail": DENIED_DETAIL},
        }
    },
}
"""The description of the 429 in the OpenAPI document."""


class FastApiFramework(Framework):
    """Read requests as FastAPI does: the first value of a repeated header counts."""

    def header(self, scope: Any, name: bytes) -> str | None:
        """Return the value in ``connection.headers``."""
        values = header_values(scope, name)
        return header_value(name, values[0]) or None if values else None

    def cookie(self, scope: Any, name: str) -> str | None:
        """Return the value in ``connection.cookies``."""
        return signed_value(HTTPConnection(scope).cookies.get(name, "")) or None


class RateLimitHTTPException(RateLimitExceeded, HTTPException):
    """Raised for a denied request; FastAPI turns it into a 429.

    An exception handler for RateLimitExceeded can return another response, with its `headers`.
    """

    def __init__(self, decision: Decision, key: str | bytes, headers: dict[str, str]) -> None:
        HTTPException.__init__(self, 429, DENIED_DETAIL, headers)
        RateLimitExceeded.__init__(self, decision, key)


class RateLimit:
    """Limit the routes that depend on this object, per client: ``Depends(RateLimit("5/minute"))``.

    Each object has its own buckets, shared by all routes that depend on it. FastAPI calls it once
    per request, even if it is used several times. If a request depends on several limits and one
    denies it, the others get their tokens back. On websocket routes the client gets a 429 if the
    server supports that, else the websocket is closed with code 1008.

    The headers are on the responses that FastAPI makes from the return value of a route, but not
    on those of a route that returns a Response or raises. The middleware always adds them.

    Args:
        limits: a text (``"5/minute"``), a Limit, or several, which are all or nothing.
        limiter: a RateLimiter instead of `limits`, to share its buckets.
        key: as for RateLimitMiddleware; a callable gets the HTTPConnection (a Request or a
            WebSocket).
        cost: tokens a request takes: a number, or a callable, sync or async, that gets the
            HTTPConnection.
        cost_after: a callable, sync or async, that gets a Finished when the response has been sent
            and returns the final cost. The difference is refunded or charged; None changes
            nothing.
        headers, reset, retry_jitter_s: as for RateLimitMiddleware.
        trusted_proxies, proxy_header, ipv6_prefix, jwt: as for RateLimitMiddleware.
        metrics: the name of its decisions in metrics, such as ``"upload"``.
        name: the name of the limit in headers. Required with a shared store, where it identifies
            the buckets of this object.
        store, on_store_error, max_keys, clock: as for RateLimiter.
        enabled: False allows every request, for example in tests; may be set later.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        limiter: RateLimiter | None = None,
        key: KeySpec | Key = "ip",
        cost: float | Cost = 1,
        cost_after: CostAfter | None = None,
        headers: str = "x-ratelimit",
        reset: str = "seconds",
        retry_jitter_s: float = 0,
        trusted_proxies: Iterable[str] = (),
        proxy_header: str = "x-forwarded-for",
        ipv6_prefix: int = 64,
        jwt: "Jwt | None" = None,
        metrics: str | None = None,
        store: object = DEFAULT_STORE,
        name: str = "",
        on_store_error: str = "memory",
        max_keys: int = 1_000_000,
        clock: str | ManualClock = "monotonic",
        enabled: bool = True,
    ) -> None:
        arguments = {"denied": None} | locals()
        if limiter is None:  # headers show the name with any store
            checked_text("name", arguments.pop("name"))
        check_arguments(RateLimit.__init__, arguments)
        self.enabled = enabled
        if store != MEMORY and not name:
            raise ValueError(
                "with a shared store, a RateLimit needs a name, which identifies its buckets in "
                "all processes: RateLimit(..., name='upload')"
            )
        shared_name = "" if store == MEMORY else name
        storage = Storage(store, shared_name, on_store_error, max_keys, clock)
        self.limiter = one_limiter(limits, limiter, storage)
        metrics = checked_metrics(metrics)
        if metrics is not None:
            watch(self.limiter, metrics)
        self._async = AsyncRateLimiter.of(self.limiter)
        address = ClientAddress(trusted_proxies, header=proxy_header, ipv6_prefix=ipv6_prefix)
        self._identities = Identities(address, jwt, framework=FastApiFramework())
        self._key = _key_of_connection(key, self._identities)
        self._cost = checked_cost(cost, self.limiter)
        self._cost_after = cost_after
        self._checks = SetupChecks(
            in_memory=store == MEMORY and not self.limiter.is_remote,
            uses_address=not callable(key) and uses_address(key),
            trusts_proxies=address.reads_header,
            shares_key=key == "all",
        )
        self._style = HeaderStyle(headers, reset, retry_jitter_s)
        names = [name] if len(self.limiter.limits) == 1 else []
        self._names = [name for name in names if name] or [*map(str, self.limiter.limits)]

    @property
    def dependency(self) -> Any:
        """Refuse ``dependencies=[RateLimit(...)]``: FastAPI reads this attribute of each one.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "wrap a RateLimit in Depends(): dependencies=[Depends(RateLimit(...))], not "
            "dependencies=[RateLimit(...)]"
        )

    async def __call__(self, connection: HTTPConnection, response: Response) -> Decision:
        """Decide for this request; called by FastAPI.

        Returns:
            The Decision, for routes that declare the dependency as a parameter.

        Raises:
            RateLimitHTTPException: denied.
            HTTPException: 503, the store is unavailable (``on_store_error="deny"``).
            WebSocketException: denied, on a server that cannot send a 429 to a websocket.
        """
        if not self.enabled:
            return _untouched(self.limiter)
        taken: list[_Taken] = connection.scope.setdefault(_TAKEN, [])
        if self._cost_after is not None:
            self._watch(connection)
        try:
            key = await self._key_of(connection)
            cost = await now(self._cost(connection) if callable(self._cost) else self._cost)
            if not self._checks.is_done:
                self._checks.look(connection.scope, key)
            decision, *each = await self._async.hit_each(key, cost)
            states = [
                LimitState(*one) for one in zip(self._names, self.limiter.limits, each, strict=True)
            ]
            if not decision:
                raise self._denied(connection, decision, key, states)
        except Exception:
            await _give_back(taken)
            raise
        has_headers = self._style.style != "off"
        taken.append(_Taken(self, key, cost, decision, states if has_headers else []))
        if has_headers:
            tightest = min(
                (one.decision for one in taken if one.states), key=lambda one: one.remaining
            )
            every = [states for one in taken for states in one.states]
            response.headers.update(self._style.values(tightest, every))
        return decision

    def _watch(self, connection: HTTPConnection) -> None:
        """Start the Watch of the response, for `cost_after`."""
        watch: Watch | None = connection.scope.get(_WATCH)
        if watch is None:
            raise RuntimeError(
                "cost_after of a RateLimit needs SettlingMiddleware, which FastAPI applications "
                "have by default: app.add_middleware(rate_limiter.fastapi.SettlingMiddleware)"
            )
        watch.start()

    async def _settle(self, taken: "_Taken", finished: Finished) -> None:
        """Refund or charge the difference between the final cost and the tokens taken."""
        if self._cost_after is None:
            return
        cost = await now(self._cost_after(replace(finished, cost=taken.cost, key=taken.key)))
        if cost is not None:
            await correct(self._async, taken.key, taken.cost, cost)

    async def _key_of(self, connection: HTTPConnection) -> str | bytes:
        key: str | bytes | None = await now(self._key(connection))
        return self._identities.client(connection.scope) if key is None else key

    def _denied(
        self,
        connection: HTTPConnection,
        decision: Decision,
        key: str | bytes,
        states: list[LimitState],
    ) -> Exception:
        extensions = connection.scope.get("extensions") or {}
        if connection.scope["type"] == "websocket" and "websocket.http.response" not in extensions:
            return WebSocketException(1008, DENIED_DETAIL)
        if decision.store_unavailable:
            return HTTPException(503, NO_STORE_DETAIL, {"Retry-After": "1"})
        return RateLimitHTTPException(decision, key, self._style.values(decision, states))


def _untouched(limiter: RateLimiter) -> Decision:
    """Return the Decision of a request that took no tokens from a full bucket."""
    capacity = min(limit.capacity for limit in limiter.limits)
    return Decision(True, capacity, limit=capacity)


def _key_of_connection(key: Any, identities: Identities) -> Callable[[HTTPConnection], Any]:
    """Return the function that reads the key of a connection; users' callables get it too."""
    if callable(key):
        given: Callable[[HTTPConnection], Any] = key
        return given
    parts = [] if isinstance(key, str) or not isinstance(key, Iterable) else list(key)
    if not any(map(callable, parts)):
        words = identities.key(parts or key)
        return lambda connection: words(connection.scope)
    chain = identities.key([_with_connection(one) if callable(one) else one for one in parts])

    async def of_connection(connection: HTTPConnection) -> Any:
        connection.scope[_CONNECTION] = connection
        try:
            return await now(chain(connection.scope))
        finally:  # break the reference cycle
            del connection.scope[_CONNECTION]

    return of_connection


def _with_connection(function: Callable[[HTTPConnection], Any]) -> Callable[[Any], Any]:
    return lambda scope: function(scope[_CONNECTION])


# --- After the response --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Taken:
    """The tokens that one RateLimit took for a request."""

    by: RateLimit
    key: str | bytes
    cost: float
    decision: Decision
    states: list[LimitState]  # for the headers


async def _give_back(taken: list[_Taken]) -> None:
    for one in taken:
        with errors_logged():
            await correct(one.by._async, one.key, one.cost, 0)
    taken.clear()


async def _settle(taken: list[_Taken], finished: Finished) -> None:
    for one in taken:
        with errors_logged():
            await one.by._settle(one, finished)


class SettlingMiddleware:
    """Settle the cost of a request's RateLimits when its response is over.

    FastAPI applications add it when they start. Add it yourself to other applications that call
    FastAPI routes.

    Args:
        app: the ASGI application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or _WATCH in scope:
            await self.app(scope, receive, send)
            return
        taken: list[_Taken] = scope.setdefault(_TAKEN, [])
        scope[_WATCH] = watch = Watch(scope, receive, send)
        try:
            await watch.run(self.app, functools.partial(_settle, taken))
        finally:  # break the reference cycle
            del scope[_WATCH]


def _settling(build: Callable[[FastAPI], ASGIApp]) -> Callable[[FastAPI], ASGIApp]:
    @functools.wraps(build)
    def settling(app: FastAPI) -> ASGIApp:
        classes: list[object] = [middleware.cls for middleware in app.user_middleware]
        if SettlingMiddleware not in classes:
            app.user_middleware.insert(0, Middleware(SettlingMiddleware))
        return build(app)

    return settling


FastAPI.build_middleware_stack = _settling(FastAPI.build_middleware_stack)  # type: ignore[method-assign,assignment]


# --- OpenAPI -------------------------------------------------------------------------------------


def document_limits(document: dict[str, Any], routes: Iterable[Any]) -> None:
    """Describe the 429 of every route that depends on a RateLimit.

    ``app.openapi()`` does it automatically. If your application builds its OpenAPI document in
    another way, call this with the document and ``app.routes``. Routes that document a 429 keep
    their description.
    """
    for route in _route_contexts(routes):
        dependant = getattr(route, "dependant", None)
        if dependant is None or not _is_limited(dependant):
            continue
        operations = document["paths"].get(getattr(route, "path_format", None), {})
        for method in getattr(route, "methods", ()):
            responses = operations.get(method.lower(), {}).get("responses")
            if responses is not None and "4XX" not in responses:
                responses.setdefault("429", copy.deepcopy(RATE_LIMITED_RESPONSE))


def _route_contexts(routes: Iterable[Any]) -> Iterable[Any]:
    """Return all routes, including those that newer versions keep in included routers."""
    iterate = getattr(routing, "iter_route_contexts", None)
    contexts: Iterable[Any] = routes if iterate is None else iterate(routes)
    return contexts


def _is_limited(dependant: Dependant) -> bool:
    return isinstance(dependant.call, RateLimit) or any(map(_is_limited, dependant.dependencies))


def _extended(openapi: Callable[[FastAPI], dict[str, Any]]) -> Callable[[FastAPI], dict[str, Any]]:
    @functools.wraps(openapi)
    def extended(app: FastAPI) -> dict[str, Any]:
        before = app.openapi_schema
        document = openapi(app)
        if document is not before:  # newer versions rebuild it after adding routes
            document_limits(document, app.routes)
        return document

    return extended


FastAPI.openapi = _extended(FastAPI.openapi)  # type: ignore[method-assign,assignment]

"""RateLimit: the dependency of FastAPI that limits a route, and what settles its cost."""

# No `from __future__ import annotations`: FastAPI reads the annotations of RateLimit.__call__.

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from fastapi import HTTPException, WebSocketException, params
from starlette.requests import HTTPConnection, Request
from starlette.websockets import WebSocket

from rate_limiter._core import Decision, RateLimitRecord, Verdict
from rate_limiter.checks.arguments import check_arguments, checked_text
from rate_limiter.checks.effects import DEFAULT_STORE, uses_address
from rate_limiter.checks.words import HeaderWord, OnStoreError, ProxyHeader, ResetWord, TopKeys
from rate_limiter.exceptions import RateLimitExceeded
from rate_limiter.limit import Cost as Tokens
from rate_limiter.limit import Limits
from rate_limiter.limiting.clocks import Clock
from rate_limiter.limiting.limiter import EVERY, RateLimiter
from rate_limiter.observe.metrics_option import dimension_of
from rate_limiter.observe.registry import limits_are_off, measure
from rate_limiter.policy.client_address import ClientAddress
from rate_limiter.policy.denied_requests import OnDenied
from rate_limiter.policy.dynamic_limits import DynamicLimits, dynamic_of
from rate_limiter.policy.headers import DENIED_DETAIL, NO_STORE_DETAIL, HeaderStyle
from rate_limiter.policy.keys import Identities
from rate_limiter.policy.policy import Policy
from rate_limiter.policy.request_fields import (
    Framework,
    header_value,
    header_values,
    signed_value,
)
from rate_limiter.policy.rule_sources import RuleSource
from rate_limiter.policy.rules import Rule, RuleTable
from rate_limiter.policy.settling import CostAfter, Finished, errors_logged, record_of, settle
from rate_limiter.policy.setup_checks import SetupChecks
from rate_limiter.policy.storage import SharedLimiter, Storage
from rate_limiter.stores.address import MEMORY
from rate_limiter.web.asgi_messages import (
    ASGIApp,
    Receive,
    Scope,
    Send,
    is_websocket,
    takes_response,
)
from rate_limiter.web.limited_application import checked_cost, one_limiter
from rate_limiter.web.watching import Watch

if TYPE_CHECKING:
    from rate_limiter.jwt import Jwt

Key: TypeAlias = Callable[[HTTPConnection], str | bytes | Awaitable[str | bytes | None] | None]
Cost: TypeAlias = (
    Callable[[HTTPConnection], Tokens | Awaitable[Tokens]]
    | Callable[[Request], Tokens | Awaitable[Tokens]]
    | Callable[[WebSocket], Tokens | Awaitable[Tokens]]
)
"""A function for routes of one kind may name that kind."""

LimitsArgument: TypeAlias = (
    Limits | DynamicLimits | Callable[[HTTPConnection], Limits | Awaitable[Limits]]
)

_SETTLING = "rate_limiter.settling"
"""The key of the _Settling of a request, which SettlingMiddleware sets."""


class FastApiFramework(Framework):
    """Read requests as FastAPI does: the first value of a repeated header counts."""

    def answers(self, error: Exception) -> bool:
        return isinstance(error, HTTPException)

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

    The headers describe the tightest limit of the request and are on every response of a request
    that the limit decided about, errors too. Routes read it as ``request.state.rate_limit``.

    Args:
        limits: a text (``"5/minute"``), a Limit, or several, which are all or nothing; or a
            function, sync or async, that gets the HTTPConnection and returns these, see
            DynamicLimits.
        limiter: a RateLimiter instead of `limits`, to share its buckets.
        key: as for RateLimitMiddleware; a callable gets the HTTPConnection (a Request or a
            WebSocket). ``Depends(current_user)`` limits by what that dependency returns; FastAPI
            calls it once for the limit and the route.
        cost: tokens a request takes: a number, a tuple with one for each limit, or a callable,
            sync or async, that gets the HTTPConnection.
        cost_after: a callable, sync or async, that gets a Finished when the response has been sent
            and returns the final cost. The difference is refunded or charged; None changes
            nothing.
        headers, reset, retry_jitter_s: as for RateLimitMiddleware.
        cors: let scripts of other origins read the headers.
        client, trusted_proxies, proxy_header, ipv6_prefix, jwt: as for RateLimitMiddleware.
        on_denied: as for RateLimitMiddleware.
        metrics: the name of its decisions in metrics, such as ``"upload"``.
        tracing: as for RateLimitMiddleware.
        top, top_keys: as for RateLimitMiddleware.
        name: the name of the limit in headers. Required with a shared store, where it identifies
            the buckets of this object.
        store, on_store_error, max_keys, clock: as for RateLimiter.
        enabled: False allows every request, for example in tests; may be set later.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """

    any_settles: ClassVar[bool] = False
    """Whether some RateLimit has cost_after."""

    def __init__(
        self,
        limits: LimitsArgument | None = None,
        *,
        limiter: RateLimiter | None = None,
        key: Any = "ip",
        cost: Tokens | Cost = 1,
        cost_after: CostAfter | None = None,
        headers: HeaderWord | HeaderStyle = "x-ratelimit",
        reset: ResetWord = "seconds",
        retry_jitter_s: float = 0,
        cors: bool = False,
        client: ClientAddress | None = None,
        trusted_proxies: Iterable[str] = (),
        proxy_header: ProxyHeader = "x-forwarded-for",
        ipv6_prefix: int = 64,
        jwt: "Jwt | None" = None,
        on_denied: OnDenied | None = None,
        metrics: str | None = None,
        tracing: bool = False,
        top: int | None = None,
        top_keys: TopKeys = "masked",
        store: object = DEFAULT_STORE,
        name: str = "",
        on_store_error: OnStoreError = "memory",
        max_keys: int = 1_000_000,
        clock: Clock = "monotonic",
        enabled: bool = True,
    ) -> None:
        arguments = {"denied": None} | locals()
        if limiter is None:  # headers show the name with any store
            checked_text("name", arguments.pop("name"))
        check_arguments(RateLimit.__init__, arguments)
        storage = Storage.of(arguments | {"name": ""})
        if name and storage.store != MEMORY:
            storage = storage.below(name)
        if storage.store != MEMORY and not storage.name:
            raise ValueError(
                "with a shared store, a RateLimit needs a name, which identifies its buckets in "
                "all processes: RateLimit(..., name='upload')"
            )
        self._set_up(one_limiter(limits, limiter, storage), arguments, name)

    def _set_up(self, limiter: RateLimiter, given: Mapping[str, Any], name: str) -> None:
        """Limit by a limiter.

        Args:
            limiter: has the buckets.
            given: the arguments of __init__, which were checked.
            name: the name of the limit in headers.
        """
        key, cost = given["key"], given["cost"]
        self.limiter = limiter
        self.enabled: bool = given["enabled"]
        if not self.enabled:
            limits_are_off()
        dimension = dimension_of(given)
        if dimension is not None:
            measure(limiter, dimension)
        address = ClientAddress.of(given)
        self._checks = SetupChecks(
            in_memory=limiter.is_in_memory,
            uses_address=not callable(key) and uses_address(key),
            trusts_proxies=address.reads_header,
            shares_key=key == "all",
        )
        self._settles = given["cost_after"] is not None
        RateLimit.any_settles |= self._settles
        dynamic = dynamic_of(given["limits"])
        checked_cost(cost, limiter.limits if dynamic is None else ())
        self._takes_key = isinstance(key, params.Depends)
        self.__signature__ = _signature(key if self._takes_key else None)
        if isinstance(key, params.Depends):
            key, cost = _second, _of_first(cost)
            if dynamic is not None:
                dynamic = dynamic.with_function(_of_first(dynamic.function))
        several = limiter.limits
        names = tuple(map(str, several)) if dynamic is None else (dynamic.name,)
        self._policy = Policy(
            RuleSource(RuleTable([Rule(name or "; ".join(names), several, dynamic=dynamic)])),
            SharedLimiter(limiter),
            Identities(address, given["jwt"], framework=FastApiFramework()),
            key=key,
            cost=cost,
            cost_after=given["cost_after"],
            style=HeaderStyle.of(given),
            names=(name,) if name and len(names) == 1 else names,
            on_denied=given["on_denied"],
            tracing=given["tracing"],
        )

    @classmethod
    def of(cls, limiter: RateLimiter, given: Mapping[str, Any], name: str) -> "RateLimit":
        """Return a RateLimit with a limiter and arguments that were checked."""
        made = cls.__new__(cls)
        made._set_up(limiter, given, name)
        return made

    def limits_route(self, place: Any) -> bool:
        """Return whether it limits a route that depends on it; it always does."""
        return True

    def reset(self, key: str | bytes = EVERY, *, prefix: str | bytes = EVERY) -> None:
        """Make buckets full: see RateLimiter.reset.

        With a Redis this blocks: call it in a ``def`` route or by ``asyncio.to_thread``.
        """
        self.limiter.reset(key, prefix=prefix)

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

    async def __call__(self, connection: HTTPConnection, key: Any = None) -> Decision:
        """Decide for this request; called by FastAPI.

        Args:
            connection: the request or websocket.
            key: the value of `key`, if that is a dependency.

        Returns:
            The Decision, for routes that declare the dependency as a parameter.

        Raises:
            RateLimitHTTPException: denied.
            HTTPException: 503, the store is unavailable (``on_store_error="deny"``).
            WebSocketException: denied, on a server that cannot send a 429 to a websocket.
        """
        if not self.enabled:
            return untouched(self.limiter)
        scope = connection.scope
        settling = self._settling(scope) if self._settles else None
        subject = (connection, key) if self._takes_key else connection
        verdict = await self._policy.decide(scope, subject)
        if verdict is None:
            return untouched(self.limiter)
        if not self._checks.is_done:
            self._checks.look(scope, verdict.key, calls_key=self._policy.calls_key)
        if verdict.is_denial:
            raise _denied(connection, verdict)
        if settling is not None:
            record = record_of(scope)
            if record is not None:
                settling.taken[self._policy, record] = None
        return verdict.decision

    def _settling(self, scope: Scope) -> "_Settling":
        """Return what settles this request, for `cost_after`."""
        settling: _Settling | None = scope.get(_SETTLING)
        if settling is None:
            raise RuntimeError(
                "cost_after of a RateLimit needs SettlingMiddleware, which FastAPI applications "
                "have if a RateLimit with cost_after is made before they start: "
                "app.add_middleware(rate_limiter.fastapi.SettlingMiddleware)"
            )
        settling.watch.start()
        return settling


def _denied(connection: HTTPConnection, verdict: Verdict) -> Exception:
    scope = connection.scope
    if is_websocket(scope) and not takes_response(scope):
        return WebSocketException(1008, DENIED_DETAIL)
    if verdict.store_unavailable:
        return HTTPException(503, NO_STORE_DETAIL, {"Retry-After": "1"})
    record = record_of(scope)
    headers = {} if record is None else record.headers()
    return RateLimitHTTPException(verdict.decision, verdict.key, headers)


def untouched(limiter: RateLimiter) -> Decision:
    """Return the Decision of a request that took no tokens from a full bucket."""
    capacity = min(limit.capacity for limit in limiter.limits)
    return Decision(True, capacity, limit=capacity)


# --- A key that is a dependency ------------------------------------------------------------------


def _signature(key: params.Depends | None) -> inspect.Signature:
    """Return the signature from which FastAPI reads what a RateLimit needs."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("connection", kind, annotation=HTTPConnection)]
    if key is not None:
        parameters.append(inspect.Parameter("key", kind, default=key))
    return inspect.Signature(parameters)


def _second(subject: tuple[HTTPConnection, Any]) -> Any:
    return subject[1]


def _of_first(cost: Any) -> Any:
    return (lambda subject: cost(subject[0])) if callable(cost) else cost


# --- After the response --------------------------------------------------------------------------


class _Settling:
    """A request whose cost may change after the response."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        # Each pair once, in order; a websocket has a record for each message.
        self.taken: dict[tuple[Policy, RateLimitRecord], None] = {}


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
        if scope["type"] not in ("http", "websocket") or _SETTLING in scope:
            await self.app(scope, receive, send)
            return
        settling = scope[_SETTLING] = _Settling(Watch(scope, receive, send))
        try:
            await settling.watch.run(self.app, functools.partial(_settle, settling))
        finally:  # break the reference cycle
            del scope[_SETTLING]


async def _settle(settling: _Settling, finished: Finished) -> None:
    for policy, record in settling.taken:
        verdicts = [one for one in record.verdicts if one.policy is policy]
        with errors_logged():
            await settle(verdicts, finished)

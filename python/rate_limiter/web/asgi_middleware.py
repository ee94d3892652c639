"""RateLimitMiddleware: limits for every ASGI application.

    app.add_middleware(RateLimitMiddleware, limits="100/minute", key="ip")
    app.add_middleware(RateLimitMiddleware, rules="rate_limits.json")

Pure ASGI: an allowed request goes straight to the application, with its own `scope`. Streaming,
background tasks, context variables and exceptions work as they do without the middleware.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from rate_limiter import _core
from rate_limiter._core import Decision, RateLimitRecord, Verdict
from rate_limiter.checks.arguments import check_arguments, checked_paths
from rate_limiter.checks.effects import DEFAULT_STORE
from rate_limiter.checks.redaction import shown
from rate_limiter.checks.words import HeaderWord, OnStoreError, ProxyHeader, ResetWord, TopKeys
from rate_limiter.limit import Cost as Tokens
from rate_limiter.limit import Limits
from rate_limiter.limiting.clocks import Clock
from rate_limiter.limiting.limiter import EVERY, RateLimiter
from rate_limiter.observe.registry import limits_are_off
from rate_limiter.policy.client_address import ClientAddress
from rate_limiter.policy.denials import Template
from rate_limiter.policy.denied_requests import OnDenied
from rate_limiter.policy.dynamic_limits import DynamicLimits
from rate_limiter.policy.headers import HeaderStyle
from rate_limiter.policy.keys import BypassSpec, KeySpec, TierSpec
from rate_limiter.policy.lookups import status_of
from rate_limiter.policy.policy import Policy
from rate_limiter.policy.settling import CostAfter, Finished, give_back, record_of, settle
from rate_limiter.web.answers import NO_METHOD, NO_STORE, state_answer
from rate_limiter.web.asgi_messages import (
    AnyASGIApp,
    ASGIApp,
    Receive,
    Scope,
    Send,
    first_forwarded,
    send_answer,
    send_users_answer,
    turned_away,
)
from rate_limiter.web.limited_application import LimitedApplication, limit_application
from rate_limiter.web.watching import Watch

if TYPE_CHECKING:
    from rate_limiter.jwt import Jwt

Key: TypeAlias = Callable[[Scope], str | bytes | Awaitable[str | bytes | None] | None]
Cost: TypeAlias = Callable[[Scope], Tokens | Awaitable[Tokens]]
Denied: TypeAlias = Callable[[Scope, Decision], ASGIApp | Awaitable[ASGIApp]]
LimitsArgument: TypeAlias = Limits | DynamicLimits | Callable[[Scope], Limits | Awaitable[Limits]]


class KeyLimiter(Protocol):
    """A limiter with the one method that an API gateway needs."""

    def check(self, key: str, /) -> Any: ...


class GatewayPolicy(Protocol):
    """The `policy` that makes RateLimitMiddleware the middleware of an API gateway."""

    @property
    def exempt_paths(self) -> frozenset[str]: ...

    @property
    def gateway(self) -> Callable[..., ASGIApp]: ...


class RateLimitMiddleware(_core.AsgiMiddleware):
    """Limit the requests and websockets of an ASGI application, per client.

    A denied request gets a 429. A denied websocket gets a 429 before it is accepted if the server
    supports that (the ``websocket.http.response`` extension), else it is closed with code 1008.

    Give one of `limits`, `rules` and `limiter`. With `limiter` and `policy` it is the middleware
    of an API gateway: see rate_limiter.config.RateLimitPolicy. An argument that has no effect in
    combination with the others is an error, even if `enabled` is False.

    Args:
        app: the ASGI application.
        limits: a text (``"100/minute"``), a Limit, or several; or a function, sync or async, that
            gets the scope and returns these, see DynamicLimits; or a mapping of tiers to any of
            these, from the lowest to the highest.
        rules: a file of rules, the address of a Redis that holds some, a dict, or a RuleSource;
            see docs/rules.md.
        limiter: a RateLimiter instead of `limits`, to share its buckets.
        policy: with a TokenBucketLimiter as `limiter`: what a gateway allows each client.
        key: who a request counts for: ``"ip"``, ``"header:NAME"``, ``"cookie:NAME"``,
            ``"user"``, ``"jwt:CLAIM"``, ``"all"``, several (the first one present wins), or a
            callable, sync or async, that gets the scope and returns str or bytes. If none is
            present, the client's address counts, so omitting a header does not lift a limit.
        cost: tokens a request takes: a number, a tuple with one for each limit, or a callable,
            sync or async, that gets the scope.
        cost_after: a callable, sync or async, that gets a Finished when the request is over and
            returns its final cost. The difference is refunded or charged; None changes nothing.
        tier: the source of a client's tiers: ``"header:NAME"``, ``"jwt:CLAIM"`` or a callable.
        bypass: clients that are not limited: ``"ip:NETWORK"``, ``"header:NAME=VALUE"``,
            ``"jwt:CLAIM=VALUE"``, a callable, or several of these.
        client: a ClientAddress, which finds the address of a request's client.
        trusted_proxies, proxy_header, ipv6_prefix: see ClientAddress; the short form of `client`.
            With `policy` and without `trusted_proxies`, the first element of ``X-Forwarded-For``
            is the client.
        jwt: a Jwt that verifies tokens, for ``jwt:`` in `key`, `tier`, `bypass` or a rule.
        exempt_paths: paths that are not limited, compared with the path behind ``root_path``.
        headers: ``"x-ratelimit"``, ``"ietf"``, ``"both"``, ``"off"`` or a HeaderStyle. A response
            with its own ``X-RateLimit-Limit`` keeps its ``X-RateLimit-*`` headers.
        reset, retry_jitter_s: see HeaderStyle.
        cors: see HeaderStyle. True also exempts preflight requests from the limits.
        denied: the response to a denied request: ``"json"``, ``"problem"``, a template, or a
            callable, sync or async, that gets the scope and the Decision and returns an ASGI
            application, such as a Starlette response. The headers are added to it.
        on_denied: a callable, sync or async, that gets a DeniedRequest for each request that is
            denied, before the response. What it raises is logged once. Shadow rules deny nothing.
        status_path: a path at which callers see their own state, which takes no tokens.
        metrics: the name of its decisions in metrics, such as ``"api"``; with rules or tiers, the
            name of each is added, as in ``"api.default"``. See docs/metrics.md.
        tracing: add an event for each denied request to the current span of OpenTelemetry, and
            trace the round trips to a Redis; see docs/tracing.md.
        top: with `metrics`: how many clients with the most decisions top_clients() is to find for
            each rule, 1 to 100. None counts no clients.
        top_keys: what is kept of their keys: ``"plain"``, ``"masked"`` or ``"hashed"``.
        store, name, max_keys, clock: as for RateLimiter; `store` may be a Store of all of them.
        on_store_error: as for RateLimiter. A request that is denied because the store is
            unavailable (``"deny"``) gets a 503.
        setup_checks: check the first requests for mistakes in the configuration, and log them.
        enabled: False allows every request, for example in tests.
        api_key_header, user_id_header: with `policy`: the headers with the API key and the user.
        dimension_label: with `policy`: the label of its metrics.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """

    def __init__(
        self,
        app: AnyASGIApp,
        limiter: RateLimiter | KeyLimiter | None = None,
        policy: GatewayPolicy | None = None,
        *,
        limits: LimitsArgument | Mapping[str, LimitsArgument] | None = None,
        rules: object = None,
        key: KeySpec = "ip",
        cost: Tokens | Cost = 1,
        cost_after: CostAfter | None = None,
        tier: TierSpec | None = None,
        bypass: BypassSpec = (),
        client: ClientAddress | None = None,
        trusted_proxies: Iterable[str] = (),
        proxy_header: ProxyHeader = "x-forwarded-for",
        ipv6_prefix: int = 64,
        jwt: Jwt | None = None,
        exempt_paths: Iterable[str] | None = None,
        headers: HeaderWord | HeaderStyle = "x-ratelimit",
        reset: ResetWord = "seconds",
        retry_jitter_s: float = 0,
        cors: bool = False,
        denied: Template | Denied | None = None,
        on_denied: OnDenied | None = None,
        status_path: str | None = None,
        metrics: str | None = None,
        tracing: bool = False,
        top: int | None = None,
        top_keys: TopKeys = "masked",
        store: object = DEFAULT_STORE,
        name: str = "",
        on_store_error: OnStoreError = "memory",
        max_keys: int = 1_000_000,
        clock: Clock = "monotonic",
        setup_checks: bool = True,
        enabled: bool = True,
        api_key_header: str = "x-api-key",
        user_id_header: str = "x-user-id",
        dimension_label: str = "default",
    ) -> None:
        arguments = dict(locals())
        if not enabled:
            limits_are_off()
        self._policy: Policy | None = None
        self._limited: LimitedApplication | None = None
        self._gateway: Any = None  # with `policy`: the application of an API gateway
        self._target = app  # gets the requests that the engine forwards
        if policy is not None:
            address = ClientAddress.of(arguments)
            check_arguments(RateLimitMiddleware.__init__, arguments)
            if not hasattr(policy, "gateway"):
                raise TypeError(f"policy must be a RateLimitPolicy, got {shown(policy)}")
            self._gateway = policy.gateway(
                app,
                limiter,
                api_key_header=api_key_header,
                user_id_header=user_id_header,
                dimension_label=dimension_label,
                tracing=tracing,
                client=address.key_of_scope if address.reads_header else first_forwarded,
                conclude=self._conclude,
            )
            self._target = self._gateway if enabled else app
            exempt_paths = policy.exempt_paths if exempt_paths is None else exempt_paths
            self._set_up(app, None, exempt_paths)
            return
        self._limited = limited = limit_application(RateLimitMiddleware.__init__, arguments)
        if limited.limiter is not None:
            self.limiter: RateLimiter = limited.limiter
        self._policy = limited.policy if enabled else None
        self._set_up(app, self._policy, exempt_paths or (), status_path)

    def _set_up(
        self,
        app: ASGIApp,
        policy: Policy | None,
        exempt_paths: Iterable[str],
        status_path: str | None = None,
    ) -> None:
        super().__init__(
            app,
            policy,
            exempt_paths=checked_paths("exempt_paths", exempt_paths),
            status_path=status_path if policy is not None else None,
            skips_preflight=policy is not None and policy.style.cors,
            probing=self._limited is not None and self._limited.checks is not None,
        )
        # Servers recognise ASGI 3 by a coroutine function `app.__call__`, which a C slot is not.
        # Calling the object never uses this attribute: it uses the slot.
        self.__call__ = self._called_by_name  # type: ignore[method-assign]

    @property
    def governor(self) -> Policy | None:
        """The Policy that decides by rules, tiers and so on; None for plain limits."""
        return self._policy if self._limited and self._limited.shows_policy else None

    @classmethod
    def of(cls, app: Any) -> RateLimitMiddleware:
        """Return the middleware of a Starlette or FastAPI application, the outermost of several.

        Raises:
            LookupError: it has none, or has handled no request and no lifespan event yet.
        """
        layer = getattr(app, "middleware_stack", app)
        while layer is not None and not isinstance(layer, cls):
            layer = getattr(layer, "app", None)
        if layer is None:
            raise LookupError(
                f"{app!r} has no RateLimitMiddleware; an application makes it when it starts"
            )
        return layer

    def reset(self, key: str | bytes = EVERY, *, prefix: str | bytes = EVERY) -> None:
        """Make buckets of all limits full: see RateLimiter.reset.

        With a Redis this blocks: call it in a ``def`` route or by ``asyncio.to_thread``.

        Raises:
            TypeError: the middleware has a `policy`; or as RateLimiter.reset.
        """
        if self._limited is None:
            raise TypeError("a middleware with policy has no limits to reset")
        self._limited.policy.reset(key, prefix=prefix)

    async def _called_by_name(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self(scope, receive, send)

    # --- Called by the engine ---

    def _forward(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Respond to a request that the engine does not decide about."""
        return self._target(scope, receive, send)

    def _probe(self, scope: Scope, key: object) -> bool:
        """Look at one of the first requests; return whether to show the next one too."""
        limited = self._limited
        if limited is None or limited.checks is None:
            return False
        return limited.checks.look(scope, key, calls_key=limited.policy.calls_key)

    async def _resolve(self, scope: Scope, receive: Receive, send: Send, check: Any) -> None:
        """Await the key, the cost or the decision, and go on."""
        assert self._policy is not None
        try:
            verdict = await self._policy.finish(check)
            if verdict is not None:
                self._decided(verdict)
        except BaseException:
            await give_back(scope)
            raise
        await self._answer(scope, receive, send, verdict)

    def _decided(self, verdict: Verdict) -> None:
        """Do nothing. Subclasses get each verdict of Redis here."""

    async def _fail(self, scope: Scope, error: BaseException) -> None:
        """Give back what limits took, and raise the error of a user's function."""
        await give_back(scope)
        raise error

    async def _watch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application, and settle the cost of the request after the response."""
        watch = Watch(scope, receive, send)
        watch.start()
        await watch.run(self.app, partial(self._settle, record_of(scope)))

    async def _settle(self, record: RateLimitRecord | None, finished: Finished) -> None:
        """Settle what is still taken: a later limit that denies gives tokens back."""
        verdicts = record.verdicts if record else ()
        await settle([one for one in verdicts if one.policy is self._policy], finished)

    async def _deny(self, scope: Scope, receive: Receive, send: Send, verdict: Verdict) -> None:
        """Respond to a denied request; `send` adds the headers."""
        await give_back(scope, verdict)
        if self._policy is not None:
            await self._policy.denied.report(scope, verdict)
        if self._gateway is not None:
            await self._gateway.deny(scope, receive, send, verdict.decision)
        elif await turned_away(scope, receive, send):
            return
        elif verdict.store_unavailable:
            await send_answer(NO_STORE, scope, send)
        elif self._limited is not None and self._limited.denied is not None:
            answer = self._limited.denied(scope, verdict.decision)
            await send_users_answer(answer, scope, receive, send)
        else:
            assert self._limited is not None
            await send_answer(self._limited.answer(scope, verdict), scope, send)

    async def _status(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond with the state of the caller."""
        if await turned_away(scope, receive, send):
            return
        if scope.get("method") not in ("GET", "HEAD"):
            await send_answer(NO_METHOD, scope, send, [(b"allow", b"GET, HEAD")])
            return
        assert self._policy is not None
        answer = state_answer(await status_of(self._policy, scope))
        await send_answer(answer, scope, send, [(b"cache-control", b"no-store")])

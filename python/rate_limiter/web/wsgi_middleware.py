"""RateLimitMiddleware: limits for every WSGI application.

    app = RateLimitMiddleware(app, limits="100/minute")

A denied request is answered before the application is entered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from rate_limiter._core import Decision, Verdict
from rate_limiter.checks.arguments import checked_paths, checked_plain
from rate_limiter.checks.effects import DEFAULT_STORE
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
from rate_limiter.policy.request_fields import WsgiFramework, environ_path, scope_of_environ
from rate_limiter.policy.settling import CostAfter, run_now
from rate_limiter.web.answers import NO_METHOD, NO_STORE, state_answer
from rate_limiter.web.limited_application import limit_application
from rate_limiter.web.wsgi_app import (
    WsgiApp,
    is_preflight,
    recording,
    settle_later,
    wsgi_answer,
)

if TYPE_CHECKING:
    from rate_limiter.jwt import Jwt

Environ: TypeAlias = dict[str, Any]
Key: TypeAlias = Callable[[Environ], "str | bytes | None"]
Cost: TypeAlias = Callable[[Environ], Tokens]
Denied: TypeAlias = Callable[[Environ, Decision], WsgiApp]
LimitsArgument: TypeAlias = Limits | DynamicLimits | Callable[[Environ], Limits]


class RateLimitMiddleware:
    """Limit the requests of a WSGI application, per client.

    A denied request gets a 429; the application is not called. Give one of `limits`, `rules` and
    `limiter`. An argument that has no effect in combination with the others is an error.

    Args:
        app: the WSGI application.
        limits, rules, limiter: as for rate_limiter.asgi.RateLimitMiddleware; a function, not
            async, gets the environ.
        key: as there, without ``"user"``; a callable, not async, gets the environ.
        cost: tokens a request takes: a number, a tuple with one for each limit, or a callable
            that gets the environ.
        cost_after: a callable that gets a Finished when the response has been sent and returns its
            final cost. The difference is refunded or charged; None changes nothing.
        tier, bypass: as there; a callable gets the environ.
        client, trusted_proxies, proxy_header, ipv6_prefix, jwt: as there.
        exempt_paths: paths that are not limited, compared with ``PATH_INFO``.
        headers, reset, retry_jitter_s, cors: as there.
        denied: the response to a denied request: ``"json"``, ``"problem"``, a template, or a
            callable that gets the environ and the Decision and returns a WSGI application, such as
            a Werkzeug response. The headers are added to it.
        on_denied: as there, and not async.
        status_path: a path at which callers see their own state, which takes no tokens.
        metrics, tracing, top, top_keys, store, name, on_store_error, max_keys, clock: as there.
        setup_checks, enabled: as there.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """

    def __init__(
        self,
        app: WsgiApp,
        limiter: RateLimiter | None = None,
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
        exempt_paths: Iterable[str] = (),
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
    ) -> None:
        arguments = dict(locals())
        for function in ("key", "cost", "cost_after", "tier", "bypass", "denied", "on_denied"):
            checked_plain(function, arguments[function])
        self.app = app
        self._limited = limit_application(
            RateLimitMiddleware.__init__, arguments, framework=WsgiFramework(), blocking=True
        )
        self.policy: Policy = self._limited.policy
        self._enabled = enabled
        if not enabled:
            limits_are_off()
        self._cors = self.policy.style.cors
        self._status_path = status_path
        self._exempt_paths = checked_paths("exempt_paths", exempt_paths)
        self._reads_path = bool(self._exempt_paths) or status_path is not None
        self._recording = recording(self._decide)

    def reset(self, key: str | bytes = EVERY, *, prefix: str | bytes = EVERY) -> None:
        """Make buckets of all limits full: see RateLimiter.reset."""
        self.policy.reset(key, prefix=prefix)

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        if not self._enabled or (self._cors and is_preflight(environ)):
            return self.app(environ, start_response)
        if self._reads_path:
            path = environ_path(environ)
            if path in self._exempt_paths:
                return self.app(environ, start_response)
            if path == self._status_path:
                return self._status(environ, start_response)
        answer: Iterable[bytes] = self._recording(environ, start_response)
        return answer

    def _decide(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        verdict = self.policy.decide_now(environ)
        if verdict is None:
            return self.app(environ, start_response)
        checks = self._limited.checks
        if checks is not None and not checks.is_done:
            scope = scope_of_environ(environ)
            checks.look(scope, verdict.key, calls_key=self.policy.calls_key)
        if verdict.is_denial:
            return self._deny(environ, start_response, verdict)
        if verdict.settles:
            settle_later(environ, self.policy)
        return self.app(environ, start_response)

    def _deny(self, environ: Environ, start_response: Any, verdict: Verdict) -> Iterable[bytes]:
        if verdict.store_unavailable:
            return wsgi_answer(NO_STORE, environ, start_response)
        if self._limited.denied is not None:
            app: WsgiApp = self._limited.denied(environ, verdict.decision)
            return app(environ, start_response)
        return wsgi_answer(self._limited.answer(environ, verdict), environ, start_response)

    def _status(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        """Respond with the state of the caller."""
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            return wsgi_answer(NO_METHOD, environ, start_response, [("Allow", "GET, HEAD")])
        answer = state_answer(run_now(status_of(self.policy, environ)))
        return wsgi_answer(answer, environ, start_response, [("Cache-Control", "no-store")])

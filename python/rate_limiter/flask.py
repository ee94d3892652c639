"""FlaskRateLimiter: limits for Flask applications and their views.

    limiter = FlaskRateLimiter(app, default_limits="100/minute")

    @app.post("/api/upload")
    @limiter.limit("5/minute", cost=3)
    def upload(): ...

A request has the limits of the view's decorators, else those of its blueprint, else the default
ones. Requests without a view (404) and Flask's own static files are not limited.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from rate_limiter.checks.arguments import check_arguments, checked_paths
from rate_limiter.checks.effects import DEFAULT_STORE
from rate_limiter.checks.extras import extra_named
from rate_limiter.checks.words import HeaderWord, OnStoreError, ProxyHeader, ResetWord, TopKeys
from rate_limiter.limit import Cost as Tokens
from rate_limiter.limit import Limits
from rate_limiter.limiting.clocks import Clock
from rate_limiter.limiting.limiter import EVERY
from rate_limiter.observe.registry import limits_are_off
from rate_limiter.policy.client_address import ClientAddress
from rate_limiter.policy.denials import Template, denial_renderer
from rate_limiter.policy.denied_requests import DeniedRequest, OnDenied
from rate_limiter.policy.dynamic_limits import DynamicLimits
from rate_limiter.policy.headers import HeaderStyle
from rate_limiter.policy.keys import BypassSpec, KeySpec, TierSpec
from rate_limiter.policy.settling import CostAfter, Finished
from rate_limiter.policy.storage import Storage
from rate_limiter.stores.address import MEMORY, check_store

with extra_named():
    from flask import Blueprint, Flask, has_request_context

    from rate_limiter.web.flask_limit import DecoratorLimit, LimitNames, name_of
    from rate_limiter.web.flask_policies import FlaskPolicies
    from rate_limiter.web.flask_request import (
        EXEMPT,
        EXTENSION,
        LIMITS,
        FlaskRateLimitExceeded,
        State,
        attached,
    )
    from rate_limiter.web.flask_settings import DECIDING, check_settings, read_settings

if TYPE_CHECKING:
    from rate_limiter.jwt import Jwt

__all__ = [
    "ClientAddress",
    "Clock",
    "DeniedRequest",
    "DynamicLimits",
    "Finished",
    "FlaskRateLimitExceeded",
    "FlaskRateLimiter",
    "HeaderStyle",
    "OnStoreError",
    "Store",
]

Store = Storage

Cost: TypeAlias = Callable[[], Tokens]
LimitsArgument: TypeAlias = Limits | DynamicLimits | Callable[[], Limits]
View = TypeVar("View", bound=Any)


class FlaskRateLimiter:
    """Limit the views of Flask applications, per client.

    One limiter can serve several applications, each with its own default limits. The buckets of a
    decorator belong to the decorator. An application can have several limiters, for example one
    per user and one per address: all of them count, and a request that one denies takes no tokens
    from the others.

    Args:
        app: an application to limit now; else call `init_app`.
        default_limits: limits of every view without its own limits; or a function without
            arguments, not async, that returns them, see DynamicLimits.
        rules: rules instead of `default_limits`, as for RateLimitMiddleware.
        key: who a request counts for: ``"ip"`` (of `request.remote_addr`), ``"header:NAME"``,
            ``"cookie:NAME"``, ``"jwt:CLAIM"``, ``"all"``, several (the first one present wins),
            or a callable without arguments, not async, that returns str or bytes. If none is
            present, the address counts, so omitting a header does not lift a limit.
        cost: tokens that a request takes from the default limits: a number, a tuple with one for
            each limit, or a callable without arguments.
        cost_after: a callable, not async, that gets a Finished when the response has been sent
            and returns the final cost; the difference is refunded or charged. For default limits
            and rules. `request` and `g` are as the view left them, but resources that the
            application closes at the end of a request are closed.
        tier, bypass: as for RateLimitMiddleware; a callable has no arguments.
        client: as for RateLimitMiddleware.
        trusted_proxies: see ClientAddress. Behind Werkzeug's ProxyFix the peer is already the
            client, so trust no proxy.
        proxy_header, ipv6_prefix: see ClientAddress.
        jwt: as for RateLimitMiddleware.
        headers: ``"x-ratelimit"``, ``"ietf"``, ``"both"`` or ``"off"``. A header that the view
            has set stays.
        reset, retry_jitter_s: see HeaderStyle.
        cors: see HeaderStyle. True also exempts preflight requests from the limits.
        denied: ``"json"``, ``"problem"`` or a template; see docs/headers.md.
        on_denied: as for RateLimitMiddleware, and not async; for all limits.
        exempt_paths: paths that are not limited, compared with ``request.path``.
        status_path: a path at which callers see their own state, which takes no tokens.
        metrics: the name of decisions by the default limits in metrics, such as ``"web"``; the
            name of a rule, tier or decorator is added, as in ``"web.upload"``.
        tracing: as for RateLimitMiddleware.
        top, top_keys: as for RateLimitMiddleware.
        setup_checks: check the first requests for mistakes in the configuration, and log them.
        enabled: False allows every request, for example in tests.
        store: as for RateLimiter. In a store the buckets of a decorator are named after the view
            it decorates, those of the default limits after the application. The `name` of a Store
            separates them from those of other applications.
        on_store_error: as for RateLimiter. A request that is denied because the store is
            unavailable (``"deny"``) gets a 503.
        max_keys, clock: as for RateLimiter.

    The application's configuration overrides these arguments: ``RATE_LIMITER_DEFAULT_LIMITS``,
    ``RATE_LIMITER_STORE``, ``RATE_LIMITER_ON_STORE_ERROR``, ``RATE_LIMITER_MAX_KEYS``,
    ``RATE_LIMITER_CLOCK`` (also as a text, ``"package.module:name"``), ``RATE_LIMITER_HEADERS``
    and ``RATE_LIMITER_ENABLED``. An argument that has no effect in
    combination with the others, or with these, is an error.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        default_limits: LimitsArgument | Mapping[str, LimitsArgument] | None = None,
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
        headers: HeaderWord | HeaderStyle = "x-ratelimit",
        reset: ResetWord = "seconds",
        retry_jitter_s: float = 0,
        cors: bool = False,
        denied: Template | None = None,
        on_denied: OnDenied | None = None,
        exempt_paths: Iterable[str] = (),
        status_path: str | None = None,
        metrics: str | None = None,
        tracing: bool = False,
        top: int | None = None,
        top_keys: TopKeys = "masked",
        setup_checks: bool = True,
        enabled: bool = True,
        store: object = DEFAULT_STORE,
        on_store_error: OnStoreError = "memory",
        max_keys: int = 1_000_000,
        clock: Clock = "monotonic",
    ) -> None:
        # A decorator can have its own key, which may use arguments that this key does not.
        left_out = ("self", "app", "key")
        self._arguments = {name: one for name, one in locals().items() if name not in left_out}
        # init_app checks the arguments that an application's configuration may override.
        values = store if isinstance(store, Storage) else None
        check_arguments(FlaskRateLimiter.__init__, self._arguments | {"store": values})
        self._policies = FlaskPolicies({**self._arguments, "key": key})
        self._setup_checks = setup_checks
        # Of the decorators; a view that is decorated for each request must not stay.
        self._limits: weakref.WeakSet[DecoratorLimit] = weakref.WeakSet()
        self._names = LimitNames()
        self._states: weakref.WeakSet[State] = weakref.WeakSet()  # of the applications
        self._exempt_paths = checked_paths("exempt_paths", exempt_paths)
        self._renderer = None if denied in (None, "json") else denial_renderer(denied)
        self._status_path = status_path
        storage = Storage.of(self._arguments)
        self._settings: dict[str, Any] = {
            "DEFAULT_LIMITS": default_limits,
            "RULES": rules,
            "STORE": storage.store,
            "ON_STORE_ERROR": storage.on_store_error,
            "MAX_KEYS": storage.max_keys,
            "CLOCK": storage.clock,
            "HEADERS": headers,
            "ENABLED": enabled,
        }
        check_settings(self._settings)
        on_trial = self._settings | {"STORE": MEMORY}
        self._policies.of_defaults(on_trial, "default", is_measured=False)  # raise for mistakes
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Limit an application. If it has several limiters, all of them count.

        Raises:
            ValueError: a ``RATE_LIMITER_`` setting is invalid or unknown; the message names it.
            RuntimeError: this limiter already limits the application.
        """
        settings = self._settings | read_settings(app)
        states = app.extensions[EXTENSION].states if EXTENSION in app.extensions else []
        if any(state.owner is self for state in states):
            raise RuntimeError(f"{app!r} has this FlaskRateLimiter already")
        # Several limiters of one application must not share buckets in a store.
        name = f"{app.name}:{len(states) + 1}" if states else app.name
        state = self._state(settings, name)
        attached(app).attach(state)
        self._states.add(state)

    def limit(
        self,
        limits: LimitsArgument,
        *,
        cost: Tokens | Cost = 1,
        cost_after: CostAfter | None = None,
        key: KeySpec | None = None,
        name: str | None = None,
    ) -> Callable[[View], View]:
        """Return a decorator that limits a view, a MethodView, or all views of a blueprint.

        Put it below the route: ``@app.get(...)`` first, then ``@limiter.limit(...)``. Stacked
        decorators all count, and a request that one of them denies takes no tokens. In the
        `decorators` of a class-based view it limits all its methods together. As
        ``limiter.limit("...")(blueprint)`` it limits the views of the blueprint together.

        Args:
            limits: a text, a Limit, or several; or a function as for default_limits.
            cost: tokens a request takes: a number, a tuple with one for each limit, or a
                callable without arguments.
            cost_after: as for FlaskRateLimiter, for these limits.
            key: as for FlaskRateLimiter. None: the key given there.
            name: the name of its buckets in Redis; the name of the view by default.

        Raises:
            TypeError, ValueError: an argument is invalid; the message names it.
        """
        check_arguments(FlaskRateLimiter.limit, dict(locals()))
        policy_of = partial(
            self._policies.of_decorator, limits=limits, key=key, cost=cost, cost_after=cost_after
        )
        policy_of(self._settings | {"STORE": MEMORY}, None)  # raise for mistakes here
        limit = DecoratorLimit(self, policy_of, name, self._names)

        def decorate(view: View) -> View:
            if not callable(view) and not isinstance(view, Blueprint):
                raise TypeError(f"expected a view, a MethodView or a Blueprint, got {view!r}")
            if limit.name is None and has_request_context():
                limit.is_kept = self._names.is_first_in_request(f"{name_of(view)} ({limits})")
            limit.take_name_of(view)
            self._limits.add(limit)
            limited = view if isinstance(view, Blueprint) else limit.wrapped(view)
            setattr(limited, LIMITS, (limit, *getattr(view, LIMITS, ())))
            return limited

        return decorate

    def exempt(self, view: View) -> View:
        """Exempt a view, a MethodView or a blueprint from this limiter. Use it as a decorator."""
        setattr(view, EXEMPT, (self, *getattr(view, EXEMPT, ())))
        return view

    def reset(self, key: str | bytes = EVERY, *, prefix: str | bytes = EVERY) -> None:
        """Make buckets of all limits full, in all applications: see RateLimiter.reset."""
        states = list(self._states)
        policies = [state.defaults for state in states]
        for limit in list(self._limits):
            policies += [limit.policy(state) for state in states] + limit.policies()
        for policy in dict.fromkeys(policies):
            if policy is not None:
                policy.reset(key, prefix=prefix)

    def _state(self, settings: dict[str, Any], name: str) -> State:
        if not settings["ENABLED"]:
            limits_are_off()
        check_store(settings["STORE"], settings["ON_STORE_ERROR"])
        defaults = self._policies.of_defaults(settings, name)
        effective = {one.lower(): settings[one] for one in DECIDING}
        effective["source"] = None if defaults is None else defaults.source
        check_arguments(FlaskRateLimiter.__init__, self._arguments | effective)
        return State(
            owner=self,
            settings=settings,
            enabled=settings["ENABLED"],
            renderer=self._renderer,
            status_path=self._status_path,
            exempt_paths=self._exempt_paths,
            skips_preflight=self._policies.style_of(settings).cors,
            checks=self._policies.setup_checks(settings) if self._setup_checks else None,
            defaults=defaults,
        )

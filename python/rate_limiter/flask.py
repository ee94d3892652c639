"""FlaskRateLimiter: limits for Flask applications and their views.

    limiter = FlaskRateLimiter(app, default_limits="100/minute")

    @app.post("/api/upload")
    @limiter.limit("5/minute", cost=3)
    def upload(): ...

A request has the limits of the view's decorators, else those of its blueprint, else the default
ones. Requests without a view (404) and Flask's own static files are not limited.
"""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from rate_limiter.checks.arguments import (
    DEFAULT_STORE,
    check_arguments,
    checked_clock,
    checked_paths,
    checked_plain,
    checked_policy,
    uses_address,
)
from rate_limiter.checks.extras import extra_named
from rate_limiter.checks.words import HeaderWord, OnStoreError, ProxyHeader, ResetWord
from rate_limiter.limit import Cost as Tokens
from rate_limiter.limit import Limits, as_limits
from rate_limiter.limiting.clocks import Clock, named_clock
from rate_limiter.limiting.limiter import EVERY, RateLimiter
from rate_limiter.observe.metrics_option import checked_metrics
from rate_limiter.observe.registry import limits_are_off
from rate_limiter.policy.client_address import ClientAddress
from rate_limiter.policy.denials import Template, denial_renderer
from rate_limiter.policy.denied_requests import DeniedRequest, OnDenied
from rate_limiter.policy.headers import HeaderStyle
from rate_limiter.policy.keys import BypassSpec, Identities, KeySpec, TierSpec
from rate_limiter.policy.policy import ActiveRule, Policy, Storage, rules_of_limits
from rate_limiter.policy.rule_sources import RuleSource, as_source
from rate_limiter.policy.rules import Rule, RuleTable
from rate_limiter.policy.settling import CostAfter
from rate_limiter.policy.setup_checks import SetupChecks
from rate_limiter.stores.address import MEMORY, check_store
from rate_limiter.web.flask_request import (
    EXEMPT,
    EXTENSION,
    LIMITS,
    Attached,
    FlaskFramework,
    FlaskRateLimitExceeded,
    State,
    attached,
    decide,
    error_of,
    give_way,
)

with extra_named():
    from flask import Blueprint, Flask, current_app, has_request_context, request

if TYPE_CHECKING:
    from rate_limiter.jwt import Jwt

logger = logging.getLogger("rate_limiter")

__all__ = [
    "ClientAddress",
    "DeniedRequest",
    "FlaskRateLimitExceeded",
    "FlaskRateLimiter",
    "HeaderStyle",
    "Store",
]

Store = Storage

Cost: TypeAlias = Callable[[], Tokens]
View = TypeVar("View", bound=Any)


class FlaskRateLimiter:
    """Limit the views of Flask applications, per client.

    One limiter can serve several applications, each with its own default limits. The buckets of a
    decorator belong to the decorator. An application can have several limiters, for example one
    per user and one per address: all of them count, and a request that one denies takes no tokens
    from the others.

    Args:
        app: an application to limit now; else call `init_app`.
        default_limits: limits of every view without its own limits.
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
        setup_checks: check the first requests for mistakes in the configuration, and log them.
        enabled: False allows every request, for example in tests.
        store: as for RateLimiter. In a store the buckets of a decorator are named after the view
            it decorates, those of the default limits after the application.
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
        default_limits: Limits | Mapping[str, Limits] | None = None,
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
        check_arguments(FlaskRateLimiter.__init__, self._arguments | {"store": None})
        address = ClientAddress.of(self._arguments)
        self._identities = Identities(address, jwt, blocking=True, framework=FlaskFramework())
        self._setup_checks = setup_checks
        self._shares_key = key == "all"
        self._key = _without_scope(key, "key")
        self._cost = _without_scope(cost, "cost")
        self._identities.key(self._key)  # raise for mistakes
        self._cost_after = checked_plain("cost_after", cost_after)
        self._on_denied: OnDenied | None = checked_plain("on_denied", on_denied)
        # Of the decorators; a view that is decorated for each request must not stay.
        self._limits: weakref.WeakSet[_Limit] = weakref.WeakSet()
        self._states: weakref.WeakSet[State] = weakref.WeakSet()  # of the applications
        self._tier: TierSpec | None = _without_scope(tier, "tier")
        if self._tier is not None:
            self._identities.tier(self._tier)
        self._bypass = _without_scope(bypass, "bypass")
        self._identities.bypass(self._bypass)
        self._style = HeaderStyle.of(self._arguments)
        self._exempt_paths = checked_paths("exempt_paths", exempt_paths)
        self._renderer = None if denied in (None, "json") else denial_renderer(denied)
        self._status_path = status_path
        self._metrics = checked_metrics(metrics)
        storage = Storage.of(self._arguments)
        self._names: dict[str, int] = {}
        self._in_requests: dict[str, int] = {}  # limits that were made while one was handled
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
        self._check_settings()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Limit an application. If it has several limiters, all of them count.

        Raises:
            ValueError: a ``RATE_LIMITER_`` setting is invalid or unknown; the message names it.
            RuntimeError: this limiter already limits the application.
        """
        settings = self._settings | _read_settings(app)
        states = app.extensions[EXTENSION].states if EXTENSION in app.extensions else []
        if any(state.owner is self for state in states):
            raise RuntimeError(f"{app!r} has this FlaskRateLimiter already")
        # Several limiters of one application must not share buckets in a store.
        name = f"{app.name}:{len(states) + 1}" if states else app.name
        state = self._state(settings, name)
        attached(app).states.append(state)
        self._states.add(state)

    def limit(
        self,
        limits: Limits,
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
            limits: a text, a Limit, or several.
            cost: tokens a request takes: a number, a tuple with one for each limit, or a
                callable without arguments.
            cost_after: as for FlaskRateLimiter, for these limits.
            key: as for FlaskRateLimiter. None: the key given there.
            name: the name of its buckets in Redis; the name of the view by default.

        Raises:
            TypeError, ValueError: an argument is invalid; the message names it.
        """
        check_arguments(FlaskRateLimiter.limit, dict(locals()))
        limit = _Limit(self, limits, cost, cost_after, key, name)

        def decorate(view: View) -> View:
            if not callable(view) and not isinstance(view, Blueprint):
                raise TypeError(f"expected a view, a MethodView or a Blueprint, got {view!r}")
            if limit.name is None and has_request_context():
                limit.is_kept = self._is_first_in_request(f"{_name_of(view)} ({limits})")
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

    def _policy(self, limit: _Limit, settings: dict[str, Any]) -> Policy:
        """Return the Policy of a decorator; one without a name only checks the arguments."""
        several = as_limits(limit.limits)
        name = limit.name
        return Policy(
            RuleSource(RuleTable([Rule("; ".join(map(str, several)), several)])),
            self._storage(_NamedStorage, settings, name or ""),
            self._identities,
            key=self._key if limit.key is None else _without_scope(limit.key, "key"),
            bypass=self._bypass,
            cost=_without_scope(limit.cost, "cost"),
            cost_after=checked_plain("cost_after", limit.cost_after),
            style=self._style_of(settings),
            blocking=True,
            dimension=None if name is None else self._dimension(lambda _: f".{name}"),
            on_denied=self._on_denied,
        )

    def _unique(self, name: str) -> str:
        """Return the name of a decorator's buckets: views made by one function have one name."""
        count = self._names[name] = self._names.get(name, 0) + 1
        return name if count == 1 else f"{name}:{count}"

    def _is_first_in_request(self, place: str) -> bool:
        """Return whether a limit is the first that is made for a view while requests are handled.

        That is one of a module which a request loads. If another follows, each request makes one,
        with full buckets: warn once.
        """
        count = self._in_requests[place] = self._in_requests.get(place, 0) + 1
        if count == 2:
            logger.warning(
                "limit() was called again while a request is handled, for %s. Each call starts "
                "with full buckets, so it limits nothing there: decorate the function once, where "
                "the module is loaded",
                place,
            )
        return count == 1

    def _dimension(self, ending: Callable[[Rule], str]) -> Callable[[Rule], str] | None:
        """Return the function that names a rule's dimension; None without metrics."""
        if self._metrics is None:
            return None
        return lambda rule: f"{self._metrics}{ending(rule)}"

    def _defaults(
        self, settings: dict[str, Any], name: str, *, is_measured: bool = True
    ) -> Policy | None:
        """Return the Policy of views without their own limits; None if they are not limited."""
        limits, rules = settings["DEFAULT_LIMITS"], settings["RULES"]
        if limits is not None and rules is not None:
            raise ValueError("give default_limits or rules, not both")
        if limits is None and rules is None:
            return None
        plain = limits is not None and not isinstance(limits, Mapping)
        source = as_source(rules) if limits is None else RuleSource(rules_of_limits(limits))
        storage = self._storage(_NamedStorage if plain else Storage, settings, name)
        dimension = self._dimension(lambda rule: "" if plain else f".{rule.name}")
        return Policy(
            source,
            storage,
            self._identities,
            key=self._key,
            tier=self._tier,
            bypass=self._bypass,
            cost=self._cost,
            cost_after=self._cost_after,
            style=self._style_of(settings),
            blocking=True,
            dimension=dimension if is_measured else None,
            on_denied=self._on_denied,
        )

    def _style_of(self, settings: dict[str, Any]) -> HeaderStyle:
        headers = settings["HEADERS"]
        return headers if isinstance(headers, HeaderStyle) else replace(self._style, style=headers)

    def _storage(self, kind: type[Storage], settings: dict[str, Any], name: str) -> Storage:
        return kind(
            store=settings["STORE"],
            name=name,
            on_store_error=settings["ON_STORE_ERROR"],
            max_keys=settings["MAX_KEYS"],
            clock=settings["CLOCK"],
        )

    def _check_settings(self) -> None:
        for name, check in _CHECKS.items():
            try:
                check(self._settings[name])
            except (TypeError, ValueError) as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"{name.lower()}: {error}") from None
        self._defaults(self._settings | {"STORE": MEMORY}, "default", is_measured=False)

    def _state(self, settings: dict[str, Any], name: str) -> State:
        if not settings["ENABLED"]:
            limits_are_off()
        defaults = self._defaults(settings, name)
        style = self._style_of(settings)
        effective = {one.lower(): settings[one] for one in _DECIDING}
        effective["source"] = None if defaults is None else defaults.source
        check_arguments(FlaskRateLimiter.__init__, self._arguments | effective)
        return State(
            owner=self,
            settings=settings,
            enabled=settings["ENABLED"],
            renderer=self._renderer,
            status_path=self._status_path,
            exempt_paths=self._exempt_paths,
            skips_preflight=style.cors,
            checks=SetupChecks(
                in_memory=settings["STORE"] == MEMORY,
                uses_address=not callable(self._key) and uses_address(self._key),
                trusts_proxies=self._identities.address.reads_header,
                shares_key=self._shares_key,
            )
            if self._setup_checks
            else None,
            defaults=defaults,
        )


class _Limit:
    """The limit of one decorator.

    Its Policy is made when a request first needs it: the application's configuration may name
    another store.
    """

    def __init__(
        self,
        owner: FlaskRateLimiter,
        limits: Limits,
        cost: Any,
        cost_after: CostAfter | None,
        key: KeySpec | None,
        name: str | None,
    ) -> None:
        self.owner = owner
        self.limits = limits
        self.cost = cost
        self.cost_after = cost_after
        self.key = key
        self.name: str | None = None
        self.is_kept = True  # by the applications; not if each request makes one
        self._given_name = name
        self._lock = threading.Lock()
        self._made: list[tuple[list[Any], Policy]] = []
        owner._policy(self, owner._settings | {"STORE": MEMORY})  # raise for mistakes here

    def take_name_of(self, view: Any) -> None:
        """Name the limit after the first view that it limits, unless it has a name."""
        if self.name is None:
            place = len(getattr(view, LIMITS, ()))
            self.name = self._given_name or self.owner._unique(f"{_name_of(view)}:{place}")

    def policy(self, state: State) -> Policy:
        """Return the Policy under the settings of an application."""
        policy = state.policies.get(self)
        if policy is None:
            with self._lock:
                policy = self._policy_under(state.settings)
                if self.is_kept:
                    state.policies[self] = policy
        return policy

    def _policy_under(self, settings: dict[str, Any]) -> Policy:
        of_limits = [settings[name] for name in _OF_LIMITS]
        for known, policy in self._made:
            if known == of_limits:
                return policy
        made = self.owner._policy(self, settings)
        self._made.append((of_limits, made))
        return made

    def policies(self) -> list[Policy]:
        """Return the policies that were made."""
        return [made for _, made in self._made]

    def limiters(self) -> dict[str, RateLimiter]:
        """Return the limiters by the names of their rules."""
        return {name: one for _, made in self._made for name, one in made.limiters().items()}

    def wrapped(self, view: Any) -> Any:
        """Return a view that is limited when it is called; a class is changed in place."""
        if isinstance(view, type):
            view.dispatch_request = self.wrapped(view.dispatch_request)  # type: ignore[attr-defined]
            return view

        is_async = iscoroutinefunction(view)

        @functools.wraps(view)
        def limited(*args: Any, **kwargs: Any) -> Any:
            if has_request_context():
                denial = self._denial(limited)
                if denial is not None:
                    return denial
                if is_async:
                    return current_app.ensure_sync(view)(*args, **kwargs)
            return view(*args, **kwargs)

        return limited

    def _denial(self, limited: Callable[..., Any]) -> Any:
        """Return the response if Flask itself called the view and it is denied, else None.

        Raises:
            FlaskRateLimitExceeded: denied; the caller may be another decorator.
        """
        # Each use of a proxy such as `request` costs as much as a whole decision.
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        limiters: Attached | None = app.extensions.get(EXTENSION)
        state = None if limiters is None else limiters.state_of(self.owner)
        if limiters is None or state is None or not state.enabled:
            return None
        current = request._get_current_object()  # type: ignore[attr-defined]
        if state.defaults is not None:
            give_way(current.environ, state.defaults)
        denial = decide(state, self.policy(state), current)
        if denial is None:
            return None
        if app.view_functions.get(current.endpoint) is not limited:
            raise error_of(state, denial, current.environ)
        return limiters.response_to(state, denial, current.environ)


class _NamedStorage(Storage):
    """A LimiterSource that names limiters after itself and not after their rules."""

    def limiter(self, rule: Rule, before: ActiveRule | None) -> RateLimiter:
        if self.store == MEMORY:
            return RateLimiter.in_memory(rule.limits, self.max_keys, self.clock)
        return self.new_limiter(rule.limits)


# --- Configuration -------------------------------------------------------------------------------


def _check_enabled(enabled: object) -> None:
    if not isinstance(enabled, bool):
        raise ValueError(f"must be True or False, got {enabled!r}")


def _check_max_keys(max_keys: object) -> None:
    if not isinstance(max_keys, int) or max_keys < 1:
        raise ValueError(f"must be a whole number from 1 on, got {max_keys!r}")


def _check_headers(headers: object) -> None:
    if not isinstance(headers, HeaderStyle):
        HeaderStyle(headers)  # type: ignore[arg-type]


def _check_limits(limits: object) -> None:
    if limits is not None:
        rules_of_limits(limits)  # type: ignore[arg-type]


_DECIDING = ("DEFAULT_LIMITS", "RULES", "STORE", "HEADERS")
"""Settings that can leave an argument without effect."""

_OF_LIMITS = ("STORE", "ON_STORE_ERROR", "MAX_KEYS", "CLOCK", "HEADERS")
"""Settings that a decorator's limit depends on."""

_CHECKS: dict[str, Callable[[Any], object]] = {
    "DEFAULT_LIMITS": _check_limits,
    "RULES": lambda rules: None,  # checked when they are loaded
    "STORE": check_store,
    "ON_STORE_ERROR": checked_policy,
    "MAX_KEYS": _check_max_keys,
    "CLOCK": lambda clock: checked_clock("the value", clock),
    "HEADERS": _check_headers,
    "ENABLED": _check_enabled,
}


def _read_settings(app: Flask) -> dict[str, Any]:
    """Return the settings of an application, without their prefix."""
    prefix = "RATE_LIMITER_"
    settings = {
        name.removeprefix(prefix): value
        for name, value in app.config.items()
        if name.startswith(prefix)
    }
    for name, value in settings.items():
        if name not in _CHECKS:
            known = ", ".join(prefix + one for one in _CHECKS)
            nearest = get_close_matches(name, _CHECKS, 1)
            hint = f"; did you mean {prefix}{nearest[0]}?" if nearest else ""
            raise ValueError(f"unknown setting {prefix}{name}; known are {known}{hint}")
        try:
            if name == "CLOCK":
                value = settings[name] = named_clock(value)
            _CHECKS[name](value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{prefix}{name}: {error}") from error
    return settings


def _name_of(view: Any) -> str:
    """Return the name of a decorated view, class or blueprint, the same in all processes."""
    if isinstance(view, Blueprint):
        return f"{view.import_name}.{view.name}"
    return f"{view.__module__}.{getattr(view, '__qualname__', type(view).__qualname__)}".replace(
        "<locals>.", ""
    )


def _without_scope(spec: Any, what: str) -> Any:
    """Return `spec` with callables wrapped: Flask's have no argument and must not be async."""
    if callable(spec):
        plain: Callable[[], Any] = checked_plain(what, spec)
        return lambda scope: plain()
    if isinstance(spec, Iterable) and not isinstance(spec, str) and what != "cost":
        return [_without_scope(one, what) for one in spec]
    return spec

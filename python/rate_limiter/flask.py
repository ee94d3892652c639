"""FlaskRateLimiter: limits for Flask applications and their views.

    limiter = FlaskRateLimiter(app, default_limits="100/minute")

    @app.post("/api/upload")
    @limiter.limit("5/minute", cost=3)
    def upload(): ...

Which limits count for a request: those of the view's decorators, else those of its blueprint, else
the default ones. Requests that no view answers (404, static files) are not limited.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from flask import Blueprint, Flask, Response, abort, current_app, jsonify, request
from werkzeug.exceptions import TooManyRequests

from rate_limiter._core import Decision, ManualClock
from rate_limiter.answers import Answer, Answerer, Template, answerer
from rate_limiter.exceptions import RateLimitExceeded
from rate_limiter.governor import (
    Active,
    CostAfter,
    Finished,
    Governor,
    Outcome,
    Storage,
    now,
    rules_of_limits,
    run_now,
)
from rate_limiter.headers import DENIED_DETAIL, NO_STORE_DETAIL, HeaderStyle, Told
from rate_limiter.identity import BypassSpec, Identities, KeySpec, Source, TierSpec
from rate_limiter.limit import Limits, as_limits
from rate_limiter.limiter import MEMORY, RateLimiter, check_store
from rate_limiter.measuring import checked_metrics
from rate_limiter.proxies import ClientAddress
from rate_limiter.redis_store import checked_policy
from rate_limiter.rule_source import RuleSource, as_source
from rate_limiter.rule_table import Rule, RuleTable
from rate_limiter.setup_checks import SetupChecks

if TYPE_CHECKING:
    from rate_limiter.jwt import Jwt

Cost: TypeAlias = Callable[[], float]
View = TypeVar("View", bound=Any)

_EXTENSION = "rate_limiter"
_REQUEST = "rate_limiter.request"  # in the WSGI environment of a request
_LIMITS = "_rate_limiter_limits"  # on what a decorator has marked
_EXEMPT = "_rate_limiter_exempt"


@dataclass(frozen=True)
class _State:
    """What one application is configured to do."""

    enabled: bool
    style: HeaderStyle
    identities: Identities
    bypass: Source | None
    answer: Answerer | None
    status_path: str | None
    checks: SetupChecks | None
    defaults: Governor | None  # of views that have no limits of their own


@dataclass
class _Request:
    """What was decided about a request, by each of the limits it falls under."""

    outcomes: list[tuple[Governor, Outcome]]
    finished: Finished
    told: Outcome | None = None  # the one that the headers tell of


class FlaskRateLimitExceeded(RateLimitExceeded, TooManyRequests):  # type: ignore[misc]
    """Tell that a request was denied; error handlers for either base or for 429 get it."""

    description = DENIED_DETAIL

    def __init__(self, decision: Decision, key: str | bytes, answer: Answer | None = None) -> None:
        TooManyRequests.__init__(self)
        RateLimitExceeded.__init__(self, decision, key)
        self._answer = answer

    def get_response(self, *args: Any, **kwargs: Any) -> Any:
        """Return the default answer: 429, with a JSON body unless `denied=` says otherwise."""
        if self._answer is not None:
            answer = self._answer
            return Response(answer.body, answer.status, content_type=answer.media_type)
        response = jsonify(detail=DENIED_DETAIL)
        response.status_code = 429
        return response


class FlaskRateLimiter:
    """Limit the views of Flask applications, per client.

    Holds no application: it may serve several, each with default limits of its own. The buckets
    of a decorator belong to the decorator.

    Args:
        app: an application to limit at once; else call `init_app`.
        default_limits: limits of every view that has none of its own.
        rules: rules instead of `default_limits`, as for RateLimitMiddleware.
        key: who a request counts for: ``"ip"`` (of `request.remote_addr`), ``"header:NAME"``,
            ``"cookie:NAME"``, ``"jwt:CLAIM"``, ``"all"``, several of which the first counts that
            is there, or a callable without arguments, not async, that returns str or bytes. Where
            nothing is there, the address counts, so leaving a header out lifts no limit.
        cost: tokens that a request takes of the default limits: a number, or a callable without
            arguments.
        cost_after: a callable that gets a Finished when the answer is known and returns what the
            request has cost; less is given back, more is charged. Of default limits and rules.
            Its `body_bytes` are what the response says it has, 0 for one that is streamed.
        tier, bypass: as for RateLimitMiddleware; a callable has no arguments.
        trusted_proxies: see ClientAddress. Behind Werkzeug's ProxyFix the peer is the client
            already, and no proxy is to be trusted.
        proxy_header, ipv6_prefix: see ClientAddress.
        jwt: as for RateLimitMiddleware.
        headers: ``"x-ratelimit"``, ``"ietf"``, ``"both"`` or ``"off"``. A header that the view
            has set stays.
        reset, retry_jitter_s: see HeaderStyle.
        denied: ``"json"``, ``"problem"`` or a template; see docs/headers.md.
        status_path: a path at which callers see their own state, which costs nothing.
        metrics: what decisions by the default limits are shown under in metrics, such as
            ``"web"``; the name of a rule, tier or decorator follows, as in ``"web.upload"``.
        setup_checks: look at the first requests for mistakes in the set-up, and log them.
        enabled: False lets everything pass, for example in tests.
        store: as for RateLimiter. In a store the buckets of a decorator are named after what it
            marks, those of the default limits after the application.
        on_store_error: as for RateLimiter. A request that is denied for want of a store
            (``"deny"``) is answered with 503.
        max_keys, clock: as for RateLimiter.

    The application's configuration counts before these arguments: ``RATE_LIMITER_DEFAULT_LIMITS``,
    ``RATE_LIMITER_STORE``, ``RATE_LIMITER_ON_STORE_ERROR``, ``RATE_LIMITER_MAX_KEYS``,
    ``RATE_LIMITER_HEADERS`` and ``RATE_LIMITER_ENABLED``.

    Raises:
        TypeError, ValueError: an argument is not what it should be; the message names it.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        default_limits: Limits | Mapping[str, Limits] | None = None,
        rules: object = None,
        key: KeySpec = "ip",
        cost: float | Cost = 1,
        cost_after: CostAfter | None = None,
        tier: TierSpec | None = None,
        bypass: BypassSpec = (),
        trusted_proxies: Iterable[str] = (),
        proxy_header: str = "x-forwarded-for",
        ipv6_prefix: int = 64,
        jwt: Jwt | None = None,
        headers: str = "x-ratelimit",
        reset: str = "seconds",
        retry_jitter_s: float = 0,
        denied: Template | None = None,
        status_path: str | None = None,
        metrics: str | None = None,
        setup_checks: bool = True,
        enabled: bool = True,
        store: object = MEMORY,
        on_store_error: str = "memory",
        max_keys: int = 1_000_000,
        clock: str | ManualClock = "monotonic",
    ) -> None:
        address = ClientAddress(trusted_proxies, header=proxy_header, ipv6_prefix=ipv6_prefix)
        self._identities = Identities(address, jwt, blocking=True)
        self._setup_checks = setup_checks
        self._shares_key = key == "all"
        self._key = _without_scope(key, "key")
        self._cost = _without_scope(cost, "cost")
        self._identities.key(self._key)  # tell mistakes here
        self._cost_after = cost_after
        self._tier = None if tier is None else self._identities.tier(_without_scope(tier, "tier"))
        self._bypass = self._identities.bypass(_without_scope(bypass, "bypass"))
        self._style = HeaderStyle(headers, reset, retry_jitter_s)
        self._answer = None if denied in (None, "json") else answerer(denied)
        self._status_path = status_path
        self._metrics = checked_metrics(metrics)
        self._clock = clock
        self._settings: dict[str, Any] = {
            "DEFAULT_LIMITS": default_limits,
            "RULES": rules,
            "STORE": store,
            "ON_STORE_ERROR": on_store_error,
            "MAX_KEYS": max_keys,
            "HEADERS": headers,
            "ENABLED": enabled,
        }
        self._check_settings()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Limit an application.

        Raises:
            ValueError: a ``RATE_LIMITER_`` setting is wrong, or unknown; the message names it.
            RuntimeError: the application has a limiter already.
        """
        if _EXTENSION in app.extensions:
            raise RuntimeError(f"{app!r} has a FlaskRateLimiter already")
        app.extensions[_EXTENSION] = self._state(self._settings | _read_settings(app), app.name)
        app.before_request(_before_request)
        app.after_request(_after_request)
        app.teardown_request(_teardown_request)

    def limit(
        self,
        limits: Limits,
        *,
        cost: float | Cost = 1,
        key: KeySpec | None = None,
        name: str | None = None,
    ) -> Callable[[View], View]:
        """Return a decorator that limits a view, a MethodView, or all views of a blueprint.

        Put it below the route: ``@app.get(...)`` first, then ``@limiter.limit(...)``. Stacked
        decorators all count, and a request that one of them denies takes from none. In the
        `decorators` of a class-based view it limits all its methods together. As
        ``limiter.limit("...")(blueprint)`` it limits the views of the blueprint together.

        Args:
            limits: a text, a Limit, or several.
            cost: tokens a request takes: a number, or a callable without arguments.
            key: as for FlaskRateLimiter. None: what it says there.
            name: what its buckets are called in Redis; the name of the view by default.

        Raises:
            TypeError, ValueError: an argument is not what it should be; the message names it.
        """
        made: list[Governor] = []
        self._governor(limits, cost, self._settings | {"STORE": MEMORY}, key)  # tell mistakes here

        def decorate(view: View) -> View:
            if not callable(view) and not isinstance(view, Blueprint):
                raise TypeError(f"expected a view, a MethodView or a Blueprint, got {view!r}")
            others = getattr(view, _LIMITS, ())
            if not made:
                own_name = name or f"{_name_of(view)}:{len(others)}"
                made.append(self._governor(limits, cost, self._settings, key, own_name))
            setattr(view, _LIMITS, (made[0], *others))
            return view

        return decorate

    def exempt(self, view: View) -> View:
        """Lift all limits from a view, a MethodView or a blueprint; usable as a decorator."""
        setattr(view, _EXEMPT, True)
        return view

    def _governor(
        self,
        limits: Limits,
        cost: Any,
        settings: dict[str, Any],
        key: KeySpec | None,
        name: str | None = None,
    ) -> Governor:
        """Return what decides by the limits of a decorator; without a name it is only tried."""
        several = as_limits(limits)
        return Governor(
            RuleSource(RuleTable([Rule("; ".join(map(str, several)), several)])),
            self._storage(_NamedStorage, settings, name or ""),
            self._identities,
            key=self._key if key is None else _without_scope(key, "key"),
            cost=_without_scope(cost, "cost"),
            blocking=True,
            dimension=None if name is None else self._dimension(lambda _: f".{name}"),
        )

    def _dimension(self, ending: Callable[[Rule], str]) -> Callable[[Rule], str] | None:
        """Return what tells the dimension of a rule, None where nothing is measured."""
        if self._metrics is None:
            return None
        return lambda rule: f"{self._metrics}{ending(rule)}"

    def _defaults(
        self, settings: dict[str, Any], name: str, *, is_measured: bool = True
    ) -> Governor | None:
        """Return what decides about views without limits of their own, None: nothing does."""
        limits, rules = settings["DEFAULT_LIMITS"], settings["RULES"]
        if limits is not None and rules is not None:
            raise ValueError("give default_limits or rules, not both")
        if limits is None and rules is None:
            return None
        plain = limits is not None and not isinstance(limits, Mapping)
        source = as_source(rules) if limits is None else RuleSource(rules_of_limits(limits))
        storage = self._storage(_NamedStorage if plain else Storage, settings, name)
        dimension = self._dimension(lambda rule: "" if plain else f".{rule.name}")
        return Governor(
            source,
            storage,
            self._identities,
            key=self._key,
            tier=self._tier,
            cost=self._cost,
            cost_after=self._cost_after,
            blocking=True,
            dimension=dimension if is_measured else None,
        )

    def _storage(self, kind: type[Storage], settings: dict[str, Any], name: str) -> Storage:
        return kind(
            store=settings["STORE"],
            name=name,
            on_store_error=settings["ON_STORE_ERROR"],
            max_keys=settings["MAX_KEYS"],
            clock=self._clock,
        )

    def _check_settings(self) -> None:
        for name, check in _CHECKS.items():
            check(self._settings[name])
        self._defaults(self._settings | {"STORE": MEMORY}, "default", is_measured=False)

    def _state(self, settings: dict[str, Any], name: str) -> _State:
        return _State(
            enabled=settings["ENABLED"],
            style=replace(self._style, style=settings["HEADERS"]),
            identities=self._identities,
            bypass=self._bypass,
            answer=self._answer,
            status_path=self._status_path,
            checks=SetupChecks(
                in_memory=settings["STORE"] == MEMORY,
                uses_address=not callable(self._key),
                trusts_proxies=self._identities.address.reads_header,
                shares_key=self._shares_key,
            )
            if self._setup_checks
            else None,
            defaults=self._defaults(settings, name),
        )


class _NamedStorage(Storage):
    """Limiters that are called what this says, whatever their rule."""

    def limiter(self, rule: Rule, before: Active | None) -> RateLimiter:
        return RateLimiter(
            rule.limits,
            store=self.store,
            name=self.name,
            on_store_error=self.on_store_error,
            max_keys=self.max_keys,
            clock=self.clock,
        )


# --- Configuration -------------------------------------------------------------------------------


def _check_enabled(enabled: object) -> None:
    if not isinstance(enabled, bool):
        raise ValueError(f"must be True or False, got {enabled!r}")


def _check_max_keys(max_keys: object) -> None:
    if not isinstance(max_keys, int) or max_keys < 1:
        raise ValueError(f"must be a whole number from 1 on, got {max_keys!r}")


def _check_limits(limits: object) -> None:
    if limits is not None:
        rules_of_limits(limits)  # type: ignore[arg-type]


_CHECKS: dict[str, Callable[[Any], object]] = {
    "DEFAULT_LIMITS": _check_limits,
    "RULES": lambda rules: None,  # read once, when they are used
    "STORE": check_store,
    "ON_STORE_ERROR": checked_policy,
    "MAX_KEYS": _check_max_keys,
    "HEADERS": HeaderStyle,
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
            raise ValueError(f"unknown setting {prefix}{name}; known are {known}")
        try:
            _CHECKS[name](value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{prefix}{name}: {error}") from error
    return settings


# --- A request -------------------------------------------------------------------------------


def _state_of_app() -> _State:
    state: _State = current_app.extensions[_EXTENSION]
    return state


def _scope() -> dict[str, Any]:
    """Return the request as an ASGI scope, as far as identities and rules look at it."""
    address = request.remote_addr
    return {
        "type": "http",
        "method": request.method,
        "path": request.path,
        "query_string": request.query_string,
        "headers": [
            (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
            for name, value in request.headers.items()
        ],
        "client": (address, 0) if address else None,
    }


def _before_request() -> Any:
    state = _state_of_app()
    if not state.enabled:
        return None
    if state.status_path is not None and request.path == state.status_path:
        return _status(state)
    governors = _governors(state)
    if not governors:
        return None
    scope = _scope()
    if state.bypass is not None and run_now(now(state.bypass(scope))):
        return None
    decided = _Request([], Finished(scope, 0, ""))
    request.environ[_REQUEST] = decided
    for governor in governors:
        outcome = run_now(governor.decide(scope))
        if outcome is None:
            continue
        if state.checks is not None and not state.checks.is_done:
            state.checks.look(scope, outcome.key)
        if outcome.is_denial:
            for other, taken in decided.outcomes:
                other.limiters()[taken.active.rule.name].refund(taken.key, taken.cost)
            decided.outcomes.clear()
            decided.told = outcome
            if outcome.wants_store:
                abort(503, NO_STORE_DETAIL)
            answer = None if state.answer is None else state.answer(outcome.denial(state.style))
            raise FlaskRateLimitExceeded(outcome.told, outcome.key, answer)
        decided.outcomes.append((governor, outcome))
    if decided.outcomes:
        tightest = min(decided.outcomes, key=lambda one: one[1].told.remaining)
        decided.told = tightest[1]
    return None


def _after_request(response: Response) -> Response:
    decided: _Request | None = request.environ.get(_REQUEST)
    if decided is None:
        return response
    finished = decided.finished
    finished.status = response.status_code
    finished.body_bytes = response.content_length or response.calculate_content_length() or 0
    finished.headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in response.headers.items()
    ]
    if decided.told is not None:
        own_limit = "X-RateLimit-Limit" in response.headers
        for name, value in _header_values(decided).items():
            if name not in response.headers and not (own_limit and name.startswith("X-")):
                response.headers[name] = value
    return response


def _header_values(decided: _Request) -> dict[str, str]:
    """Return the headers that tell of all limits, and most of the most constrained one."""
    style = _state_of_app().style
    assert decided.told is not None
    every: list[Told] = [one for _, outcome in decided.outcomes for one in outcome.each()]
    if decided.told.active.rule.shadow and not decided.told.told.allowed:
        return {}
    return style.values(decided.told.told, every or decided.told.each())


def _teardown_request(error: BaseException | None) -> None:
    decided: _Request | None = request.environ.pop(_REQUEST, None)
    if decided is None:
        return
    decided.finished.error = error
    for governor, outcome in decided.outcomes:
        if governor.settles(outcome):
            run_now(governor.settle(outcome, replace_cost(decided.finished, outcome)))


def replace_cost(finished: Finished, outcome: Outcome) -> Finished:
    """Return what is known of a request, for one of its limits."""
    return replace(finished, cost=outcome.cost, key=outcome.key)


def _status(state: _State) -> Response:
    if state.defaults is None:
        return jsonify(limited=False, rule=None, limits=[])
    response = jsonify(run_now(state.defaults.status(_scope())))
    response.headers["Cache-Control"] = "no-store"
    return response


def _governors(state: _State) -> tuple[Governor, ...]:
    """What decides about this request: see the top of this file."""
    if request.endpoint is None or request.endpoint.rpartition(".")[2] == "static":
        return ()
    view = current_app.view_functions.get(request.endpoint)
    blueprints = [current_app.blueprints[name] for name in request.blueprints]
    for sources in (_sources(view), *([blueprint] for blueprint in blueprints)):
        if any(getattr(source, _EXEMPT, False) for source in sources):
            return ()
        own: tuple[Governor, ...] = sum((getattr(one, _LIMITS, ()) for one in sources), ())
        if own:
            return own
    return () if state.defaults is None else (state.defaults,)


def _sources(view: Any) -> list[Any]:
    """Whatever a decorator may have marked: the view, its class, the method that will answer."""
    view_class = getattr(view, "view_class", None)
    if view_class is None:
        return [view]
    method = getattr(view_class, request.method.lower(), None)
    if method is None and request.method == "HEAD":
        method = getattr(view_class, "get", None)
    return [view, view_class, method]


def _name_of(view: Any) -> str:
    """What a decorated view, class or blueprint is called, the same in all processes."""
    if isinstance(view, Blueprint):
        return f"{view.import_name}.{view.name}"
    return f"{view.__module__}.{getattr(view, '__qualname__', type(view).__qualname__)}".replace(
        "<locals>.", ""
    )


def _without_scope(spec: Any, what: str) -> Any:
    """Return what callables of a request are here: they have no arguments, and are not async."""
    if callable(spec):
        if inspect.iscoroutinefunction(spec):
            raise TypeError(f"{what} must be a plain function, not an async one, got {spec!r}")
        plain: Callable[[], Any] = spec
        return lambda scope: plain()
    if isinstance(spec, Iterable) and not isinstance(spec, str):
        return [_without_scope(one, what) for one in spec]
    return spec

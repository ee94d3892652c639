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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from flask import Blueprint, Flask, Response, abort, current_app, jsonify, request
from werkzeug.exceptions import TooManyRequests

from rate_limiter._core import Decision, ManualClock, client_key
from rate_limiter.exceptions import RateLimitExceeded
from rate_limiter.headers import DENIED_DETAIL, NO_STORE_DETAIL, header_values
from rate_limiter.limit import Limits, as_limits
from rate_limiter.limiter import MEMORY, RateLimiter, check_store
from rate_limiter.middleware import checked_cost, checked_headers, checked_key
from rate_limiter.redis_limiter import RedisRateLimiter
from rate_limiter.redis_store import checked_policy

Key: TypeAlias = Callable[[], str | bytes | None]
Cost: TypeAlias = Callable[[], float]
View = TypeVar("View", bound=Any)

_EXTENSION = "rate_limiter"
_DECISION = "rate_limiter.decision"  # in the WSGI environment of a request
_LIMITS = "_rate_limiter_limits"  # on what a decorator has marked
_EXEMPT = "_rate_limiter_exempt"


@dataclass(frozen=True)
class _Rule:
    """One limit and whom it counts; has its own buckets."""

    limiter: RateLimiter
    key: Callable[..., Any] | None
    cost: Any


@dataclass(frozen=True)
class _State:
    """What one application is configured to do."""

    enabled: bool
    headers: bool
    defaults: tuple[_Rule, ...]


class FlaskRateLimitExceeded(RateLimitExceeded, TooManyRequests):  # type: ignore[misc]
    """Tell that a request was denied; error handlers for either base or for 429 get it."""

    description = DENIED_DETAIL

    def __init__(self, decision: Decision, key: str | bytes) -> None:
        TooManyRequests.__init__(self)
        RateLimitExceeded.__init__(self, decision, key)

    def get_response(self, *args: Any, **kwargs: Any) -> Any:
        """Return the default answer: 429 with a JSON body."""
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
        key: ``"ip"`` is `request.remote_addr` (of an IPv6 client, its /64 network), or
            ``unknown`` where there is none. A callable without arguments returns str or bytes;
            for None the address is used, so leaving a header out lifts no limit.
        cost: tokens that a request takes of the default limits: a number, or a callable without
            arguments.
        headers: ``"x-ratelimit"`` or ``"off"``. A header that the view has set itself stays.
        enabled: False lets everything pass, for example in tests.
        store, on_store_error, max_keys, clock: as for RateLimiter. In Redis the buckets of a
            decorator are named after what it marks, those of the default limits after the
            application. A request that is denied for want of a store is answered with 503.

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
        default_limits: Limits | None = None,
        key: str | Key = "ip",
        cost: float | Cost = 1,
        headers: str = "x-ratelimit",
        enabled: bool = True,
        store: object = MEMORY,
        on_store_error: str = "memory",
        max_keys: int = 1_000_000,
        clock: str | ManualClock = "monotonic",
    ) -> None:
        self._key = _checked_key(key)
        self._cost = cost
        self._clock = clock
        self._settings: dict[str, Any] = {
            "DEFAULT_LIMITS": default_limits,
            "STORE": store,
            "ON_STORE_ERROR": on_store_error,
            "MAX_KEYS": max_keys,
            "HEADERS": headers,
            "ENABLED": enabled,
        }
        self._state(self._settings, "default")
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

    def limit(
        self,
        limits: Limits,
        *,
        cost: float | Cost = 1,
        key: str | Key | None = None,
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
            key: as for FlaskRateLimiter, whose key is used by default.
            name: what its buckets are called in Redis; the name of the view by default.

        Raises:
            TypeError, ValueError: an argument is not what it should be; the message names it.
        """
        made: list[_Rule] = []
        self._rule(limits, cost, self._settings | {"STORE": MEMORY}, key)  # tell mistakes here

        def decorate(view: View) -> View:
            if not callable(view) and not isinstance(view, Blueprint):
                raise TypeError(f"expected a view, a MethodView or a Blueprint, got {view!r}")
            others = getattr(view, _LIMITS, ())
            if not made:
                own_name = name or f"{_name_of(view)}:{len(others)}"
                made.append(self._rule(limits, cost, self._settings, key, own_name))
            setattr(view, _LIMITS, (made[0], *others))
            return view

        return decorate

    def exempt(self, view: View) -> View:
        """Lift all limits from a view, a MethodView or a blueprint; usable as a decorator."""
        setattr(view, _EXEMPT, True)
        return view

    def _rule(
        self,
        limits: Limits,
        cost: Any,
        settings: dict[str, Any],
        key: str | Key | None = None,
        name: str = "",
    ) -> _Rule:
        limiter = RateLimiter(
            limits,
            store=settings["STORE"],
            name=name,
            on_store_error=settings["ON_STORE_ERROR"],
            max_keys=settings["MAX_KEYS"],
            clock=self._clock,
        )
        chosen = self._key if key is None else _checked_key(key)
        return _Rule(limiter, chosen, checked_cost(cost, limiter))

    def _state(self, settings: dict[str, Any], name: str) -> _State:
        limits = settings["DEFAULT_LIMITS"]
        return _State(
            enabled=settings["ENABLED"],
            headers=checked_headers(settings["HEADERS"]),
            defaults=()
            if limits is None
            else (self._rule(limits, self._cost, settings, None, name),),
        )


# --- Configuration ---------------------------------------------------------------------------


def _check_enabled(enabled: object) -> None:
    if not isinstance(enabled, bool):
        raise ValueError(f"must be True or False, got {enabled!r}")


def _check_max_keys(max_keys: object) -> None:
    if not isinstance(max_keys, int) or max_keys < 1:
        raise ValueError(f"must be a whole number from 1 on, got {max_keys!r}")


_CHECKS: dict[str, Callable[[Any], object]] = {
    "DEFAULT_LIMITS": as_limits,
    "STORE": check_store,
    "ON_STORE_ERROR": checked_policy,
    "MAX_KEYS": _check_max_keys,
    "HEADERS": checked_headers,
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


def _before_request() -> None:
    state = _state_of_app()
    if not state.enabled:
        return
    taken: list[tuple[_Rule, str | bytes, float, Decision]] = []
    for rule in _rules(state):
        key = _key(rule)
        cost = rule.cost() if callable(rule.cost) else rule.cost
        decision = rule.limiter.hit(key, cost)
        if not decision:
            for other, other_key, other_cost, _ in taken:
                other.limiter.refund(other_key, other_cost)
            request.environ[_DECISION] = decision
            redis = rule.limiter if isinstance(rule.limiter, RedisRateLimiter) else None
            if redis is not None and redis.is_denial_for_want_of_store(decision):
                abort(503, NO_STORE_DETAIL)
            raise FlaskRateLimitExceeded(decision, key)
        taken.append((rule, key, cost, decision))
    if taken:
        request.environ[_DECISION] = min((one[3] for one in taken), key=lambda one: one.remaining)


def _after_request(response: Response) -> Response:
    decision: Decision | None = request.environ.get(_DECISION)
    if decision is not None and _state_of_app().headers:
        own_limit = "X-RateLimit-Limit" in response.headers
        for name, value in header_values(decision).items():
            if name not in response.headers and not (own_limit and name.startswith("X-")):
                response.headers[name] = value
    return response


def _rules(state: _State) -> tuple[_Rule, ...]:
    """The limits that count for this request: see the top of this file."""
    if request.endpoint is None or request.endpoint.rpartition(".")[2] == "static":
        return ()
    view = current_app.view_functions.get(request.endpoint)
    blueprints = [current_app.blueprints[name] for name in request.blueprints]
    for sources in (_sources(view), *([blueprint] for blueprint in blueprints)):
        if any(getattr(source, _EXEMPT, False) for source in sources):
            return ()
        own: tuple[_Rule, ...] = sum((getattr(one, _LIMITS, ()) for one in sources), ())
        if own:
            return own
    return state.defaults


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


def _key(rule: _Rule) -> str | bytes:
    key: str | bytes | None = None if rule.key is None else rule.key()
    return client_key(request.remote_addr) if key is None else key


def _checked_key(key: object) -> Callable[..., Any] | None:
    if inspect.iscoroutinefunction(key):
        raise TypeError(f"key must be a plain function, not an async one, got {key!r}")
    return checked_key(key)

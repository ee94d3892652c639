"""Handle the requests of a Flask application that has a FlaskRateLimiter.

before: the limits of the blueprint, else the default ones ──> decide ──> denied: 429
view:   each decorator ──> decide ──> denied: 429
start_response: headers, see rate_limiter.web.wsgi_app
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from flask import Flask, Response, current_app, g, jsonify, request
from werkzeug.exceptions import ServiceUnavailable, TooManyRequests

from rate_limiter._core import Decision, Verdict
from rate_limiter.exceptions import RateLimitExceeded
from rate_limiter.policy.denials import Answer, DenialRenderer
from rate_limiter.policy.headers import DENIED_DETAIL
from rate_limiter.policy.policy import Policy, denial_of, run_now
from rate_limiter.policy.request_fields import WsgiFramework, scope_of_environ, signed_value
from rate_limiter.policy.settling import change_cost, record_of
from rate_limiter.policy.setup_checks import SetupChecks
from rate_limiter.web.answers import DENIED, NO_STORE
from rate_limiter.web.wsgi_app import RecordingApp, settle_failed, settle_later

EXTENSION = "rate_limiter"
LIMITS = "_rate_limiter_limits"  # on what a decorator limits: a tuple of decorators
EXEMPT = "_rate_limiter_exempt"


class FlaskFramework(WsgiFramework):
    """Read requests as Flask does."""

    routes_like_werkzeug = True

    def cookie(self, request_: Any, name: str) -> str | None:
        """Return the value in ``request.cookies``."""
        return signed_value(request.cookies.get(name, "")) or None


@dataclass(frozen=True)
class State:
    """The configuration of one limiter in one application."""

    owner: object  # the FlaskRateLimiter
    settings: dict[str, Any]
    enabled: bool
    renderer: DenialRenderer | None
    status_path: str | None
    exempt_paths: frozenset[str]
    skips_preflight: bool
    checks: SetupChecks | None
    defaults: Policy | None  # for views without limits of their own

    def is_exempt(self) -> bool:
        """Return whether this limiter leaves the present request alone."""
        return request.path in self.exempt_paths or (self.skips_preflight and _is_preflight())


@dataclass
class Attached:
    """The limiters of one application, in the order of their `init_app`."""

    states: list[State] = field(default_factory=list)

    def state_of(self, owner: object) -> State:
        """Return the state of a limiter, else the first one if it has no `init_app` here."""
        return next((state for state in self.states if state.owner is owner), self.states[0])


class FlaskRateLimitExceeded(RateLimitExceeded, TooManyRequests):  # type: ignore[misc]
    """Raised for a denied request; error handlers for either base or for 429 receive it."""

    description = DENIED_DETAIL

    def __init__(self, decision: Decision, key: str | bytes, answer: Answer | None = None) -> None:
        TooManyRequests.__init__(self)
        RateLimitExceeded.__init__(self, decision, key)
        self._answer = answer

    def get_response(self, *args: Any, **kwargs: Any) -> Any:
        """Return the default response: 429, with a JSON body or the one of `denied=`."""
        _forget_traceback(self)
        return _response(self._answer or DENIED)


class _StoreIsUnavailable(ServiceUnavailable):
    """Respond with 503: the store is unavailable, so there is no decision."""

    def get_response(self, *args: Any, **kwargs: Any) -> Any:
        _forget_traceback(self)
        return _response(NO_STORE)


def _forget_traceback(error: BaseException) -> None:
    """Break the reference cycle between an error that becomes the response and Flask's frames."""
    error.__traceback__ = None


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, content_type=answer.media_type)


def attached(app: Flask) -> Attached:
    """Return the limiters of an application; install the hooks if it has none yet."""
    if EXTENSION not in app.extensions:
        app.extensions[EXTENSION] = Attached()
        app.before_request(_before_request)
        app.teardown_request(_teardown_request)
        app.wsgi_app = RecordingApp(app.wsgi_app)  # type: ignore[method-assign]
    limiters: Attached = app.extensions[EXTENSION]
    return limiters


def state_now(owner: object) -> State | None:
    """Return the state of a limiter in the current application; None if it has no limiter."""
    limiters: Attached | None = current_app.extensions.get(EXTENSION)
    return None if limiters is None else limiters.state_of(owner)


# --- Before the view -----------------------------------------------------------------------------


def _before_request() -> Any:
    limiters: Attached = current_app.extensions[EXTENSION]
    for state in limiters.states:
        if state.enabled and state.status_path is not None and request.path == state.status_path:
            return _status(state)
    if request.endpoint is None:
        return None
    view = current_app.view_functions.get(request.endpoint)
    for state in limiters.states:
        if state.enabled:
            for policy in _policies(state, limiters, view):
                denied = decide(state, policy)
                if denied is not None:
                    return _denial(denied)
    return None


def decide(state: State, policy: Policy) -> TooManyRequests | ServiceUnavailable | None:
    """Decide about the present request by one policy; return the error of a denial."""
    if state.is_exempt():
        return None
    environ = request.environ
    verdict = policy.decide_now(environ)
    if verdict is None:
        return None
    g.rate_limit = record_of(environ)
    if state.checks is not None and not state.checks.is_done:
        state.checks.look(scope_of_environ(environ), verdict.key)
    if not verdict.is_denial:
        if verdict.settles:
            settle_later(environ, policy)
        return None
    return _error(state, verdict)


def _error(state: State, verdict: Verdict) -> TooManyRequests | ServiceUnavailable:
    if verdict.store_unavailable:
        return _StoreIsUnavailable()
    answer = state.renderer and state.renderer(denial_of(request.environ, verdict))
    return FlaskRateLimitExceeded(verdict.decision, verdict.key, answer)


def _denial(error: TooManyRequests | ServiceUnavailable) -> Any:
    """Return the response to a denied request, or raise if the application may handle errors.

    Raising costs Flask three times as much.
    """
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    has_handlers = any(any(by_code.values()) for by_code in app.error_handler_spec.values())
    if has_handlers or app.config["TRAP_HTTP_EXCEPTIONS"]:
        raise error
    return error.get_response()


def give_way(policies: Iterable[Policy | None]) -> None:
    """Give back what some policies took for the present request, and forget it."""
    record = record_of(request.environ)
    for verdict in () if record is None else record.verdicts:
        if verdict.policy in policies and record is not None:
            record._remove(verdict)
            if verdict.allowed:
                run_now(change_cost(verdict, 0))


def _teardown_request(error: BaseException | None) -> None:
    if error is not None:
        settle_failed(request.environ, error)


def _status(state: State) -> Response:
    if state.defaults is None:
        return jsonify(limited=False, rule=None, limits=[])
    response = jsonify(run_now(state.defaults.status(request.environ)))
    response.headers["Cache-Control"] = "no-store"
    return response


def _is_preflight() -> bool:
    """Return whether a CORS extension answers the request as a preflight request."""
    environ = request.environ
    return (
        request.method == "OPTIONS"
        and "HTTP_ORIGIN" in environ
        and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
    )


# --- Which limits --------------------------------------------------------------------------------


def _policies(state: State, limiters: Attached, view: Any) -> Iterable[Policy]:
    """Return the policies of one limiter that count before the view is called."""
    if _serves_static_files(request.endpoint or "", view) and not hasattr(view, LIMITS):
        return ()
    of_view = _sources(view)
    if _is_marked(state, limiters, of_view, EXEMPT) or _marks(state, limiters, of_view):
        return ()  # the decorators decide when the view is called
    # An endpoint may have dots without a blueprint.
    for blueprint in map(current_app.blueprints.get, request.blueprints):
        if _is_marked(state, limiters, [blueprint], EXEMPT):
            return ()
        own = _marks(state, limiters, [blueprint])
        if own:
            return [one.policy(state) for one in own]
    return () if state.defaults is None else (state.defaults,)


def _serves_static_files(endpoint: str, view: Any) -> bool:
    """Return whether Flask added a view for a ``static_folder``."""
    is_flasks = (getattr(view, "__module__", None) or "").partition(".")[0] == "flask"
    return is_flasks and endpoint.rpartition(".")[2] == "static"


def _is_marked(state: State, limiters: Attached, sources: Iterable[Any], name: str) -> bool:
    owners: tuple[Any, ...] = sum((getattr(one, name, ()) for one in sources), ())
    return any(limiters.state_of(owner) is state for owner in owners)


def _marks(state: State, limiters: Attached, sources: Iterable[Any]) -> list[Any]:
    """Return the decorators of one limiter that limit any of some objects."""
    found: tuple[Any, ...] = sum((getattr(one, LIMITS, ()) for one in sources), ())
    return [one for one in found if limiters.state_of(one.owner) is state]


def _sources(view: Any) -> list[Any]:
    """Return the objects a decorator can mark: the view, its class, the method of the request."""
    view_class = getattr(view, "view_class", None)
    if view_class is None:
        return [view]
    method = getattr(view_class, request.method.lower(), None)
    if method is None and request.method == "HEAD":
        method = getattr(view_class, "get", None)
    return [view, view_class, method]

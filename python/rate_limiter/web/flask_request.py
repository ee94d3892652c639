"""Handle the requests of a Flask application that has a FlaskRateLimiter.

before: the limits of the blueprint, else the default ones ──> decide ──> denied: 429
view:   each decorator ──> decide ──> denied: 429
start_response: headers, see rate_limiter.web.wsgi_app
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rate_limiter._core import Decision, Verdict
from rate_limiter.checks.extras import extra_named
from rate_limiter.exceptions import RateLimitExceeded
from rate_limiter.policy.denials import Answer, DenialRenderer, denial_of
from rate_limiter.policy.headers import DENIED_DETAIL
from rate_limiter.policy.lookups import status_of
from rate_limiter.policy.policy import Policy
from rate_limiter.policy.request_fields import WsgiFramework, scope_of_environ, signed_value
from rate_limiter.policy.settling import RECORD, change_cost, record_of, run_now
from rate_limiter.policy.setup_checks import SetupChecks
from rate_limiter.web.answers import DENIED, NO_STORE
from rate_limiter.web.wsgi_app import is_preflight, note_error, recording, settle_later

with extra_named():
    from flask import Flask, Request, Response, g, got_request_exception, jsonify, request
    from werkzeug.datastructures import Headers
    from werkzeug.exceptions import HTTPException, ServiceUnavailable, TooManyRequests

EXTENSION = "rate_limiter"
LIMITS = "_rate_limiter_limits"  # on what a decorator limits: a tuple of decorators
EXEMPT = "_rate_limiter_exempt"
_KNOWN_MAX = 10_000
_UNKNOWN: tuple[Any, tuple[Any, ...]] = (object(), ())
_ERROR_METHODS = ("handle_user_exception", "handle_http_exception", "trap_http_exception")

# Each use of a proxy such as `request` costs as much as a whole decision; these skip it.
current_request: Callable[[], Request] = request._get_current_object  # type: ignore[attr-defined]
_current_g: Callable[[], Any] = g._get_current_object


class FlaskFramework(WsgiFramework):
    """Read requests as Flask does."""

    routes_like_werkzeug = True

    def answers(self, error: Exception) -> bool:
        return isinstance(error, HTTPException)

    def cookie(self, environ: Any, name: str) -> str | None:
        """Return the value in ``request.cookies``."""
        return signed_value(request.cookies.get(name, "")) or None


@dataclass(frozen=True, eq=False)
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

    def is_exempt(self, current: Request) -> bool:
        """Return whether this limiter leaves a request alone."""
        return current.path in self.exempt_paths or (
            self.skips_preflight and is_preflight(current.environ)
        )

    @cached_property
    def has_exemptions(self) -> bool:
        """Whether is_exempt() can be true."""
        return bool(self.exempt_paths) or self.skips_preflight


class Attached:
    """The limiters of one application, in the order of their `init_app`.

    Attributes:
        decorators: by the limit of a decorator: the state of its limiter, and its policy there;
            None: it is not enabled.
    """

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.states: list[State] = []
        self.decorators: dict[object, tuple[State, Policy | None]] = {}
        self._handled: dict[type[HTTPException], bool] = {}
        self._status_paths: dict[str, State] = {}
        # By endpoint and method: the view, and what counts before it is called.
        self._known: dict[tuple[str, str], tuple[Any, tuple[tuple[State, Policy], ...]]] = {}
        app.before_request(self._hook())
        got_request_exception.connect(_note_error, app)
        app.wsgi_app = recording(app.wsgi_app)  # type: ignore[method-assign, assignment]

    def attach(self, state: State) -> None:
        """Add a limiter."""
        self.states.append(state)
        self.decorators.clear()
        self._known.clear()
        if state.enabled and state.status_path is not None:
            self._status_paths.setdefault(state.status_path, state)

    def state_of(self, owner: object) -> State:
        """Return the state of a limiter, else the first one if it has no `init_app` here."""
        for state in self.states:
            if state.owner is owner:
                return state
        return self.states[0]

    def _hook(self) -> Callable[[], Any]:
        """Return the function that limits requests: Flask calls it faster than a method."""

        def limit_request() -> Any:
            current = current_request()
            if self._status_paths and current.path in self._status_paths:
                return _status(self._status_paths[current.path], current)
            if current.url_rule is None:
                return None
            endpoint = current.url_rule.endpoint
            view, counting = self._known.get((endpoint, current.method), _UNKNOWN)
            if view is not self.app.view_functions.get(endpoint):
                counting = self._look_up(current, endpoint)
            for state, policy in counting:
                denial = decide(state, policy, current)
                if denial is not None:
                    return self.response_to(state, denial, current.environ)
            return None

        return limit_request

    def response_to(self, state: State, denial: Verdict, environ: dict[str, Any]) -> Response:
        """Return the response to a denied request.

        Raises:
            TooManyRequests, ServiceUnavailable: the application may handle the error. Raising
                costs Flask three times as much.
        """
        kind = _StoreIsUnavailable if denial.store_unavailable else FlaskRateLimitExceeded
        if self._may_handle(kind):
            raise error_of(state, denial, environ)
        return _response(NO_STORE if denial.store_unavailable else _answer(state, denial, environ))

    def _may_handle(self, kind: type[HTTPException]) -> bool:
        """Return whether the application or a blueprint has its own way with an error."""
        if self.app.config["TRAP_HTTP_EXCEPTIONS"]:
            return True
        known = self._handled.get(kind)
        if known is None:  # Flask takes no handlers after the first request
            known = self._handled[kind] = _is_handled(self.app, kind)
        return known

    # --- Which limits ---

    def _look_up(self, current: Request, endpoint: str) -> tuple[tuple[State, Policy], ...]:
        """Return and remember what counts before a view is called."""
        view = self.app.view_functions.get(endpoint)
        if len(self._known) > _KNOWN_MAX:  # methods are the client's words
            self._known.clear()
        found = tuple(
            (state, policy)
            for state in self.states
            if state.enabled
            for policy in self._find_policies(state, current, endpoint, view)
        )
        self._known[endpoint, current.method] = (view, found)
        return found

    def _find_policies(
        self, state: State, current: Request, endpoint: str, view: Any
    ) -> Iterable[Policy]:
        if serves_static_files(endpoint, view) and not hasattr(view, LIMITS):
            return ()
        of_view = _sources(view, current.method)
        if self._is_exempted(state, of_view) or self._limits(state, of_view):
            return ()  # the decorators decide when the view is called
        # An endpoint may have dots without a blueprint.
        for blueprint in map(self.app.blueprints.get, current.blueprints):
            if self._is_exempted(state, [blueprint]):
                return ()
            own = self._limits(state, [blueprint])
            if own:
                return [one.policy(state) for one in own]
        return () if state.defaults is None else (state.defaults,)

    def _is_exempted(self, state: State, sources: Iterable[Any]) -> bool:
        owners: tuple[Any, ...] = sum((getattr(one, EXEMPT, ()) for one in sources), ())
        return any(self.state_of(owner) is state for owner in owners)

    def _limits(self, state: State, sources: Iterable[Any]) -> list[Any]:
        """Return the decorators of one limiter that limit any of some objects."""
        found: tuple[Any, ...] = sum((getattr(one, LIMITS, ()) for one in sources), ())
        return [one for one in found if self.state_of(one.owner) is state]


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


class _DeniedResponse(Response):
    """A response whose headers are complete, so Werkzeug does not have to copy them."""

    def get_wsgi_headers(self, environ: Any) -> Headers:
        return self.headers


def _response(answer: Answer) -> Response:
    return _DeniedResponse(answer.body, answer.status, content_type=answer.media_type)


def attached(app: Flask) -> Attached:
    """Return the limiters of an application; install the hooks if it has none yet."""
    if EXTENSION not in app.extensions:
        app.extensions[EXTENSION] = Attached(app)
    limiters: Attached = app.extensions[EXTENSION]
    return limiters


def _is_handled(app: Flask, kind: type[HTTPException]) -> bool:
    """Return whether an application does anything with an error but to send its response."""
    for name in _ERROR_METHODS:  # extensions replace them in the object
        if getattr(getattr(app, name), "__func__", None) is not getattr(Flask, name):
            return True
    return any(
        issubclass(kind, handled)
        for spec in app.error_handler_spec.values()
        for code in (kind.code, None)
        for handled in spec.get(code, ())
    )


def decide(state: State, policy: Policy, current: Request) -> Verdict | None:
    """Decide about a request by one policy; return the verdict if it is denied."""
    if state.has_exemptions and state.is_exempt(current):
        return None
    environ = current.environ
    verdict = policy.decide_now(environ)
    if verdict is None:
        return None
    _current_g().rate_limit = environ[RECORD]
    if state.checks is not None and not state.checks.is_done:
        scope = scope_of_environ(environ)
        state.checks.look(scope, verdict.key, calls_key=policy.calls_key)
    if verdict.is_denial:
        return verdict
    if verdict.settles:
        settle_later(environ, policy)
    return None


def error_of(
    state: State, denial: Verdict, environ: dict[str, Any]
) -> TooManyRequests | ServiceUnavailable:
    """Return the error of a denied request."""
    if denial.store_unavailable:
        return _StoreIsUnavailable()
    answer = _answer(state, denial, environ)
    return FlaskRateLimitExceeded(denial.decision, denial.key, answer)


def _answer(state: State, denial: Verdict, environ: dict[str, Any]) -> Answer:
    return DENIED if state.renderer is None else state.renderer(denial_of(environ, denial))


def give_way(environ: dict[str, Any], policy: Policy) -> None:
    """Give back what a policy took for a request, and forget it."""
    record = record_of(environ)
    if record is None:
        return
    for verdict in record.verdicts:
        if verdict.policy is policy:
            record._remove(verdict)
            if verdict.allowed:
                run_now(change_cost(verdict, 0))


def _note_error(app: Flask, exception: BaseException) -> None:
    """Note an error of the application, for the settlement of the request."""
    if not isinstance(exception, HTTPException):  # an extension may answer it in its own way
        note_error(current_request().environ, exception)


def _status(state: State, current: Request) -> Response:
    if state.defaults is None:
        return jsonify(limited=False, rule=None, limits=[])
    response = jsonify(run_now(status_of(state.defaults, current.environ)))
    response.headers["Cache-Control"] = "no-store"
    return response


def serves_static_files(endpoint: str, view: Any) -> bool:
    """Return whether Flask added a view for a ``static_folder``."""
    is_flasks = (getattr(view, "__module__", None) or "").partition(".")[0] == "flask"
    return is_flasks and endpoint.rpartition(".")[2] == "static"


def _sources(view: Any, name: str) -> list[Any]:
    """Return the objects a decorator can mark: the view, its class, the method of the request."""
    view_class = getattr(view, "view_class", None)
    if view_class is None:
        return [view]
    method = getattr(view_class, name.lower(), None)
    if method is None and name == "HEAD":
        method = getattr(view_class, "get", None)
    return [view, view_class, method]

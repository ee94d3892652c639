"""Handle the requests of a Flask application that has a FlaskRateLimiter.

before: which limits? ──> decide ──> denied: 429
after:  headers
settle: when the response has been sent, see rate_limiter.web.wsgi_settling
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from flask import Flask, Response, current_app, jsonify, request
from werkzeug.exceptions import ServiceUnavailable, TooManyRequests

from rate_limiter._core import Decision
from rate_limiter.exceptions import RateLimitExceeded
from rate_limiter.policy.denials import Answer, DenialRenderer
from rate_limiter.policy.headers import DENIED_DETAIL, NO_STORE_DETAIL, HeaderStyle, LimitState
from rate_limiter.policy.keys import Identities, Source
from rate_limiter.policy.policy import Finished, Policy, Verdict, errors_logged, now, run_now
from rate_limiter.policy.request_fields import Framework, signed_value
from rate_limiter.policy.setup_checks import SetupChecks
from rate_limiter.web.wsgi_settling import SETTLEMENT, Settlement, SettlingApp, settle_failed

EXTENSION = "rate_limiter"
_TAKEN = "rate_limiter.taken"  # in the WSGI environ of a request: a list of _Taken
LIMITS = "_rate_limiter_limits"  # on views, classes and blueprints that a decorator marks
EXEMPT = "_rate_limiter_exempt"


class FlaskFramework(Framework):
    """Read requests as Flask does. WSGI joins repeated headers with commas."""

    routes_like_werkzeug = True

    def cookie(self, scope: Any, name: str) -> str | None:
        """Return the value in ``request.cookies``."""
        return signed_value(request.cookies.get(name, "")) or None


@dataclass(frozen=True)
class State:
    """The configuration of one limiter in one application."""

    owner: object  # the FlaskRateLimiter
    enabled: bool
    style: HeaderStyle
    identities: Identities
    bypass: Source | None
    renderer: DenialRenderer | None
    status_path: str | None
    checks: SetupChecks | None
    defaults: Policy | None  # for views without limits of their own


@dataclass
class Attached:
    """The limiters of one application, in the order of their `init_app`."""

    states: list[State] = field(default_factory=list)

    def state_of(self, owner: object) -> State:
        """Return the state of a limiter, else the first one if it has no `init_app` here."""
        return next((state for state in self.states if state.owner is owner), self.states[0])


@dataclass(frozen=True)
class _Taken:
    """The verdict of one limit about a request."""

    state: State
    policy: Policy
    verdict: Verdict


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
        if self._answer is not None:
            answer = self._answer
            return Response(answer.body, answer.status, content_type=answer.media_type)
        response = jsonify(detail=DENIED_DETAIL)
        response.status_code = 429
        return response


class _StoreIsUnavailable(ServiceUnavailable):
    """Respond with 503: the store is unavailable, so there is no decision."""

    description = NO_STORE_DETAIL

    def get_response(self, *args: Any, **kwargs: Any) -> Any:
        _forget_traceback(self)
        return super().get_response(*args, **kwargs)


def _forget_traceback(error: BaseException) -> None:
    """Break the reference cycle between an error that becomes the response and Flask's frames."""
    error.__traceback__ = None


def attached(app: Flask) -> Attached:
    """Return the limiters of an application; install the hooks if it has none yet."""
    if EXTENSION not in app.extensions:
        app.extensions[EXTENSION] = Attached()
        app.before_request(_before_request)
        app.after_request(_after_request)
        app.teardown_request(_teardown_request)
        app.wsgi_app = SettlingApp(app.wsgi_app)  # type: ignore[method-assign]
    limiters: Attached = app.extensions[EXTENSION]
    return limiters


def _scope() -> dict[str, Any]:
    """Return the request as an ASGI scope, with the fields that identities and rules read."""
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
    limiters: Attached = current_app.extensions[EXTENSION]
    enabled = [state for state in limiters.states if state.enabled]
    for state in enabled:
        if state.status_path is not None and request.path == state.status_path:
            return _status(state)
    limits = [(state, _policies(state, limiters)) for state in enabled]
    if not any(policies for _, policies in limits):
        return None
    scope = _scope()
    taken: list[_Taken] = []
    try:
        for state, policies in limits:
            if policies and not _is_bypassed(state, scope):
                for policy in policies:
                    _decide(state, policy, scope, taken)
    except Exception:
        for one in taken:
            run_now(one.policy.give_back(one.verdict))
        raise
    request.environ[_TAKEN] = taken
    if any(one.policy.settles(one.verdict) for one in taken):
        request.environ[SETTLEMENT] = _settlement(scope, taken)
    return None


def _is_bypassed(state: State, scope: dict[str, Any]) -> bool:
    return state.bypass is not None and bool(run_now(now(state.bypass(scope))))


def _decide(state: State, policy: Policy, scope: dict[str, Any], taken: list[_Taken]) -> None:
    """Decide by one limit and add the verdict to `taken`; raise if it denies."""
    verdict = run_now(policy.decide(scope))
    if verdict is None:
        return
    if state.checks is not None and not state.checks.is_done:
        state.checks.look(scope, verdict.key)
    one = _Taken(state, policy, verdict)
    if not verdict.is_denial:
        taken.append(one)
        return
    request.environ[_TAKEN] = [one]
    if verdict.store_unavailable:
        raise _StoreIsUnavailable
    answer = None if state.renderer is None else state.renderer(verdict.denial(state.style))
    raise FlaskRateLimitExceeded(verdict.decision, verdict.key, answer)


def _settlement(scope: dict[str, Any], taken: Iterable[_Taken]) -> Settlement:
    """Return the Settlement of this request, which runs after the request has ended.

    In `cost_after`, `request`, `g` and `current_app` are as the view left them.
    """
    context = copy_context()

    def settle(finished: Finished) -> None:
        for one in taken:
            if one.policy.settles(one.verdict):
                with errors_logged():
                    context.run(run_now, one.policy.settle(one.verdict, finished))

    return Settlement(Finished(scope, 0, ""), settle)


def _after_request(response: Response) -> Response:
    taken: list[_Taken] | None = request.environ.pop(_TAKEN, None)
    if taken:
        own_limit = "X-RateLimit-Limit" in response.headers
        for name, value in _header_values(taken).items():
            if name not in response.headers and not (own_limit and name.startswith("X-")):
                response.headers[name] = value
    return response


def _header_values(taken: Iterable[_Taken]) -> dict[str, str]:
    """Return the headers of all limits that show some, in the style of the tightest one."""
    shown = [
        one
        for one in taken
        if one.state.style.style != "off"
        and (one.verdict.decision.allowed or not one.verdict.active.rule.shadow)
    ]
    if not shown:
        return {}
    tightest = min(shown, key=lambda one: one.verdict.decision.remaining)
    every: list[LimitState] = [each for one in shown for each in one.verdict.each()]
    return tightest.state.style.values(tightest.verdict.decision, every)


def _teardown_request(error: BaseException | None) -> None:
    if error is not None:
        settle_failed(request.environ, error)


def _status(state: State) -> Response:
    if state.defaults is None:
        return jsonify(limited=False, rule=None, limits=[])
    response = jsonify(run_now(state.defaults.status(_scope())))
    response.headers["Cache-Control"] = "no-store"
    return response


def _policies(state: State, limiters: Attached) -> tuple[Policy, ...]:
    """Return the policies of one limiter for this request: see the top of flask.py."""
    if request.endpoint is None:
        return ()
    view = current_app.view_functions.get(request.endpoint)
    if _serves_static_files(request.endpoint, view) and not hasattr(view, LIMITS):
        return ()
    # An endpoint may have dots without a blueprint.
    blueprints = map(current_app.blueprints.get, request.blueprints)
    for sources in (_sources(view), *([one] for one in blueprints if one is not None)):
        if any(limiters.state_of(owner) is state for owner in _marks(sources, EXEMPT)):
            return ()
        marks = _marks(sources, LIMITS)
        own = tuple(one for one in marks if limiters.state_of(one.owner) is state)
        if own:
            return own
    return () if state.defaults is None else (state.defaults,)


def _serves_static_files(endpoint: str, view: Any) -> bool:
    """Return whether Flask added a view for a ``static_folder``."""
    is_flasks = (getattr(view, "__module__", None) or "").partition(".")[0] == "flask"
    return is_flasks and endpoint.rpartition(".")[2] == "static"


def _marks(sources: Iterable[Any], name: str) -> tuple[Any, ...]:
    """Return the marks that decorators have set on several objects."""
    marks: tuple[Any, ...] = sum((getattr(one, name, ()) for one in sources), ())
    return marks


def _sources(view: Any) -> list[Any]:
    """Return the objects a decorator can mark: the view, its class, the method of the request."""
    view_class = getattr(view, "view_class", None)
    if view_class is None:
        return [view]
    method = getattr(view_class, request.method.lower(), None)
    if method is None and request.method == "HEAD":
        method = getattr(view_class, "get", None)
    return [view, view_class, method]

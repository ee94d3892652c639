"""What happens to a request of a Flask application that has a FlaskRateLimiter.

before: which limits? ──> decide ──> denied: 429
after:  headers, and what is known of the answer
teardown: settle what the request has cost
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from flask import Flask, Response, abort, current_app, jsonify, request
from werkzeug.exceptions import TooManyRequests

from rate_limiter._core import Decision
from rate_limiter.answers import Answer, Answerer
from rate_limiter.exceptions import RateLimitExceeded
from rate_limiter.governor import Finished, Governor, Outcome, now, run_now
from rate_limiter.headers import DENIED_DETAIL, NO_STORE_DETAIL, HeaderStyle, Told
from rate_limiter.identity import Identities, Source
from rate_limiter.request_fields import Framework, signed_value
from rate_limiter.setup_checks import SetupChecks

EXTENSION = "rate_limiter"
_REQUEST = "rate_limiter.request"  # in the WSGI environment of a request
LIMITS = "_rate_limiter_limits"  # on what a decorator has marked
EXEMPT = "_rate_limiter_exempt"


class FlaskFramework(Framework):
    """Read requests as Flask does. A repeated header is one in WSGI, with commas."""

    routes_like_werkzeug = True

    def cookie(self, scope: Any, name: str) -> str | None:
        """Return the value that ``request.cookies`` has."""
        return signed_value(request.cookies.get(name, "")) or None


@dataclass(frozen=True)
class State:
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


def attach(app: Flask, state: State) -> None:
    """Limit the requests of an application from now on."""
    app.extensions[EXTENSION] = state
    app.before_request(_before_request)
    app.after_request(_after_request)
    app.teardown_request(_teardown_request)


def _state_of_app() -> State:
    state: State = current_app.extensions[EXTENSION]
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
                run_now(other.give_back(taken))
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


def _status(state: State) -> Response:
    if state.defaults is None:
        return jsonify(limited=False, rule=None, limits=[])
    response = jsonify(run_now(state.defaults.status(_scope())))
    response.headers["Cache-Control"] = "no-store"
    return response


def _governors(state: State) -> tuple[Governor, ...]:
    """What decides about this request: see the top of this file."""
    if request.endpoint is None:
        return ()
    view = current_app.view_functions.get(request.endpoint)
    if _serves_static_files(request.endpoint, view) and not hasattr(view, LIMITS):
        return ()
    blueprints = [current_app.blueprints[name] for name in request.blueprints]
    for sources in (_sources(view), *([blueprint] for blueprint in blueprints)):
        if any(getattr(source, EXEMPT, False) for source in sources):
            return ()
        own: tuple[Governor, ...] = sum((getattr(one, LIMITS, ()) for one in sources), ())
        if own:
            return own
    return () if state.defaults is None else (state.defaults,)


def _serves_static_files(endpoint: str, view: Any) -> bool:
    """Return whether a view is the one that Flask itself adds for a ``static_folder``."""
    is_flasks = (getattr(view, "__module__", None) or "").partition(".")[0] == "flask"
    return is_flasks and endpoint.rpartition(".")[2] == "static"


def _sources(view: Any) -> list[Any]:
    """Whatever a decorator may have marked: the view, its class, the method that will answer."""
    view_class = getattr(view, "view_class", None)
    if view_class is None:
        return [view]
    method = getattr(view_class, request.method.lower(), None)
    if method is None and request.method == "HEAD":
        method = getattr(view_class, "get", None)
    return [view, view_class, method]

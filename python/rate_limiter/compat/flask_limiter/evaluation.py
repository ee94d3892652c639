"""Count a request against its limits, and describe them in the response's headers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from rate_limiter.checks.extras import extra_named
from rate_limiter.compat.flask_limiter.definitions import (
    Limit,
    OnBreach,
    RequestLimit,
    RuntimeLimit,
)
from rate_limiter.compat.flask_limiter.errors import RateLimitExceeded
from rate_limiter.compat.limits.strategies import RateLimiter as Strategy

with extra_named():
    from flask.wrappers import Response
    from werkzeug.datastructures import Headers
    from werkzeug.http import http_date, parse_date

if TYPE_CHECKING:
    from rate_limiter.compat.flask_limiter.application import Application
    from rate_limiter.compat.flask_limiter.routes import Plan


NOTHING: frozenset[Limit] = frozenset()


class RequestContext:
    """What one extension has decided about one request."""

    __slots__ = (
        *("application", "conditional", "endpoint", "error", "fell_back", "plan", "seen", "taken"),
        *("view_rate_limit", "view_rate_limits"),
    )

    def __init__(self, endpoint: str | None, application: Application, plan: Plan) -> None:
        # Not the request: it refers to this object, and cycles cost the next requests time.
        self.endpoint, self.application, self.plan = endpoint, application, plan
        self.view_rate_limit: RequestLimit | None = None
        self.view_rate_limits: list[RequestLimit] = []
        self.taken: list[RequestLimit] = []
        self.conditional: list[RequestLimit] = []
        self.seen: frozenset[Limit] = NOTHING
        self.fell_back = False
        self.error: RateLimitExceeded | None = None


def evaluate(
    context: RequestContext,
    strategy: Strategy,
    endpoint: str,
    limits: Sequence[RuntimeLimit],
    *,
    whole_request: bool,
) -> None:
    """Count the request against limits, in their order, in one step.

    Args:
        whole_request: whether a denial ends the request, so that limits it passed before, in an
            earlier call, get back what they took. Those of this call take nothing then.

    Raises:
        RateLimitExceeded: it exceeds one of them, or a meta limit.
    """
    application = context.application
    has_meta_limits = bool(application.meta_limits)
    counted: list[RequestLimit] = []
    for limit in limits:
        # Most limits have no condition: this is the path of every request.
        definition = limit.definition
        has_meta_limits = has_meta_limits or definition.meta_limits is not None
        if definition.exempt_when is not None and limit.is_exempt:
            continue
        if definition.methods and limit.method_exempt:
            continue
        names = _count_names(application, limit, endpoint)
        if names is not None:
            counted.append(RequestLimit(strategy, limit, names))
    if has_meta_limits:
        _check_meta_limits(context, strategy, endpoint, limits)
    if not counted:
        return
    is_breached = False
    if len(counted) == 1:
        decisions = [counted[0].take()]
    else:
        decisions = strategy.decide_all(counted, stop=application.fail_on_first_breach)
        del counted[len(decisions) :]
    for state, decision in zip(counted, decisions, strict=True):
        state.note(decision)
        is_breached = is_breached or not decision.allowed
    if is_breached:
        _end_breached(context, strategy, endpoint, counted, whole_request=whole_request)
    for state in counted:
        if state.runtime_limit.definition.deduct_when is None:
            context.taken.append(state)
        else:
            context.conditional.append(state)
    shown = counted[0]
    if len(counted) > 1:
        shown = next((one for one in counted if not one.shared), shown)
    _note_states(context, shown, counted)


def _end_breached(
    context: RequestContext,
    strategy: Strategy,
    endpoint: str,
    counted: list[RequestLimit],
    *,
    whole_request: bool,
) -> NoReturn:
    breached = [one for one in counted if one.breached]
    _note_states(context, breached[-1], counted)
    for one in breached:
        context.application.logger.info(
            "ratelimit %s (%s) exceeded at endpoint: %s", one.limit, *one.request_args[-2:]
        )
    if whole_request:
        for one in context.taken:
            one.give_back()
        context.taken.clear()
    _deny(context, strategy, endpoint, breached)


def _note_states(context: RequestContext, shown: RequestLimit, counted: list[RequestLimit]) -> None:
    context.view_rate_limit = shown
    earlier = context.view_rate_limits
    context.view_rate_limits = (
        sorted(earlier + counted, key=lambda one: one.limit) if earlier else counted
    )


def settle(context: RequestContext, response: Response) -> None:
    """Give back the costs of limits whose `deduct_when` does not count this response."""
    pending, context.conditional = context.conditional, []
    for state in pending:
        deduct_when = state.runtime_limit.deduct_when
        if deduct_when is not None and not deduct_when(response):
            state.give_back()


def write_headers(response: Response, limit: RequestLimit, application: Application) -> None:
    """Describe a limit in the headers of a response; those that the view has set stay."""
    names, lower = application.header_names, application.lower_header_names
    headers, window = response.headers, limit.window
    reset_at = int(window.reset_time + 1)
    fields = [
        (names.limit, str(limit.limit.amount)),
        (names.remaining, str(window.remaining)),
        (names.reset, str(reset_at)),
    ]
    given = {name.lower() for name, _ in headers}
    if not given.isdisjoint(lower):
        fields = [field for field in fields if field[0].lower() not in given]
        if lower.retry_after in given:
            reset_at = max(reset_at, _retry_at(headers.get(names.retry_after)))
            headers.remove(names.retry_after)
    is_date = application.retry_after == "http-date"
    fields.append(
        (names.retry_after, http_date(reset_at) if is_date else str(int(reset_at - time.time())))
    )
    _add_fields(headers, fields)


def _add_fields(headers: Headers, fields: list[tuple[str, str]]) -> None:
    """Do what `add` does for each field, without a search for line breaks in numbers."""
    known: list[tuple[str, str]] | None = getattr(headers, "_list", None)
    if known is not None:
        known += fields
    else:  # another version of Werkzeug
        for name, value in fields:
            headers.add(name, value)


def _retry_at(header: str | None) -> int:
    """Return the time in a Retry-After header, in seconds since the epoch; 0 without one."""
    if header is None:
        return 0
    if header.isascii() and header.isdecimal() and len(header) < 12:
        return int(time.time() + int(header))
    date = parse_date(header)
    return 0 if date is None else int(date.timestamp())


def _count_names(application: Application, limit: RuntimeLimit, endpoint: str) -> list[str] | None:
    key, definition = limit.key_func(), limit.definition
    is_plain = definition.scope is None and not definition.per_method
    scope = endpoint if is_plain else limit.scope_for(endpoint)
    if not key or not scope:
        application.logger.error(
            "Skipping limit: %s. Empty value found in parameters.", limit.limit
        )
        return None
    return [application.key_prefix, key, scope] if application.key_prefix else [key, scope]


def _meta_limits(application: Application, limits: Sequence[RuntimeLimit]) -> list[RuntimeLimit]:
    shared = [one for meta in application.meta_limits for one in meta.resolve()]
    own = [one for limit in limits if limit.definition.meta_limits for one in limit.meta_limits]
    return [meta for meta in shared + own if not meta.is_exempt]


def _check_meta_limits(
    context: RequestContext, strategy: Strategy, endpoint: str, limits: Sequence[RuntimeLimit]
) -> None:
    """Raise RateLimitExceeded while a meta limit is used up."""
    if context.plan.skips_meta or context.fell_back:
        return
    application = context.application
    for meta in _meta_limits(application, limits):
        names = _count_names(application, meta, endpoint)
        if names is None:
            continue
        state = RequestLimit(strategy, meta, names)
        state.note(state.peek(state.cost))
        if state.breached:
            context.view_rate_limit, context.view_rate_limits = state, [state]
            callback = meta.on_breach or application.on_meta_breach
            raise RateLimitExceeded(meta, _called(application, [callback], state))


def _deny(
    context: RequestContext, strategy: Strategy, endpoint: str, breached: list[RequestLimit]
) -> NoReturn:
    application, response = context.application, None
    for state in breached:
        callbacks = [application.on_breach, state.runtime_limit.on_breach]
        response = _called(application, callbacks, state) or response
    if not context.plan.skips_meta and not context.fell_back:
        for meta in _meta_limits(application, [state.runtime_limit for state in breached]):
            names = _count_names(application, meta, endpoint)
            if names is not None:
                RequestLimit(strategy, meta, names).take()
    raise RateLimitExceeded(breached[0].runtime_limit, response)


def _called(
    application: Application, callbacks: list[OnBreach | None], state: RequestLimit
) -> Response | None:
    """Call the functions for a breach; return the last Response that one returned."""
    response = None
    for callback in dict.fromkeys(callbacks):
        if callback is None:
            continue
        try:
            returned = callback(state)
        except Exception:
            if not application.swallow_errors:
                raise
            application.logger.exception("on_breach callback failed")
        else:
            response = returned if isinstance(returned, Response) else response
    return response

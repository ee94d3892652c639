"""Which limits count for a request, and when."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from rate_limiter._core import StoreError
from rate_limiter.checks.extras import extra_named
from rate_limiter.compat.flask_limiter.application import Application
from rate_limiter.compat.flask_limiter.definitions import (
    Condition,
    KeyFunc,
    Limit,
    RouteLimit,
    RuntimeLimit,
)
from rate_limiter.compat.flask_limiter.errors import RateLimitExceeded
from rate_limiter.compat.flask_limiter.evaluation import (
    RequestContext,
    evaluate,
    settle,
    write_headers,
)
from rate_limiter.compat.flask_limiter.routes import (
    Blueprints,
    LimitedFunction,
    Plan,
    drops_own_limits,
    function_exemption,
    limited_view,
)
from rate_limiter.web.flask_request import serves_static_files

with extra_named():
    from flask import Flask, Request, current_app, request
    from flask.wrappers import Response

AnyLimit = TypeVar("AnyLimit", bound=Limit)

_NUMBERS = itertools.count()


class RequestChecks:
    """The part of Limiter that runs for each request.

    Application limits and, for views without limits, those of their blueprint or the default limits
    count in a `before_request` function; the limits of a decorator when what it
    decorates is called, with those that they do not override.
    """

    def __init__(self, key_func: KeyFunc, enabled: bool) -> None:
        self.key_func = key_func
        self.enabled = enabled
        self.logger = logging.getLogger("flask-limiter")
        # Attribute of requests, and the name in `app.extensions` under which an Application is.
        self._slot = f"_rate_limit_context_{next(_NUMBERS)}"
        self._filters: list[Condition] = []
        self._blueprints = Blueprints()
        self._version = 0  # counts changes of limits and exemptions
        # Endpoints whose views call limited functions: whether none of these overrides the
        # default limits.
        self._callers: dict[str, bool] = {}

    def _context(self) -> RequestContext | None:
        """Return what is known of the current request; None if its application is not limited."""
        current = request._get_current_object()  # type: ignore[attr-defined]
        context: RequestContext | None = current.__dict__.get(self._slot)
        if context is None:
            app = current_app._get_current_object()  # type: ignore[attr-defined]
            application: Application | None = app.extensions.get(self._slot)
            if application is not None:
                endpoint = current.endpoint
                plan = self._plan(app, application, current, endpoint)
                context = RequestContext(endpoint, application, plan)
                current.__dict__[self._slot] = context
        return context

    def _plan(
        self, app: Flask, application: Application, current: Request, endpoint: str | None
    ) -> Plan:
        """Return what is limited for an endpoint and a method."""
        name = endpoint, current.method
        view = app.view_functions.get(endpoint or "")
        plan = application.plans.get(name)
        if plan is None or plan.view is not view or plan.version != self._version:
            scope = function_exemption(view, self)
            scope |= self._blueprints.exemption(app, current.blueprint)
            plan = Plan(
                view,
                self._version,
                tuple(limited_view(view, current.method, self)),
                tuple(self._blueprints.limits(app, current.blueprint)),
                scope,
                serves_static_files(endpoint or "", view),
            )
            if endpoint is not None:  # else the methods have no bound
                application.plans[name] = plan
        return plan

    def _check_request(self) -> None:
        """Count a request before its view is called: against all but the limits of decorators."""
        if self.enabled and (context := self._context()) is not None:
            self._decide(context, lambda: self._limits_before(context))

    def _check_call(self, limited: LimitedFunction) -> None:
        """Count a request when a decorated function is called."""
        if not self.enabled or (context := self._context()) is None:
            return
        peers: Sequence[LimitedFunction] = context.plan.limited
        is_view = limited in peers
        if not is_view:
            peers = (limited,)
            self._note_caller(context, limited.limits)
        self._decide(
            context, lambda: self._called_limits(context, (limited,), peers), whole_request=is_view
        )

    def check_block(self, limit: RouteLimit) -> None:
        """Count the current request against the limit of a block: what ``with`` does."""
        if not self.enabled or (context := self._context()) is None:
            return
        self._note_caller(context, (limit,))

        def limits() -> list[RuntimeLimit]:
            own = self._parsed((limit,))
            return own + self._beside(context, own)

        self._decide(context, limits, whole_request=False)

    def _decide(
        self,
        context: RequestContext,
        collect: Callable[[], list[RuntimeLimit]],
        *,
        whole_request: bool = True,
    ) -> None:
        """Count the request against limits; what errors mean is decided here."""
        application = context.application
        try:
            identify = application.identify
            endpoint = context.endpoint if identify is None else identify()
            if not endpoint or self._is_exempt(context.plan):
                return
            self._evaluate(context, endpoint, collect(), whole_request)
        except RateLimitExceeded as error:
            context.error = error
            raise
        except Exception:
            if not application.swallow_errors:
                raise
            self.logger.exception("Failed to rate limit. Swallowing error")

    def _evaluate(
        self,
        context: RequestContext,
        endpoint: str,
        limits: list[RuntimeLimit],
        whole_request: bool,
    ) -> None:
        application = context.application
        if not limits and not application.meta_limits:
            return
        try:
            evaluate(context, application.strategy, endpoint, limits, whole_request=whole_request)
        except StoreError:
            if not application.fallback_limits:
                raise
            application.note_store(is_up=False)
            if not context.fell_back:
                context.fell_back = True
                instead = [one for limit in application.fallback_limits for one in limit.resolve()]
                evaluate(context, application.fallback, endpoint, instead, whole_request=True)
        else:
            application.note_store(is_up=True)

    def _is_exempt(self, plan: Plan) -> bool:
        filters = self._filters
        return plan.is_static or (bool(filters) and any(exempts() for exempts in filters))

    def _limits_before(self, context: RequestContext) -> list[RuntimeLimit]:
        """Return the limits that count before the view is called."""
        plan, endpoint = context.plan, context.endpoint
        if plan.limited:
            limits = []  # these count when the view is called
        elif endpoint in self._callers:
            limits = self._defaults(context) if self._callers[endpoint] else []
        else:
            limits = self._beside(context, [])
        if not plan.skips_application:
            limits += self._unseen(context, context.application.application_limits)
        return limits

    def _called_limits(
        self,
        context: RequestContext,
        called: Sequence[LimitedFunction],
        peers: Sequence[LimitedFunction],
    ) -> list[RuntimeLimit]:
        """Return the limits of called functions, with those that they do not override.

        Args:
            peers: all limited functions of the view, which decide about that together.
        """
        if len(called) == len(peers) == 1:
            own = self._limits_of(called[0])
            return own + self._beside(context, own)
        limits = {one: self._limits_of(one) for one in {*called, *peers}}
        explicit = [limit for one in peers for limit in limits[one]]
        own = [limit for one in called for limit in limits[one]]
        return own + self._beside(context, explicit)

    def _limits_of(self, limited: LimitedFunction) -> list[RuntimeLimit]:
        if drops_own_limits(function_exemption(limited.wrapper, self)):
            return []
        return self._parsed(limited.limits)

    def _beside(self, context: RequestContext, own: list[RuntimeLimit]) -> list[RuntimeLimit]:
        """Return the limits of the blueprint and the defaults, unless others override them."""
        blueprint: list[RuntimeLimit] = []
        overridden = bool(own) and any(limit.definition.override_defaults for limit in own)
        if context.plan.blueprint and not overridden:
            blueprint = self._parsed(_new(context, context.plan.blueprint))
            overridden = any(limit.definition.override_defaults for limit in blueprint)
        if overridden and not all(limit.method_exempt for limit in own + blueprint):
            return blueprint
        return blueprint + self._defaults(context)

    def _defaults(self, context: RequestContext) -> list[RuntimeLimit]:
        if context.plan.skips_defaults:
            return []
        return self._unseen(context, context.application.default_limits)

    def _unseen(self, context: RequestContext, limits: Sequence[Limit]) -> list[RuntimeLimit]:
        if not limits:
            return []
        return [one for limit in _new(context, limits) for one in limit.resolve()]

    def _parsed(self, limits: Iterable[RouteLimit]) -> list[RuntimeLimit]:
        """Return the limits of decorators; a malformed text is logged, and is no limit."""
        found: list[RuntimeLimit] = []
        for limit in limits:
            try:
                found += limit.resolve()
            except ValueError as error:
                self.logger.error("failed to load ratelimit of %s: %s", request.endpoint, error)
        return found

    def _note_caller(self, context: RequestContext, limits: Iterable[RouteLimit]) -> None:
        """Note that the view of this request calls limited functions."""
        if (endpoint := context.endpoint) is not None:
            overrides = any(limit.override_defaults for limit in limits)
            self._callers[endpoint] = self._callers.get(endpoint, True) and not overrides

    def _finish(self, response: Response) -> Response:
        current = request._get_current_object()  # type: ignore[attr-defined]
        context: RequestContext | None = current.__dict__.get(self._slot)
        if context is None:
            return response
        if context.error is not None:
            # Flask's frames refer to the exception, which refers to them: a cycle per denial.
            context.error.__traceback__ = None
            context.error = None
        application = context.application
        try:
            if context.conditional:
                settle(context, response)
            limit = context.view_rate_limit
            if limit is not None and application.headers_enabled and self.enabled:
                write_headers(response, limit, application)
        except Exception:  # the response is good, whatever a callable of the program did
            self.logger.exception("Failed to update rate limit headers. Swallowing error")
        return response


def _new(context: RequestContext, limits: Iterable[AnyLimit]) -> list[AnyLimit]:
    """Return the limits that a request was not counted against yet, and note them."""
    seen = context.seen
    new = [limit for limit in limits if limit not in seen] if seen else list(limits)
    seen.update(new)
    return new

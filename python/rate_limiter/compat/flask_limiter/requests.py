"""Which limits count for a request, and when."""

from __future__ import annotations

import itertools
import logging
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

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
    NOTHING,
    RequestContext,
    evaluate,
    settle,
    write_headers,
)
from rate_limiter.compat.flask_limiter.routes import (
    Blueprints,
    Collected,
    LimitedFunction,
    Plan,
    drops_own_limits,
    function_exemption,
    limited_view,
)
from rate_limiter.web.flask_request import current_request, serves_static_files

with extra_named():
    from flask import Flask, Request, current_app, request
    from flask.wrappers import Response

AnyLimit = TypeVar("AnyLimit", bound=Limit)

_NUMBERS = itertools.count()
_current_app: Callable[[], Flask] = current_app._get_current_object  # type: ignore[attr-defined]
_item = operator.attrgetter("limit")


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
        current = current_request()
        context: RequestContext | None = current.__dict__.get(self._slot)
        if context is None:
            app = _current_app()
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
            of_functions = (limit for one in plan.limited for limit in one.limits)
            plan.is_fixed = not any(
                callable(limit.limit_provider)
                for limits in (
                    *(plan.blueprint, of_functions),
                    *(application.default_limits, application.application_limits),
                )
                for limit in limits
            )
            if endpoint is not None:  # else the methods have no bound
                application.plans[name] = plan
        return plan

    def _check_request(self) -> None:
        """Count a request before its view is called: against all but the limits of decorators."""
        if not self.enabled or (context := self._context()) is None:
            return
        before, application = context.plan.before, context.application
        if before is not None and not before.limits and not application.meta_limits:
            return
        self._decide(context, self._limits_before, context)

    def _check_call(self, limited: LimitedFunction) -> None:
        """Count a request when a decorated function is called."""
        if not self.enabled or (context := self._context()) is None:
            return
        if limited in context.plan.limited:
            self._decide(context, self._limits_called, context, limited)
        else:
            self._note_caller(context, limited.limits)
            called = (limited,)
            self._decide(context, self._limits_of_all, context, called, called, is_view=False)

    def check_block(self, limit: RouteLimit) -> None:
        """Count the current request against the limit of a block: what ``with`` does."""
        if not self.enabled or (context := self._context()) is None:
            return
        self._note_caller(context, (limit,))
        self._decide(context, self._limits_of_block, context, limit, is_view=False)

    def _decide(
        self,
        context: RequestContext,
        collect: Callable[..., Sequence[RuntimeLimit]],
        *args: Any,
        is_view: bool = True,
    ) -> None:
        """Count the request against what `collect` returns; what errors mean is decided here.

        Args:
            is_view: whether a denial ends the request.
        """
        application = context.application
        try:
            identify = application.identify
            endpoint = context.endpoint if identify is None else identify()
            if not endpoint or context.plan.is_static or (self._filters and self._is_exempt()):
                return
            limits = collect(*args)
            if limits or application.meta_limits:
                self._evaluate(context, endpoint, limits, is_view)
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
        limits: Sequence[RuntimeLimit],
        whole_request: bool,
    ) -> None:
        application = context.application
        try:
            evaluate(context, application.strategy, endpoint, limits, whole_request=whole_request)
        except StoreError:
            if not application.fallback_limits:
                raise
            application.note_store(is_up=False)
            if not context.fell_back:
                context.fell_back = True
                instead = [one for limit in application.fallback_limits for one in limit.resolve()]
                instead.sort(key=_item)
                evaluate(context, application.fallback, endpoint, instead, whole_request=True)
        else:
            if not application.store_is_up:
                application.note_store(is_up=True)

    def _is_exempt(self) -> bool:
        return any(exempts() for exempts in self._filters)

    def _limits_before(self, context: RequestContext) -> Sequence[RuntimeLimit]:
        """Return the limits that count before the view is called."""
        plan = context.plan
        if plan.before is not None and not context.seen:
            context.seen = plan.before.new
            return plan.before.limits
        seen, limits = context.seen, self._collect_before(context)
        if plan.is_fixed and not seen:
            plan.before = Collected(limits, NOTHING, context.seen)
        return limits

    def _collect_before(self, context: RequestContext) -> list[RuntimeLimit]:
        plan, endpoint = context.plan, context.endpoint
        if plan.limited:
            limits = []  # these count when the view is called
        elif endpoint in self._callers:
            limits = self._defaults(context) if self._callers[endpoint] else []
        else:
            limits = self._beside(context, [])
        if not plan.skips_application:
            limits += self._unseen(context, context.application.application_limits)
        return sorted(limits, key=_item)

    def _limits_called(
        self, context: RequestContext, limited: LimitedFunction
    ) -> Sequence[RuntimeLimit]:
        """Return the limits of a limited function of the view, with those it does not override."""
        plan, seen = context.plan, context.seen
        known = plan.called.get(limited)
        if known is not None and (not seen or known.read.isdisjoint(seen)):
            context.seen = seen | known.new if seen else known.new
            return known.limits
        limits = self._limits_of_all(context, (limited,), plan.limited)
        read = frozenset((*plan.blueprint, *context.application.default_limits))
        if plan.is_fixed and read.isdisjoint(seen):
            plan.called[limited] = Collected(limits, read, context.seen - seen)
        return limits

    def _limits_of_all(
        self,
        context: RequestContext,
        called: Sequence[LimitedFunction],
        peers: Sequence[LimitedFunction],
    ) -> list[RuntimeLimit]:
        """Return the limits of called functions, with those that they do not override.

        Args:
            peers: all limited functions of the view, which decide about that together.
        """
        limits = {one: self._limits_of(context, one) for one in {*called, *peers}}
        explicit = [limit for one in peers for limit in limits[one]]
        own = [limit for one in called for limit in limits[one]]
        return sorted(own + self._beside(context, explicit), key=_item)

    def _limits_of_block(self, context: RequestContext, limit: RouteLimit) -> list[RuntimeLimit]:
        own = self._parsed(context, (limit,))
        return sorted(own + self._beside(context, own), key=_item)

    def _limits_of(self, context: RequestContext, limited: LimitedFunction) -> list[RuntimeLimit]:
        if drops_own_limits(function_exemption(limited.wrapper, self)):
            return []
        return self._parsed(context, limited.limits)

    def _beside(self, context: RequestContext, own: list[RuntimeLimit]) -> list[RuntimeLimit]:
        """Return the limits of the blueprint and the defaults, unless others override them."""
        blueprint: list[RuntimeLimit] = []
        overridden = bool(own) and any(limit.definition.override_defaults for limit in own)
        if context.plan.blueprint and not overridden:
            blueprint = self._parsed(context, _new(context, context.plan.blueprint))
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

    def _parsed(self, context: RequestContext, limits: Iterable[RouteLimit]) -> list[RuntimeLimit]:
        """Return the limits of decorators; a malformed text is logged, and is no limit."""
        found: list[RuntimeLimit] = []
        for limit in limits:
            try:
                found += limit.resolve()
            except ValueError as error:
                context.plan.is_fixed = False  # so that each request logs it
                self.logger.error("failed to load ratelimit of %s: %s", request.endpoint, error)
        return found

    def _note_caller(self, context: RequestContext, limits: Iterable[RouteLimit]) -> None:
        """Note that the view of this request calls limited functions."""
        if (endpoint := context.endpoint) is not None:
            overrides = any(limit.override_defaults for limit in limits)
            known = self._callers.get(endpoint)
            if known is None or (known and overrides):
                self._callers[endpoint] = not overrides
                self._version += 1  # the limits before the view are others from now on

    def _finish(self, response: Response) -> Response:
        context: RequestContext | None = current_request().__dict__.get(self._slot)
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
    context.seen = seen.union(new)
    return new

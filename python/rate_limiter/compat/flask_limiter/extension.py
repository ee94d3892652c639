"""The Limiter extension."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from inspect import iscoroutinefunction
from typing import Any, TypeAlias, TypeVar, overload

from rate_limiter.checks.extras import extra_named
from rate_limiter.compat.flask_limiter.application import Application
from rate_limiter.compat.flask_limiter.commands import cli
from rate_limiter.compat.flask_limiter.constants import (
    ORDINARY,
    ConfigVars,
    ExemptionScope,
    HeaderNames,
)
from rate_limiter.compat.flask_limiter.definitions import (
    ApplicationLimit,
    Condition,
    Cost,
    DeductWhen,
    KeyFunc,
    Limit,
    MetaLimit,
    OnBreach,
    Provider,
    RequestLimit,
    RouteLimit,
    RuntimeLimit,
    Scope,
)
from rate_limiter.compat.flask_limiter.requests import (
    RequestChecks,
)
from rate_limiter.compat.flask_limiter.routes import (
    LimitedFunction,
    attach,
    exempt_function,
    limited_by,
)
from rate_limiter.compat.limits.storage import Storage
from rate_limiter.compat.limits.strategies import RateLimiter as Strategy

with extra_named():
    from flask import Blueprint, Flask, current_app, has_app_context, has_request_context

Target = TypeVar("Target", bound=Any)
AnyLimit = TypeVar("AnyLimit", bound=Limit)
Message: TypeAlias = str | Callable[[], str]

_CONTEXTS = "_rate_limit_contexts"


class Limiter(RequestChecks):
    """Limit the views of Flask applications, with the arguments and decorators of Flask-Limiter.

    Args:
        key_func: a callable without arguments that returns who a request counts for.
        app: an application to limit now; else call `init_app`.
        default_limits: limits of each view without its own: texts such as ``"50/hour"``,
            callables that return one, or Limit. Each endpoint has its own count.
        default_limits_per_method, default_limits_exempt_when, default_limits_deduct_when,
            default_limits_cost: options of default limits that are not a Limit.
        application_limits: limits over all endpoints together, likewise.
        application_limits_per_method, application_limits_exempt_when,
            application_limits_deduct_when, application_limits_cost: options of them.
        headers_enabled: whether responses have the headers of the limit. Default False.
        header_name_mapping: other names for these headers.
        strategy: ``"fixed-window"`` (default), ``"moving-window"`` or
            ``"sliding-window-counter"``.
        storage_uri: ``memory://`` (default), ``shared://PATH``, or the address of a Redis.
        storage_options: options of the storage, see rate_limiter.compat.limits.storage.
        swallow_errors: whether a request passes when an error prevents its decision; the error
            is logged.
        fail_on_first_breach: whether the first limit that is exceeded ends the decision.
        on_breach: called with a RequestLimit when a limit is exceeded; a Response that it
            returns is sent.
        meta_limits: limits on how often a client may exceed other limits.
        on_meta_breach: as `on_breach`, for meta limits.
        in_memory_fallback: limits that count instead of all others while Redis is unavailable.
        in_memory_fallback_enabled: whether the limits count in memory while Redis is
            unavailable. So they do by default; it counts before `swallow_errors`.
        retry_after: ``"delta-seconds"`` (default) or ``"http-date"``.
        key_prefix: first part of all keys.
        request_identifier: a callable without arguments that names what a limit of a view counts;
            by default the endpoint.
        enabled: False allows every request. ``limiter.enabled`` can be assigned later.

    The settings ``RATELIMIT_...`` of the application's configuration count where an argument is
    not given; ``RATELIMIT_ENABLED`` counts before `enabled`.

    Raises:
        ConfigurationError: the strategy, the storage or one of its options is not supported.
        ValueError: a default, application, meta or fallback limit is malformed.
    """

    def __init__(
        self,
        key_func: KeyFunc,
        *,
        app: Flask | None = None,
        default_limits: Sequence[Provider | Limit] | None = None,
        default_limits_per_method: bool | None = None,
        default_limits_exempt_when: Condition | None = None,
        default_limits_deduct_when: DeductWhen | None = None,
        default_limits_cost: Cost | None = None,
        application_limits: Sequence[Provider | ApplicationLimit] | None = None,
        application_limits_per_method: bool | None = None,
        application_limits_exempt_when: Condition | None = None,
        application_limits_deduct_when: DeductWhen | None = None,
        application_limits_cost: Cost | None = None,
        headers_enabled: bool | None = None,
        header_name_mapping: dict[HeaderNames, str] | None = None,
        strategy: str | None = None,
        storage_uri: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        swallow_errors: bool | None = None,
        fail_on_first_breach: bool | None = None,
        on_breach: OnBreach | None = None,
        meta_limits: Sequence[Provider | MetaLimit] | None = None,
        on_meta_breach: OnBreach | None = None,
        in_memory_fallback: Sequence[str] | None = None,
        in_memory_fallback_enabled: bool | None = None,
        retry_after: str | None = None,
        key_prefix: str = "",
        request_identifier: Callable[[], str] | None = None,
        enabled: bool = True,
    ) -> None:
        left_out = ("self", "app", "key_func", "enabled")
        self._arguments = {name: one for name, one in locals().items() if name not in left_out}
        if not callable(key_func):
            raise TypeError(f"key_func must be a callable without arguments, got {key_func!r}")
        super().__init__(key_func, enabled)
        self.app = app
        self._latest: Application | None = None
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Limit an application. Its counts begin afresh, unless they are in a shared store."""
        self.enabled: bool = app.config.setdefault(ConfigVars.ENABLED, self.enabled)
        known = self._slot in app.extensions
        self._latest = app.extensions[self._slot] = Application(self, app, self._arguments)
        app.extensions.setdefault("limiter", set()).add(self)
        app.cli.commands.setdefault("limiter", cli)
        if not known:
            app.before_request(self._check_request)
            app.after_request(self._finish)

    def limit(
        self,
        limit_value: Provider,
        *,
        key_func: KeyFunc | None = None,
        per_method: bool = False,
        methods: Sequence[str] | None = None,
        error_message: Message | None = None,
        exempt_when: Condition | None = None,
        override_defaults: bool = True,
        deduct_when: DeductWhen | None = None,
        on_breach: OnBreach | None = None,
        cost: Cost = 1,
        scope: Scope | None = None,
        meta_limits: Sequence[Provider | MetaLimit] | None = None,
    ) -> RouteLimit:
        """Return a decorator for views, functions and blueprints, and for blocks of code.

        Args: see Limit. With `override_defaults` the default limits do not count too; for a
            blueprint, those of the blueprints that it is nested in do not either.
        """
        return RouteLimit(
            limit_value,
            limiter=self,
            key_function=key_func,
            per_method=per_method,
            methods=methods,
            error_message=error_message,
            exempt_when=exempt_when,
            override_defaults=override_defaults,
            deduct_when=deduct_when,
            on_breach=on_breach,
            cost=cost,
            scope=scope,
            meta_limits=meta_limits,
        )

    def shared_limit(
        self,
        limit_value: Provider,
        scope: Scope,
        *,
        key_func: KeyFunc | None = None,
        per_method: bool = False,
        methods: Sequence[str] | None = None,
        error_message: Message | None = None,
        exempt_when: Condition | None = None,
        override_defaults: bool = True,
        deduct_when: DeductWhen | None = None,
        on_breach: OnBreach | None = None,
        cost: Cost = 1,
        meta_limits: Sequence[Provider | MetaLimit] | None = None,
    ) -> RouteLimit:
        """Return a decorator as `limit` does; all that it decorates has one count, `scope`."""
        return RouteLimit(
            limit_value,
            limiter=self,
            shared=True,
            key_function=key_func,
            per_method=per_method,
            methods=methods,
            error_message=error_message,
            exempt_when=exempt_when,
            override_defaults=override_defaults,
            deduct_when=deduct_when,
            on_breach=on_breach,
            cost=cost,
            scope=scope,
            meta_limits=meta_limits,
        )

    @overload
    def exempt(self, obj: Target, *, flags: ExemptionScope = ORDINARY) -> Target: ...

    @overload
    def exempt(
        self, obj: None = None, *, flags: ExemptionScope = ORDINARY
    ) -> Callable[[Target], Target]: ...

    def exempt(self, obj: Any = None, *, flags: ExemptionScope = ORDINARY) -> Any:
        """Exempt a view or a blueprint from the limits in `flags`. Use it as a decorator too."""
        if obj is None:
            return functools.partial(self.exempt, flags=flags)
        self._version += 1
        if isinstance(obj, Blueprint):
            self._blueprints.exempt(obj, flags)
        else:
            exempt_function(obj, self, flags)
        return obj

    def request_filter(self, fn: Condition) -> Condition:
        """Exempt requests for which a function returns True. Use it as a decorator."""
        self._filters.append(fn)
        return fn

    def check(self) -> None:
        """Count the current request against the limits of its view now.

        Raises:
            RateLimitExceeded: it exceeds one.
        """
        if self.enabled and (context := self._context()) is not None:
            all_of = context.plan.limited
            self._decide(context, self._limits_of_all, context, all_of, all_of)

    def reset(self) -> None:
        """Forget all counts of the storage."""
        self.storage.reset()
        self.logger.info("Storage has been reset and all limits cleared")

    @property
    def storage(self) -> Storage:
        """The storage, for the current application or the last one that was initialised."""
        return self._application().storage

    @property
    def limiter(self) -> Strategy:
        """The strategy, for example for ``limiter.limiter.hit(parse("5/minute"), key)``."""
        return self._application().strategy

    _storage = storage  # programs reach for these two names as well
    _limiter = limiter

    @property
    def initialized(self) -> bool:
        """Whether `init_app` was called."""
        return self._latest is not None

    @property
    def current_limit(self) -> RequestLimit | None:
        """The limit that matters most for the current request: the exceeded or the shortest."""
        context = self._context()
        return None if context is None else context.view_rate_limit

    @property
    def current_limits(self) -> list[RequestLimit]:
        """All limits that the current request was counted against, the shortest first."""
        context = self._context()
        return [] if context is None else context.view_rate_limits

    def identify_request(self) -> str:
        """Return what a limit of a view counts, by default the endpoint; ``""`` if disabled."""
        context = self._context() if self.enabled else None
        if context is None:
            return ""
        identify = context.application.identify
        return context.endpoint or "" if identify is None else identify()

    def decorate(self, obj: Target, limit: RouteLimit) -> Target:
        """Limit a function or a blueprint: what a RouteLimit does when it is called."""
        self._version += 1
        if isinstance(obj, Blueprint):
            self._blueprints.limit(obj, limit)
            return obj
        if not callable(obj):
            raise TypeError(f"expected a view, a function or a Blueprint, got {obj!r}")
        function: Callable[..., Any] = obj
        limits: tuple[RouteLimit, ...] = (limit,)
        stacked = limited_by(obj, self)
        if stacked and stacked[0].wrapper is obj:  # stacked decorators decide once, together
            function, limits = stacked[0].function, (limit, *stacked[0].limits)
        limited = LimitedFunction(self, function, limits)
        call = _awaited(function) if iscoroutinefunction(function) else function

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if has_request_context():
                self._check_call(limited)
            return call(*args, **kwargs)

        attach(wrapper, limited)
        for name, value in vars(obj).items() if obj is not function else ():
            wrapper.__dict__.setdefault(name, value)  # such as an exemption between the two
        return wrapper  # type: ignore[return-value]

    def resolve(self) -> list[RuntimeLimit]:
        """Return the limits that the current request would be counted against."""
        context = self._context()
        if context is None or context.plan.is_static:
            return []
        limits = self._collect_before(context)
        if context.plan.limited:
            limits += self._limits_of_all(context, context.plan.limited, context.plan.limited)
        return sorted(limits, key=lambda one: one.limit)

    def count_names(self, key: str, scope: str) -> list[str]:
        """Return what names the count of a key: for ``limiter.limiter.clear(item, *names)``."""
        prefix = self._application().key_prefix
        return [prefix, key, scope] if prefix else [key, scope]

    def describe(self) -> list[tuple[str, str]]:
        """Return names and values of the configuration, for people."""
        application = self._application()
        several: dict[str, Sequence[Limit]] = {
            "default limits": application.default_limits,
            "application limits": application.application_limits,
            "meta limits": application.meta_limits,
            "fallback limits": application.fallback_limits,
        }
        return [
            ("enabled", str(self.enabled)),
            ("strategy", type(application.strategy).__name__),
            ("storage", str(application.storage)),
            ("key function", getattr(self.key_func, "__qualname__", repr(self.key_func))),
            ("headers", str(application.headers_enabled)),
            *((name, ", ".join(map(str, limits))) for name, limits in several.items() if limits),
        ]

    def _application(self) -> Application:
        found = self._latest
        if has_app_context():
            found = current_app.extensions.get(self._slot, found)
        if found is None:
            raise RuntimeError("this Limiter has no application yet: call init_app(app)")
        return found


def _awaited(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that waits for an async one, except where an async view awaits it."""

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            if has_request_context():
                return current_app.ensure_sync(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return call

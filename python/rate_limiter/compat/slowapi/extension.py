"""Limiter: the limits of an application, and the decorators of its views."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from email.utils import formatdate, parsedate_to_datetime
from typing import Any, Literal, TypeVar, cast

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rate_limiter.compat.limits import RateLimitItem, WindowStats
from rate_limiter.compat.limits.errors import ConfigurationError, StorageError
from rate_limiter.compat.limits.storage import MemoryStorage, Storage, storage_from_string
from rate_limiter.compat.limits.strategies import STRATEGIES, RateLimiter
from rate_limiter.compat.slowapi.checking import (
    SHOWN,
    Steps,
    logger,
    run,
    run_async,
    state_of,
    steps,
)
from rate_limiter.compat.slowapi.configuration import HEADER_SETTINGS, Settings
from rate_limiter.compat.slowapi.errors import RateLimitExceeded
from rate_limiter.compat.slowapi.views import ViewLimits, limited, marked, name_of, view_limits
from rate_limiter.compat.slowapi.wrappers import Limit, LimitGroup, MalformedText, StrOrCallableStr

View = TypeVar("View", bound=Callable[..., Any])

_COMPLETE = "_rate_limiting_complete"


def _rate_limit_exceeded_handler(request: Request, exc: Exception) -> Response:
    """Answer 429 with the limit as JSON, and the headers if they are enabled.

    Args:
        request: the denied request.
        exc: a RateLimitExceeded; its type here is the one that Starlette has for handlers.
    """
    detail = exc.detail if isinstance(exc, HTTPException) else exc
    response = JSONResponse({"error": f"Rate limit exceeded: {detail}"}, status_code=429)
    limiter: Limiter = request.app.state.limiter
    return limiter._inject_headers(response, state_of(request).get(SHOWN))


class Limiter:
    """Limit the views of a Starlette or FastAPI application.

    Most arguments have a setting in the environment or in a file, named in brackets.

    Args:
        key_func: returns the key of a request.
        default_limits: limits of the views without a limit, if a middleware checks them
            (RATELIMIT_DEFAULT). Texts, or callables that return one.
        application_limits: limits of all views together, if a middleware checks them
            (RATELIMIT_APPLICATION).
        headers_enabled: whether responses have headers (RATELIMIT_HEADERS_ENABLED).
        strategy: ``"fixed-window"``, ``"moving-window"`` or ``"sliding-window-counter"``
            (RATELIMIT_STRATEGY).
        storage_uri: where the counts are, see rate_limiter.compat.limits.storage
            (RATELIMIT_STORAGE_URL).
        storage_options: options of the storage (RATELIMIT_STORAGE_OPTIONS, in JSON).
        auto_check: False leaves the checks to the program, by `limiter.limiter`.
        swallow_errors: whether a request passes when checking it fails
            (RATELIMIT_SWALLOW_ERRORS).
        in_memory_fallback: limits that hold instead of all others while the storage is
            unavailable (RATELIMIT_IN_MEMORY_FALLBACK).
        in_memory_fallback_enabled: whether the same limits hold in memory while the storage is
            unavailable, which is so without `swallow_errors` too
            (RATELIMIT_IN_MEMORY_FALLBACK_ENABLED).
        retry_after: ``"delta-seconds"`` or ``"http-date"`` (RATELIMIT_HEADER_RETRY_AFTER_VALUE).
        key_prefix: first part of all keys (RATELIMIT_KEY_PREFIX).
        enabled: False checks nothing; may be set later (RATELIMIT_ENABLED).
        config_filename: a file of settings; None for ``.env``, if there is one.
        key_style: what a limit without a scope counts: the ``"url"`` or the ``"endpoint"``.

    Raises:
        ConfigurationError: the storage or the strategy is not supported.
        TypeError, ValueError: another argument is wrong; the message names it.
    """

    def __init__(
        self,
        key_func: Callable[..., str],
        default_limits: Iterable[StrOrCallableStr] = (),
        application_limits: Iterable[StrOrCallableStr] = (),
        headers_enabled: bool = False,
        strategy: str | None = None,
        storage_uri: str | None = None,
        storage_options: dict[str, Any] | None = None,
        auto_check: bool = True,
        swallow_errors: bool = False,
        in_memory_fallback: Iterable[StrOrCallableStr] = (),
        in_memory_fallback_enabled: bool = False,
        retry_after: str | None = None,
        key_prefix: str = "",
        enabled: bool = True,
        config_filename: str | None = None,
        key_style: Literal["endpoint", "url"] = "url",
    ) -> None:
        settings = Settings(config_filename)
        self.logger = logger
        self.enabled: bool = settings.flag("RATELIMIT_ENABLED", enabled)
        self._auto_check = auto_check
        self._key_func = key_func
        self._key_style = _one_of("key_style", key_style, "endpoint", "url")
        self._key_prefix = key_prefix or settings.text("RATELIMIT_KEY_PREFIX") or ""
        self._request_filters: list[Callable[[], bool]] = []
        self._set_limits(settings, default_limits, application_limits, in_memory_fallback)
        self._set_headers(settings, headers_enabled, retry_after)
        self._swallow_errors = settings.flag("RATELIMIT_SWALLOW_ERRORS", swallow_errors)
        self._in_memory_fallback_enabled = bool(self._in_memory_fallback) or (
            in_memory_fallback_enabled
            or settings.flag("RATELIMIT_IN_MEMORY_FALLBACK_ENABLED", False)
        )
        self._strategy = strategy or settings.text("RATELIMIT_STRATEGY") or "fixed-window"
        if self._strategy not in STRATEGIES:
            raise ConfigurationError(
                f"Invalid rate limiting strategy {self._strategy!r}: expected one of "
                f"{', '.join(map(repr, STRATEGIES))}"
            )
        self._storage = self._storage_of(settings, storage_uri, storage_options or {})
        self._limiter = STRATEGIES[self._strategy](self._storage)
        self._fallback_limiter = STRATEGIES[self._strategy](MemoryStorage())
        self._check_limits(self._default_limits + self._application_limits)

    def _set_limits(self, settings: Settings, *limits: Iterable[StrOrCallableStr]) -> None:
        names = ("default_limits", "application_limits", "in_memory_fallback")
        for name, given in zip(names, limits, strict=True):
            if isinstance(given, str):
                raise TypeError(f"{name} must be a list of texts and callables, got {given!r}")
            setting = settings.text(f"RATELIMIT_{name.removesuffix('_limits').upper()}")
            texts = list(given) or ([setting] if setting else [])
            scope = "global" if name == "application_limits" else None
            groups = [LimitGroup(text, self._key_func, scope) for text in texts]
            setattr(self, f"_{name}", groups)

    _default_limits: list[LimitGroup]
    _application_limits: list[LimitGroup]
    _in_memory_fallback: list[LimitGroup]

    def _set_headers(self, settings: Settings, enabled: bool, retry_after: str | None) -> None:
        self._headers_enabled = enabled or settings.flag("RATELIMIT_HEADERS_ENABLED", False)
        names = (settings.text(name, default) for name, default in HEADER_SETTINGS.items())
        self._header_names = tuple(cast(str, name).lower().encode("latin-1") for name in names)
        retry_after = retry_after or settings.text("RATELIMIT_HEADER_RETRY_AFTER_VALUE")
        self._retry_after = retry_after and _one_of(
            "retry_after", retry_after, "delta-seconds", "http-date"
        )

    def _storage_of(self, settings: Settings, uri: str | None, options: dict[str, Any]) -> Storage:
        uri = uri or settings.text("RATELIMIT_STORAGE_URL") or "memory://"
        options = {**options, **settings.options("RATELIMIT_STORAGE_OPTIONS")}
        if self._in_memory_fallback:
            if options.setdefault("on_store_error", "raise") != "raise":
                raise ConfigurationError(
                    f"on_store_error={options['on_store_error']!r} has no effect beside "
                    "in_memory_fallback"
                )
        elif self._swallow_errors and not self._in_memory_fallback_enabled:
            options.setdefault("on_store_error", "allow")
        return storage_from_string(uri, **options)

    def _check_limits(self, groups: Iterable[LimitGroup]) -> None:
        """Raise ValueError for limits that are too large for the engine."""
        for group in groups:
            for limit in () if callable(group.limit_provider) else group:
                self._limiter.counter_of(limit.limit)

    @property
    def limiter(self) -> RateLimiter:
        """The strategy, for programs that count by themselves."""
        return self._limiter

    def reset(self) -> None:
        """Forget all counts."""
        self._storage.reset()
        self._fallback_limiter.storage.reset()
        logger.info("Storage has been reset and all limits cleared")

    # --- Decorators --------------------------------------------------------------------------

    def limit(
        self,
        limit_value: StrOrCallableStr,
        key_func: Callable[..., str] | None = None,
        per_method: bool = False,
        methods: Sequence[str] | None = None,
        error_message: StrOrCallableStr | None = None,
        exempt_when: Callable[..., bool] | None = None,
        cost: int | Callable[..., int] = 1,
        override_defaults: bool = True,
    ) -> Callable[[View], View]:
        """Return a decorator that limits a view, sync or async. Decorators add up.

        Args:
            limit_value: a text of one or several limits, or a callable that returns one and may
                take the `key` of the request.
            key_func: instead of that of the limiter.
            per_method: whether each HTTP method is a separate count.
            methods: the HTTP methods that are limited; None for all.
            error_message: the detail of the RateLimitExceeded, a text or a callable.
            exempt_when: returns True for requests that are not limited; may take the request.
            cost: what a request takes, a number or a callable that gets the request.
            override_defaults: whether the default limits do not apply beside this one.

        Raises:
            TypeError, ValueError: an argument is wrong. A malformed text is only logged; the
                default limits apply then.
        """
        return self._decorator(
            limit_value,
            key_func or self._key_func,
            None,
            per_method,
            methods,
            error_message,
            exempt_when,
            cost,
            override_defaults,
        )

    def shared_limit(
        self,
        limit_value: StrOrCallableStr,
        scope: StrOrCallableStr,
        key_func: Callable[..., str] | None = None,
        error_message: StrOrCallableStr | None = None,
        exempt_when: Callable[..., bool] | None = None,
        cost: int | Callable[..., int] = 1,
        override_defaults: bool = True,
    ) -> Callable[[View], View]:
        """Return a decorator for views that count together.

        Args:
            scope: what they count under: a text, or a callable that gets the name of the view.

        The other arguments are those of limit().
        """
        return self._decorator(
            limit_value,
            key_func or self._key_func,
            scope,
            False,
            None,
            error_message,
            exempt_when,
            cost,
            override_defaults,
        )

    def _decorator(self, limit_value: StrOrCallableStr, *options: Any) -> Callable[[View], View]:
        group: LimitGroup | None = None
        failure: ValueError | None = None
        try:
            group = LimitGroup(limit_value, *options)
        except MalformedText as error:
            failure = error
        else:
            self._check_limits([group])

        def decorate(view: View) -> View:
            before = view_limits(self, view)
            limits = before or ViewLimits(name_of(view))
            limits.is_limited = True
            if group is not None:
                limits.groups.append(group)
            else:
                logger.error("Failed to configure throttling for %s (%s)", limits.name, failure)
            if limits.wrapper is view:
                return view
            return cast(View, limited(self, view, limits))

        return decorate

    def exempt(self, obj: View) -> View:
        """Exempt a view from all limits."""
        marked(self, obj).is_exempt = True
        return obj

    # --- Checks ------------------------------------------------------------------------------

    def _should_check(self, request: Request) -> bool:
        """Return whether the limits of the view are still to be checked for a request."""
        done = state_of(request).get(_COMPLETE, ())
        return self._auto_check and done is not True and self not in done

    def _check_request_limit(
        self,
        request: Request,
        endpoint_func: Callable[..., Any] | None,
        in_middleware: bool = True,
    ) -> None:
        """Take from the limits of a request.

        Raises:
            RateLimitExceeded: one of them denies it.
        """
        try:
            run(self._limiter, self._steps(request, endpoint_func, in_middleware))
        except Exception as error:
            self._after_error(request, endpoint_func, in_middleware, error)

    async def _check_async(
        self, request: Request, endpoint_func: Callable[..., Any], in_middleware: bool
    ) -> None:
        """Do what _check_request_limit() does without blocking the event loop."""
        try:
            making = self._steps(request, endpoint_func, in_middleware)
            if self._storage.is_remote:
                await run_async(self._limiter, making)
            else:
                run(self._limiter, making)
        except Exception as error:
            self._after_error(request, endpoint_func, in_middleware, error)

    def _steps(
        self,
        request: Request,
        view: Callable[..., Any] | None,
        in_middleware: bool,
        fallback: bool = False,
    ) -> Steps:
        state = state_of(request)
        state.setdefault(SHOWN, None)
        limits = view_limits(self, view)
        if self._is_free(limits):
            return
        name = limits.name if limits is not None else name_of(view) if view is not None else ""
        # Starlette routes "/login" and a newline to "/login", so they share their buckets.
        path = request.scope["path"].removesuffix("\n")
        endpoint = path if self._key_style == "url" else name
        is_limited = limits is not None and limits.is_limited
        if fallback:
            chosen = [] if in_middleware and is_limited else _all(self._in_memory_fallback, request)
        elif in_middleware:
            chosen = _all(self._application_limits, request)
            chosen += [] if is_limited else _all(self._default_limits, request)
        else:
            chosen = self._view_limits(limits, request)
        limiter = self._fallback_limiter if fallback else self._limiter
        yield from steps(limiter, request, chosen, endpoint, name, self._key_prefix)
        if not in_middleware:
            state[_COMPLETE] = (*state.get(_COMPLETE, ()), self)

    def _is_free(self, limits: ViewLimits | None) -> bool:
        if not self.enabled or (limits is not None and limits.is_exempt):
            return True
        return bool(self._request_filters) and any(each() for each in self._request_filters)

    def _view_limits(self, limits: ViewLimits | None, request: Request) -> list[Limit]:
        """Return the limits of a view, and the default limits if none of them overrides those."""
        chosen: list[Limit] = []
        for group in limits.groups if limits is not None else ():
            try:
                chosen += group.for_request(request)
            except ValueError as error:
                name = limits.name if limits is not None else ""
                logger.error("failed to load ratelimit for view function %s (%s)", name, error)
        if not any(limit.override_defaults for limit in chosen):
            chosen += _all(self._default_limits, request)
        return chosen

    def _after_error(
        self,
        request: Request,
        view: Callable[..., Any] | None,
        in_middleware: bool,
        error: Exception,
    ) -> None:
        """Raise the error of a check, unless the fallback or `swallow_errors` covers it."""
        if isinstance(error, StorageError) and self._in_memory_fallback:
            making = self._steps(request, view, in_middleware, fallback=True)
            run(self._fallback_limiter, making)
        elif self._swallow_errors and not isinstance(error, RateLimitExceeded):
            logger.error("Failed to rate limit. Swallowing error", exc_info=error)
        else:
            raise error

    # --- Headers -----------------------------------------------------------------------------

    def _show(self, request: Request, result: Any, response: Any, arguments: Iterable[Any]) -> None:
        """Set the headers of what a view returned, or of the response that FastAPI gave it."""
        if not self._headers_enabled:
            return
        for one in (result, response, *arguments):
            if isinstance(one, Response):
                self._inject_headers(one, state_of(request).get(SHOWN))
                return

    def _inject_headers(
        self, response: Response, current_limit: tuple[RateLimitItem, list[str]] | None
    ) -> Response:
        """Set the headers of a response for ``request.state.view_rate_limit``; return it.

        Raises:
            TypeError: `response` is no Response, and the headers are enabled.
        """
        if self.enabled and self._headers_enabled and current_limit is not None:
            if not isinstance(response, Response):
                raise TypeError(
                    "parameter `response` must be an instance of starlette.responses.Response"
                )
            self._inject_asgi_headers(response.headers, current_limit)
        return response

    def _inject_asgi_headers(
        self, headers: MutableHeaders, current_limit: tuple[RateLimitItem, list[str]] | None
    ) -> MutableHeaders:
        """Set the headers for ``request.state.view_rate_limit``; return them."""
        if not self.enabled or not self._headers_enabled or current_limit is None:
            return headers
        item, identifiers = current_limit
        stats: WindowStats | None = getattr(current_limit, "stats", None)
        if stats is None:  # made by the program
            stats = self._limiter.get_window_stats(item, *identifiers)
        names = limit, remaining, reset, retry_after = self._header_names
        retry_at = reset_at = 1 + stats.reset_time
        kept = []
        for name, value in headers.raw:
            if name == b"retry-after":
                retry_at = max(retry_at, _retry_time(value.decode("latin-1")))
            if name not in names:
                kept.append((name, value))
        if self._retry_after == "http-date":
            retry_text = formatdate(retry_at, usegmt=True)
        else:
            retry_text = str(int(retry_at - time.time()))
        headers.raw[:] = [
            *kept,
            (limit, b"%d" % item.amount),
            (remaining, b"%d" % stats.remaining),
            (reset, b"%d" % reset_at),
            (retry_after, retry_text.encode("ascii")),
        ]
        return headers


def _all(groups: Iterable[LimitGroup], request: Request) -> list[Limit]:
    return [limit for group in groups for limit in group.for_request(request)]


def _one_of(name: str, value: str, *words: str) -> str:
    if value not in words:
        raise ValueError(f"{name} must be {' or '.join(map(repr, words))}, got {value!r}")
    return value


def _retry_time(value: str) -> float:
    """Return the time of a Retry-After that a response has already; 0 for a wrong one."""
    try:
        return time.time() + int(value)
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError):
        return 0
